"""Find every damaged byte of a run and say which step it touches; `repair` moves damage aside and deletes nothing."""

import hashlib
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path

from strobe.core.errors import Damaged, StrobeError
from strobe.runs import directory
from strobe.runs.index import Index
from strobe.runs.journal import Frame, Tear, loads, read
from strobe.runs.snapshots import Snapshots, loads_manifest


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be. `step` is the step it touches, None for the whole run."""

    file: str
    step: int | None
    what: str
    lost: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}; lost: {self.lost}"


def examine(path: Path) -> list[Finding]:
    """Read every byte of a run. Raises `RunNotFound` or `NotARun`; damage is a finding, not an error."""
    return [*_run_json(path), *_source(path), *_journals(path), *_snapshots(path), *_derived(path), *_leftovers(path)]


def repair(path: Path) -> list[str]:
    """Move damaged snapshots and half-written leftovers to `aside/`; returns what was moved. Refuses a live run."""
    if directory.live(path):
        raise StrobeError(f"{path} is being written; stop the run before repairing it")
    moved = []
    snapshots = Snapshots(path)
    bad = [s for s in snapshots.steps() if snapshots.check(s)]
    index = path.glob("index.sqlite*") if any(f.file == "index.sqlite" for f in _derived(path)) else ()
    for place in [*(path / "steps" / str(s) for s in bad), *(path / "steps").glob(".new-*"), *index]:
        target = path / "aside" / f"{place.name.lstrip('.')}-{time.time_ns()}"
        target.parent.mkdir(exist_ok=True)
        place.rename(target)
        moved.append(f"{place.relative_to(path)} -> {target.relative_to(path)}")
    return moved


def _run_json(path: Path) -> list[Finding]:
    try:
        directory.describe(path)
    except Damaged as e:
        return [Finding("run.json", None, str(e), "what ran and how to run it again; numbers and states are readable")]
    return []


def _source(path: Path) -> list[Finding]:
    try:
        hashes = directory.describe(path)["source"]
    except Damaged:
        return []
    out = []
    for name, want in hashes.items():
        file = path / "source" / name
        if not file.exists():
            out.append(Finding(f"source/{name}", None, "is missing", "this text of the code that ran"))
        elif hashlib.sha256(file.read_bytes()).hexdigest() != want:
            out.append(Finding(f"source/{name}", None, "is not the text that ran", "this text of the code that ran"))
    return out


def _journals(path: Path) -> list[Finding]:
    out, files = [], directory.journals(path)
    if not files:
        out.append(Finding("journal/", None, "there is no journal file", "every recorded number"))
    for file in files:
        step: int | None = None
        open_tears: list[Tear] = []
        for item in read(file):
            if isinstance(item, Tear):
                open_tears.append(item)
                continue
            now = _step(item)
            out += [_torn(file, t, step, now) for t in open_tears]
            open_tears = []
            step = now if now is not None else step
        live_tail = directory.live(path) and file == files[-1]
        out += [_torn(file, t, step, None) for t in open_tears if not (t.last and live_tail)]
    return out


def _torn(file: Path, tear: Tear, before: int | None, after: int | None) -> Finding:
    where = f"after step {before}" if before is not None else "at the start"
    where += f" and before step {after}" if after is not None else ""
    lost = f"{tear.lost} bytes of records {where}"
    return Finding(
        f"journal/{file.name}", before if before is not None else after, f"{tear.why} at byte {tear.offset}", lost
    )


def _step(frame: Frame) -> int | None:
    if frame.kind == 2:
        return int.from_bytes(frame.body[2:10], "little")
    if frame.kind == 1:
        step = loads(frame.body).get("step")
        return int(step) if step is not None else None
    return None


def _snapshots(path: Path) -> list[Finding]:
    snapshots = Snapshots(path)
    return [
        Finding(f"steps/{step}", step, problem, f"the stored state of step {step} (it can be replayed)")
        for step in snapshots.steps()
        for problem in snapshots.check(step)
    ]


def _derived(path: Path) -> list[Finding]:
    """The index against one made anew, and the checksums of later readings: a reader believes both."""
    out = []
    for file in sorted((path / "readings").glob("*.json")):
        try:
            loads_manifest(file)
        except ValueError as e:
            out.append(Finding(f"readings/{file.name}", None, f"is damaged ({e})", "nothing: it is measured again"))
    whole = not directory.live(path) and not _journals(path)  # of a damaged journal the index may hold what is lost
    if whole and (path / "index.sqlite").exists():
        try:
            kept, anew = Index(path), Index(path, in_memory=True)
            kept.refresh()
            anew.refresh()
            same = kept.content() == anew.content()
        except (sqlite3.Error, ValueError):
            same = False
        if not same:
            lost = "nothing: --repair moves it aside and the next reader makes it anew"
            out.append(Finding("index.sqlite", None, "is not what the journals say", lost))
    return out


def _leftovers(path: Path) -> list[Finding]:
    if directory.live(path):
        return []
    found = sorted((path / "steps").glob(".new-*"))
    return [
        Finding(f"steps/{p.name}", None, "a snapshot that was not finished", "nothing that was listed") for p in found
    ]
