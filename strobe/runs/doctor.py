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
from strobe.runs.snapshots import Snapshots, loads_manifest, write_manifest


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
    if _run_json(path) and (kept := directory.kept_facts(path)):
        aside = path / "aside" / f"run.json-{time.time_ns()}"
        aside.parent.mkdir(exist_ok=True)
        (path / "run.json").rename(aside)
        write_manifest(path / "run.json", kept)
        moved.append(f"run.json -> {aside.relative_to(path)}, written anew from the journal")
    bad = [s for s in snapshots.steps() if snapshots.check(s)]
    index = path.glob("index.sqlite*") if any(f.file == "index.sqlite" for f in _derived(path)) else ()
    for place in [*(path / "steps" / str(s) for s in bad), *(path / "steps").glob(".new-*"), *index]:
        target = path / "aside" / f"{place.name.lstrip('.')}-{time.time_ns()}"
        target.parent.mkdir(exist_ok=True)
        place.rename(target)
        moved.append(f"{place.relative_to(path)} -> {target.relative_to(path)}")
    return moved


def _run_json(path: Path) -> list[Finding]:
    directory.describe(path) if not directory.exists(path) else None
    try:
        loads_manifest(path / "run.json")
    except ValueError as e:
        kept = directory.kept_facts(path)
        lost = "nothing: the journal keeps it, --repair writes it anew" if kept else "what ran and how to run it again"
        return [Finding("run.json", None, f"is damaged ({e})", lost)]
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
    files = directory.journals(path)
    out = _gaps(path, files)
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


def _gaps(path: Path, files: list[Path]) -> list[Finding]:
    """Journals that are gone, or shorter than they have been."""
    if not files:
        return [Finding("journal/", None, "there is no journal file", "every recorded number")]
    have = {int(f.stem) for f in files}
    out = [
        Finding(f"journal/{n:06d}.journal", None, "is missing", "what that writer recorded")
        for n in range(1, max(have) + 1)
        if n not in have
    ]
    known = _indexed(path)
    for f in files:
        if f.stat().st_size < known.get(f.name, 0):
            gone = known[f.name] - f.stat().st_size
            out.append(
                Finding(f"journal/{f.name}", None, f"is {gone} bytes shorter than it was", "the records at its end")
            )
    fresh = Index(path, in_memory=True)
    fresh.refresh()
    last, stored = fresh.last_step(), Snapshots(path).steps()
    if stored and stored[-1] > last and not directory.live(path):
        out.append(
            Finding(
                "journal/", last, f"ends at step {last}, states reach step {stored[-1]}", f"records after step {last}"
            )
        )
    return out


def _indexed(path: Path) -> dict[str, int]:
    """How far the index has read each journal; nothing where there is no index, or it is damaged (told elsewhere)."""
    try:
        db = sqlite3.connect(f"{(path / 'index.sqlite').resolve().as_uri()}?mode=ro", uri=True)
        try:
            return dict(db.execute("SELECT name, offset FROM files"))
        finally:
            db.close()
    except sqlite3.Error:
        return {}


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
