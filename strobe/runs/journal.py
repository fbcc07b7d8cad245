"""The journal: one append-only framed file per writer; a record is whole or absent. No torch.

    file   = MAGIC (8 bytes) frame*
    frame  = length u32 | crc32(payload) u32 | payload                    (little-endian)
    payload = kind u8 | body
      kind 1  JSON      body = UTF-8 JSON object                          (header, event, define, reading)
      kind 2  scalars   body = layout u16 | step u64 | time f64 | f64 * n (names by an earlier "define" record, which is there twice)
      kind 3  array     body = u32 header length | JSON header | raw bytes

A frame goes to the file in one `write()`, which survives the death of the process; `sync()` makes it survive the
death of the machine. A tear (a half-written or damaged frame) ends what can be read of that file: a writer never
appends behind one, it starts a new file.
"""

import contextlib
import errno
import json
import os
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import numpy as np

MAGIC = b"STROBE\x00\x01"  # the last byte is the format version
JSON, SCALARS, ARRAY = 1, 2, 3
MAX_FRAME = 1 << 30
WINDOW = 8 << 20  # bytes of a journal in memory while it is read
_HEAD = struct.Struct("<II")


class Frame(NamedTuple):
    """One payload and the offset of the byte after it."""

    kind: int
    body: bytes
    end: int


@dataclass(frozen=True, slots=True)
class Tear:
    """Where a journal stops being readable, and why."""

    path: Path
    offset: int
    lost: int
    why: str
    last: bool = False

    def __str__(self) -> str:
        return f"{self.path.name}: {self.why} at byte {self.offset}; {self.lost} bytes are not readable"


