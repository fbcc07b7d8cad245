"""Snapshots on disk: a JSON manifest and a safetensors pack per step; whole tensors are stored once.

    steps/<n>/manifest.json       the state's skeleton; for each tensor its hash, dtype, shape and where its bytes lie
    steps/<n>/tensors.safetensors the tensors that no earlier pack of this run already held

A snapshot is written beside (`steps/.new-*`), synced, renamed, and the directory synced: listed means whole. Tensors
are addressed by the xxh3-128 of their dtype, shape and bytes: it names bytes and finds damage; it is no defence
against a forger. This file needs torch only to save and load; listing and checking do not import it.
"""

import contextlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from strobe.core.errors import Damaged, StepNotFound
from strobe.runs.journal import dumps
from strobe.runs.packs import content_hash, place, read_tensor, write_pack

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Manifest:
    """What one snapshot holds. `tensors[name]` = {hash, dtype, shape, pack (step), begin, bytes}."""

    step: int
    time: float
    state: dict[str, Any]
    tensors: dict[str, dict[str, Any]]
    pack: dict[str, Any]
    extra: dict[str, Any]


class Snapshots:
    """The snapshots of one run directory."""

    def __init__(self, run: Path) -> None:
        self.root = run / "steps"
        self._known: dict[str, tuple[int, int]] | None = None
        self._needs: dict[int, set[int]] = {}

    def steps(self) -> list[int]:
        """The listed steps, ascending. Listed means written whole and synced."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self.root) as entries:
            names = [int(e.name) for e in entries if e.name.isdigit()]
            return sorted(n for n in names if (self.root / str(n) / "manifest.json").exists())
        return []

    def manifest(self, step: int) -> Manifest:
        """Read and check one manifest. Raises `StepNotFound` or `Damaged`."""
        path = self.root / str(step) / "manifest.json"
        try:
            body = loads_manifest(path)
            return Manifest(**{k: body[k] for k in Manifest.__dataclass_fields__})
        except FileNotFoundError as e:
            raise StepNotFound(f"no snapshot of step {step} in {self.root}; stored steps: {brief(self.steps())}") from e
        except (ValueError, KeyError, TypeError) as e:
            raise Damaged(f"step {step}: {path} is damaged ({e}); other steps are not affected") from e

    def save(self, step: int, state: dict[str, Any], extra: dict[str, Any] | None = None) -> int:
        """Write the snapshot of `step`; returns the bytes written to its pack. Raises `OSError`, leaving nothing behind."""
        from strobe.runs.tree import flatten

        skeleton, tensors = flatten(state, "state")
        known = self._table()
        older = {h: at for h, at in known.items() if at[0] != step}  # a pack that is written anew holds all it needs
        entries, fresh = place(tensors, older, step)
        beside = self.root / f".new-{step}-{os.getpid()}"
        try:
            beside.mkdir(parents=True)
            pack = write_pack(beside / "tensors.safetensors", fresh, entries, step)
            body = {
                "format": FORMAT,
                "step": step,
                "time": time.time(),
                "state": skeleton,
                "tensors": entries,
                "pack": pack,
            }
            write_manifest(beside / "manifest.json", {**body, "extra": extra or {}})
            self._publish(beside, step)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
        known.update({e["hash"]: (e["pack"], e["begin"]) for e in entries.values()})
        self._needs[step] = {e["pack"] for e in entries.values()}
        return int(pack["bytes"])

    def load(self, step: int) -> tuple[dict[str, Any], Manifest]:
        """The state of `step`, every tensor checked against its hash. Raises `StepNotFound` or `Damaged`."""
        from strobe.runs.tree import unflatten

        m = self.manifest(step)
        with contextlib.ExitStack() as stack:
            files: dict[int, Any] = {}
            tensors: dict[str, Tensor] = {}
            for name, e in m.tensors.items():
                try:
                    if e["pack"] not in files:
                        files[e["pack"]] = stack.enter_context(self._pack(e["pack"]).open("rb"))
                    tensors[name] = read_tensor(files[e["pack"]], e)
                except (OSError, ValueError) as err:
                    raise Damaged(f"step {step}: tensor {name!r} in {self._pack(e['pack'])} {err}") from err
        if self._known is None:  # these bytes were just checked; those of a newer, damaged snapshot were not
            self._known = {e["hash"]: (e["pack"], e["begin"]) for e in m.tensors.values()}
        return unflatten(m.state, tensors), m

    def drop(self, step: int) -> None:
        """Unlist a snapshot; its pack stays as long as another listed snapshot needs it."""
        (self.root / str(step) / "manifest.json").unlink(missing_ok=True)
        self._needs.pop(step, None)
        try:
            needed = set().union(*map(self._needed, self.steps()))
        except Damaged:  # what a damaged manifest needs is not known: no bytes go
            return
        for d in [p for p in self.root.iterdir() if p.name.isdigit()]:
            if int(d.name) not in needed and not (d / "manifest.json").exists():
                shutil.rmtree(d, ignore_errors=True)
                self._known = {h: at for h, at in (self._known or {}).items() if at[0] != int(d.name)}

    def _needed(self, step: int) -> set[int]:
        """The steps whose packs this snapshot reads from."""
        if step not in self._needs:
            self._needs[step] = {e["pack"] for e in self.manifest(step).tensors.values()}
        return self._needs[step]

    def check(self, step: int) -> list[str]:
        """Every problem of one snapshot, in words; empty when every byte is as it was written."""
        try:
            m = self.manifest(step)
        except Damaged as damage:
            return [str(damage)]
        problems = list(self._check_pack(m))
        for name, e in m.tensors.items():
            path = self._pack(e["pack"])
            try:
                with path.open("rb") as f:
                    f.seek(e["begin"])
                    data = f.read(e["bytes"])
                if len(data) < e["bytes"]:
                    problems.append(f"step {step}: {path} is cut short before tensor {name!r}")
                elif content_hash(e["dtype"], e["shape"], data) != e["hash"]:
                    problems.append(f"step {step}: tensor {name!r} in {path} does not match its hash")
            except OSError as err:
                problems.append(f"step {step}: tensor {name!r}: {path} cannot be read ({err.strerror})")
        return problems

    def _check_pack(self, m: Manifest) -> Iterator[str]:
        path = self._pack(m.step)
        try:
            with path.open("rb") as f:
                header = f.read(m.pack["header"])
            if path.stat().st_size != m.pack["bytes"]:
                yield f"step {m.step}: {path} has {path.stat().st_size} bytes, {m.pack['bytes']} were written"
            if xxhash.xxh3_128_hexdigest(header) != m.pack["hash"]:
                yield f"step {m.step}: the header of {path} does not match its hash"
        except OSError as err:
            yield f"step {m.step}: {path} cannot be read ({err.strerror})"

    def _pack(self, step: int) -> Path:
        return self.root / str(step) / "tensors.safetensors"

    def _table(self) -> dict[str, tuple[int, int]]:
        """Hashes already on disk: those of the newest readable snapshot (older packs reach it through its entries)."""
        if self._known is None:
            self._known = {}
            for step in reversed(self.steps()):
                with contextlib.suppress(Damaged):
                    self._known = {e["hash"]: (e["pack"], e["begin"]) for e in self.manifest(step).tensors.values()}
                    break
        return self._known

    def _publish(self, beside: Path, step: int) -> None:
        final = self.root / str(step)
        sync_dir(beside)
        if final.exists():  # an overlap after resuming from an older step: the old one is moved aside, not deleted
            aside = self.root.parent / "aside" / f"step-{step}-{time.time_ns()}"
            if any(step in self._needed(s) for s in self.steps() if s != step):
                raise FileExistsError(
                    17, f"step {step} is stored already and later snapshots share its tensors", str(final)
                )
            aside.parent.mkdir(exist_ok=True)
            final.rename(aside)
        beside.rename(final)
        sync_dir(self.root)


def brief(steps: list[int]) -> str:
    """A few numbers that stand for a list of steps."""
    return "none" if not steps else ", ".join(map(str, steps if len(steps) <= 8 else [*steps[:4], "...", *steps[-3:]]))


def sync_dir(path: Path) -> None:
    """Make a rename inside this directory survive a power loss."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def loads_manifest(path: Path) -> dict[str, Any]:
    """Parse a JSON file that carries the checksum of its own other fields; `ValueError` when it does not match."""
    body = json.loads(path.read_bytes())
    if not isinstance(body, dict) or body.pop("checksum", None) != xxhash.xxh3_128_hexdigest(_canonical(body)):
        raise ValueError("the checksum does not match")
    if body.get("format") != FORMAT:
        raise ValueError(f"format {body.get('format')}, this Strobe reads {FORMAT}")
    return body


def _canonical(body: dict[str, Any]) -> bytes:
    return json.dumps(body, separators=(",", ":"), sort_keys=True).encode()


def write_manifest(path: Path, body: dict[str, Any]) -> None:
    """Write a JSON file with the checksum of its other fields, and sync it."""
    body = json.loads(dumps(body))
    body["checksum"] = xxhash.xxh3_128_hexdigest(_canonical(body))
    with path.open("wb") as f:
        f.write(json.dumps(body, separators=(",", ":")).encode())
        f.flush()
        os.fsync(f.fileno())
