"""The bytes of tensors: hashes, and packs (safetensors files) of those that are not stored yet."""

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

if TYPE_CHECKING:
    from torch import Tensor

_CHUNK = 4 << 20  # bytes written between two hints to the disk
_SAFE = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "int64": "I64", "int32": "I32",
    "int16": "I16", "int8": "I8", "uint8": "U8", "bool": "BOOL", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "uint16": "U16", "uint32": "U32", "uint64": "U64",
}  # fmt: skip


def content_hash(dtype: str, shape: list[int], data: Any) -> str:
    """xxh3-128 of a tensor's bytes, seeded by its dtype and shape."""
    return xxhash.xxh3_128_hexdigest(data, seed=xxhash.xxh32_intdigest(f"{dtype}{list(shape)}".encode()))


def raw(t: "Tensor") -> memoryview:
    """The bytes of a tensor on the CPU (copied only if it lives elsewhere or is not contiguous)."""
    import torch

    from strobe.core.errors import NotPlain

    if t.layout != torch.strided or t.is_quantized:
        raise NotPlain(f"a {t.layout} tensor has no plain bytes; hand over its dense parts")
    t = t.resolve_conj().resolve_neg().detach().cpu().contiguous()
    return memoryview(t.reshape(-1).view(torch.uint8).numpy().data) if t.numel() else memoryview(b"")


def fingerprint(t: "Tensor") -> int:
    """xxh3-64 of a tensor's bytes: what a replay compares between stored snapshots."""
    return xxhash.xxh3_64_intdigest(raw(t))


def place(tensors: dict[str, Any], known: dict[str, tuple[int, int]], step: int) -> tuple[dict[str, Any], list[Any]]:
    """Manifest entries for all tensors; the bytes of those that no pack holds yet, widest type first (alignment)."""
    entries: dict[str, Any] = {}
    fresh: dict[str, tuple[str, memoryview, Any]] = {}
    for name, t in tensors.items():
        data, dtype, shape = raw(t), str(t.dtype).removeprefix("torch."), list(t.shape)
        h = content_hash(dtype, shape, data)
        entries[name] = {"hash": h, "dtype": dtype, "shape": shape, "bytes": len(data)}
        if h in known:
            entries[name]["pack"], entries[name]["begin"] = known[h]
        elif h not in fresh:
            fresh[h] = (name, data, t)
    order = sorted(fresh.items(), key=lambda item: -item[1][2].element_size())
    return entries, [(h, *rest) for h, rest in order]


def write_pack(path: Path, fresh: list[Any], entries: dict[str, Any], step: int) -> dict[str, Any]:
    """Write a safetensors file and sync it; returns its size, and the size and hash of its header."""
    header: dict[str, Any] = {"__metadata__": {"written_by": "strobe", "step": str(step)}}
    at, begins = 0, {}
    for h, name, data, t in fresh:
        safe = _SAFE.get(str(t.dtype).removeprefix("torch."))
        header[name] = {
            "dtype": safe or "U8",
            "shape": list(t.shape) if safe else [len(data)],
            "data_offsets": [at, at + len(data)],
        }
        begins[h] = at
        at += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    head = len(text).to_bytes(8, "little") + text
    for e in entries.values():
        if "pack" not in e:
            e["pack"], e["begin"] = step, begins[e["hash"]] + len(head)
    with path.open("wb", buffering=0) as f:
        _reserve(f.fileno(), len(head) + at)
        for piece in (head, *(data for _, _, data, _ in fresh)):
            view = memoryview(piece)
            while len(view):
                n = f.write(view[:_CHUNK])
                _begin_writeback(f.fileno(), f.tell() - n, n)
                view = view[n:]
        os.fsync(f.fileno())
    return {"bytes": len(head) + at, "header": len(head), "hash": xxhash.xxh3_128_hexdigest(head)}


def _reserve(fd: int, size: int) -> None:
    """Allocate the file in one piece: a full disk is found before the first byte, and the sync has less to write."""
    if hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(fd, 0, size)
        except OSError as e:
            if e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise


def _begin_writeback(fd: int, offset: int, n: int) -> None:
    """Let the disk begin on these bytes while the next are copied: the sync at the end then finds little left to do."""
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):
            os.posix_fadvise(fd, offset, n, os.POSIX_FADV_DONTNEED)


def read_tensor(f: Any, e: dict[str, Any]) -> "Tensor":
    """One tensor by its manifest entry; `ValueError` when its bytes are cut short or do not match their hash."""
    import torch

    buffer = torch.empty(e["bytes"], dtype=torch.uint8)
    f.seek(e["begin"])
    view = memoryview(buffer.numpy().data) if e["bytes"] else memoryview(bytearray())
    if e["bytes"] and f.readinto(view) != e["bytes"]:
        raise ValueError("is cut short")
    if content_hash(e["dtype"], e["shape"], view) != e["hash"]:
        raise ValueError("does not match its hash")
    return buffer.view(getattr(torch, e["dtype"])).reshape(e["shape"])