class Journal:
    """Appends frames to one new file. A full or failing disk never raises out of `append`: the frame waits in memory.

    After a failed write the file is cut back to its last whole frame; waiting frames (up to `buffer` bytes, then the
    oldest scalars are dropped and counted in `dropped`) are written when the disk takes them again.
    """

    def __init__(self, path: Path, *, buffer: int = 64 << 20) -> None:
        self.path, self.buffer = path, buffer
        self.fd = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self.size = 0
        self.waiting: list[bytes] = []
        self.held = self.dropped = 0
        self.error: OSError | None = None
        self._retry = 0.0
        self.dirty = False
        self.on_error: Callable[[], None] = lambda: None
        self._write(MAGIC)

    def append(self, payload: bytes) -> None:
        """Add one record."""
        self._write(_HEAD.pack(len(payload), crc32(payload)) + payload)

    def json(self, record: dict[str, Any]) -> None:
        """Add one JSON record; NaN and infinities are written as strings, so that the file stays plain JSON."""
        self.append(b"\x01" + dumps(record))

    def array(self, header: dict[str, Any], *arrays: np.ndarray) -> None:
        """Add one record of plain arrays with a JSON header."""
        head = dumps({**header, "arrays": [[a.dtype.str, list(a.shape)] for a in arrays]})
        self.append(
            b"\x03" + struct.pack("<I", len(head)) + head + b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)
        )

    def _write(self, data: bytes) -> None:
        if self.waiting:
            self._hold(data)
            if time.monotonic() >= self._retry:
                self.drain()
            return
        try:
            n = os.write(self.fd, data)
        except OSError as e:
            self._failed(e, data)
            return
        if n == len(data):
            self.size += n
            self.dirty = True
        else:  # a short write: the disk is full
            self._failed(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), data)

    def _failed(self, error: OSError, data: bytes) -> None:
        self.error = error
        with contextlib.suppress(OSError):
            os.ftruncate(self.fd, self.size)
        self._retry = time.monotonic() + 0.25
        self._hold(data)
        self.on_error()

    def _hold(self, data: bytes) -> None:
        self.waiting.append(data)
        self.held += len(data)
        while self.held > self.buffer and len(self.waiting) > 1:
            self.held -= len(self.waiting.pop(0))
            self.dropped += 1

    def drain(self) -> bool:
        """Try to write what waits; True when nothing waits any more."""
        waiting, self.waiting, self.held = self.waiting, [], 0
        for i, data in enumerate(waiting):
            self._write(data)
            if self.waiting:  # failed again: keep the rest in order
                self.waiting += waiting[i + 1 :]
                self.held = sum(map(len, self.waiting))
                return False
        self.error = None
        return True

    def sync(self) -> None:
        """Make what was written survive a power loss."""
        if self.dirty:
            self.dirty = False
            os.fdatasync(self.fd) if hasattr(os, "fdatasync") else os.fsync(self.fd)

    def close(self) -> None:
        """Write what still waits, sync, close."""
        with contextlib.suppress(OSError):
            if self.waiting:
                self.drain()
            self.sync()
        self.forget()

    def forget(self) -> None:
        """Let go of the file: what is appended from here on is not written, for the number may be another file's soon."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def read(path: Path, offset: int = 0) -> Iterator[Frame | Tear]:
    """Whole frames from `offset` on, a window at a time. Damage is a `Tear`; reading goes on at the next whole frame behind it.

    A tear with `last` set ends the file: the tail that a killed writer left, or a live writer has not finished.
    """
    with path.open("rb") as f:
        magic = f.read(len(MAGIC)) if offset == 0 else MAGIC
        if magic and magic != MAGIC:
            yield Tear(path, 0, len(MAGIC), f"a header other than that of format {MAGIC[-1]}")
        base, at = f.seek(max(offset, len(MAGIC))), 0
        data = f.read(WINDOW)
        while data:
            if end := _whole(data, at):
                yield Frame(data[at + _HEAD.size], data[at + _HEAD.size + 1 : end], base + end)
                at = end
                continue
            rest = f.read(max(WINDOW, len(data) - at))  # twice as far each time: damage is searched to the end
            data, base, at = data[at:] + rest, base + at, 0
            if rest or not data:  # a frame that the window cut
                continue
            after, done = _next_whole(data, 1)
            why = "bytes that match no checksum" if after or not done else "a frame cut short"
            yield Tear(path, base, after or len(data), why, last=after is None and done)
            if after is None:
                return
            at = after


def _next_whole(data: bytes, at: int) -> tuple[int | None, bool]:
    """Where the next whole frame begins, and whether all was searched: bytes made to be slow to search end the search.

    A frame's kind and a possible length are looked for first, a block at a time; only there a checksum is computed.
    """
    budget = 64_000_000 + 4 * len(data)  # bytes of checksums
    for start in range(at, len(data) - _HEAD.size, 1 << 20):
        block = np.frombuffer(data, np.uint8, min((1 << 20) + _HEAD.size, len(data) - start), start)
        n = len(block) - _HEAD.size
        length = np.zeros(n, np.uint64)
        for i in range(4):
            length |= block[i : i + n].astype(np.uint64) << np.uint64(8 * i)
        room = np.arange(len(data) - start - _HEAD.size, len(data) - start - _HEAD.size - n, -1).clip(0, MAX_FRAME)
        fits = (length > 0) & (length <= room.astype(np.uint64)) & np.isin(block[_HEAD.size :], (JSON, SCALARS, ARRAY))
        for i in np.flatnonzero(fits).tolist():
            if _whole(data, start + i):
                return start + i, True
            budget -= int(length[i])
            if budget < 0:
                return None, False
    return None, True


def _whole(data: bytes, at: int) -> int:
    """The end of the whole frame at `at`, or 0."""
    if at + _HEAD.size >= len(data):
        return 0
    length, crc = _HEAD.unpack_from(data, at)
    end = at + _HEAD.size + length
    if not 0 < length <= MAX_FRAME or end > len(data) or data[at + _HEAD.size] not in (JSON, SCALARS, ARRAY):
        return 0
    return end if crc32(memoryview(data)[at + _HEAD.size : end]) == crc else 0


def unpack_scalars(body: bytes) -> tuple[int, int, float, np.ndarray]:
    """(layout, step, time, values) of a scalars record."""
    layout, step, when = struct.unpack_from("<HQd", body)
    return layout, step, when, np.frombuffer(body, "<f8", offset=18)


def unpack_array(body: bytes) -> tuple[dict[str, Any], list[np.ndarray]]:
    """(header, arrays) of an array record."""
    n = struct.unpack_from("<I", body)[0]
    header, offset, arrays = json.loads(body[4 : 4 + n]), 4 + n, []
    for dtype, shape in header.pop("arrays"):
        count = int(np.prod(shape, dtype=np.int64))
        arrays.append(np.frombuffer(body, dtype, count, offset).reshape(shape))
        offset += arrays[-1].nbytes
    return header, arrays


def dumps(record: Any) -> bytes:
    """Strict JSON: NaN and infinities as {"$float": "nan"}, numpy scalars and arrays as numbers and lists."""
    try:
        return json.dumps(record, allow_nan=False, separators=(",", ":"), default=plain).encode()
    except ValueError:
        return json.dumps(_finite(record), allow_nan=False, separators=(",", ":")).encode()


def loads(data: bytes | str) -> Any:
    """The inverse of `dumps`."""
    return json.loads(data, object_hook=lambda d: float(d["$float"]) if d.keys() == {"$float"} else d)


def plain(x: Any) -> Any:
    """numpy scalars and arrays, tensors, paths and sets as JSON values; raises `TypeError` for the rest."""
    if hasattr(x, "tolist"):
        return x.tolist()
    if isinstance(x, Path):
        return str(x)
    if isinstance(x, set | frozenset):
        return sorted(x)
    raise TypeError(f"a {type(x).__name__} is not plain JSON")


def _finite(x: Any) -> Any:
    if isinstance(x, dict):
        return {k: _finite(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [_finite(v) for v in x]
    if isinstance(x, float):
        return x if np.isfinite(x) else {"$float": repr(x)}
    return x if x is None or isinstance(x, str | int | bool) else _finite(plain(x))
