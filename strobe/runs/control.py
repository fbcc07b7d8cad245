"""The live control channel: durable commands, polled at step boundaries through one counter. No lock, no socket, no torch.

control/commands.journal   framed JSON commands, appended by anyone who may write the directory (one write each)
control/counter            8 bytes: the length of that file, mapped by the training loop; a change means "read"
"""

import getpass
import json
import mmap
import os
import struct
import time
import uuid
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from zlib import crc32

from strobe.core.errors import BadOption, NotARun, StrobeError
from strobe.runs.journal import JSON, MAGIC, Frame, dumps, read

ACTS = ("pause", "resume", "set", "snapshot", "rewind", "stop")


@dataclass(frozen=True, slots=True)
class Command:
    """What somebody wants of a live run. The same `id` twice is applied once; `expires` is seconds since 1970."""

    act: str
    args: dict[str, Any] = field(default_factory=dict)
    author: str = "human"
    id: str = ""
    not_before: int = 0
    expires: float | None = None


def send(
    run: Path, act: str, *, author: str | None = None, id: str | None = None, not_before: int = 0,
    expires: float | None = None, **args: Any,
) -> Command:  # fmt: skip
    """Append a command for the process that writes `run`; it answers in the run's journal.

    Args: `not_before` is the first step at which it may apply; `expires` a time after which it must not.
    Raises `BadOption` for an unknown act, `NotARun` without a control channel, `StrobeError` on a read-only disk.
    """
    if act not in ACTS:
        raise BadOption(f"there is no command {act!r}; there are {', '.join(ACTS)}")
    channel = run / "control"
    if not channel.is_dir():
        raise NotARun(f"{run} has no control channel: is it a run directory, and was it recorded by this version?")
    command = Command(
        act, args, author or f"human {getpass.getuser()}", id or uuid.uuid4().hex[:12], not_before, expires
    )
    payload = bytes([JSON]) + dumps(asdict(command))
    try:
        fd = os.open(channel / "commands.journal", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.write(fd, struct.pack("<II", len(payload), crc32(payload)) + payload)
            os.fsync(fd)
            size = os.fstat(fd).st_size
        finally:
            os.close(fd)
        with os.fdopen(os.open(channel / "counter", os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW), "r+b") as f:
            f.write(size.to_bytes(8, "little"))
    except OSError as e:
        raise StrobeError(f"the command could not be written to {channel}: {e.strerror}") from e
    return command


class Inbox:
    """The training loop's end of the channel: `changed()` costs a memory read, `fetch()` reads what is new."""

    def __init__(self, run: Path) -> None:
        channel = run / "control"
        channel.mkdir(exist_ok=True)
        self.path = channel / "commands.journal"
        for path, first in ((self.path, MAGIC), (channel / "counter", len(MAGIC).to_bytes(8, "little"))):
            if not path.exists():
                path.write_bytes(first)
                path.chmod(0o600)
        with (channel / "counter").open("r+b") as f:
            self._map = mmap.mmap(f.fileno(), 8)
        self.counter = memoryview(self._map).cast("Q")
        self.seen = self.counter[0]
        self._offset, self._ids = len(MAGIC), set[str]()
        self._waiting: list[Command] = []
        self.earlier = self._read()  # sent before this process listened

    def changed(self) -> bool:
        """Has anything been sent since the last fetch? (One 8-byte read.)"""
        return bool(self.counter[0] != self.seen)

    def fetch(self, step: int) -> list[Command]:
        """New commands that are due at `step`, in the order they were sent; expired ones come too (the caller refuses)."""
        self.seen = self.counter[0]
        self._waiting += self._read()
        due = [c for c in self._waiting if c.not_before <= step or expired(c)]
        self._waiting = [c for c in self._waiting if c not in due]
        return due

    def _read(self) -> list[Command]:
        new = []
        for item in read(self.path, self._offset):
            if isinstance(item, Frame):
                self._offset = item.end
                try:
                    command = Command(**json.loads(item.body))
                except (TypeError, ValueError):  # not written by `send`: it has no id to answer
                    continue
                if command.id not in self._ids:
                    self._ids.add(command.id)
                    new.append(command)
        return new

    def take(self, step: int) -> Command | None:
        """The next command that is due at `step`; the others wait, so that none is lost between pause and resume."""
        due = self.fetch(step)
        self._waiting = due[1:] + self._waiting
        return due[0] if due else None

    def next_due(self) -> int | None:
        """The first step at which a waiting command may apply, or be refused because it has expired."""
        return min((0 if expired(c) else c.not_before for c in self._waiting), default=None)

    def close(self) -> None:
        """Unmap the counter."""
        self.counter.release()
        self._map.close()


def expired(command: Command) -> bool:
    """Is it too late for this command?"""
    return command.expires is not None and time.time() > command.expires
