"""Run a recorded loop again: to any step, against the record, or away from it as a branch."""

import contextlib
import copy
import os
import runpy
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from strobe.core.catalogue import load
from strobe.core.errors import BadOption, CannotReplay, Damaged, NotReproduced, StrobeError
from strobe.runs import directory
from strobe.runs.drive import Drive, ReachedStep, driving
from strobe.runs.levers import parse_edit, stays
from strobe.runs.provenance import changed_source, changed_surroundings
from strobe.runs.state import capture
from strobe.runs.witness import Witness

if TYPE_CHECKING:
    from strobe.runs.recorder import Recorder
    from strobe.runs.run import Run


@dataclass
class Replay:
    """What a replay found. `ok` means: every bit that the run kept as evidence on the way was met again."""

    run: "Run"
    start: int
    to: int
    recorder: "Recorder"
    checked: dict[str, int] = field(default_factory=lambda: {"scalars": 0, "fingerprints": 0, "tensors": 0})
    first: str = ""
    differences: list[str] = field(default_factory=list)
    surroundings: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Bit-equal wherever there was evidence, and there was some."""
        return not self.differences and any(self.checked.values())

    def __str__(self) -> str:
        seen = ", ".join(f"{v} {k}" for k, v in self.checked.items())
        head = f"{self.run.name}: replayed steps {self.start} to {self.to}; compared {seen}"
        if self.ok:
            return f"{head}: every bit equal"
        if not self.differences:
            return f"{head}: nothing was recorded there to compare with"
        because = "".join(f"\n  it may be because of {s}" for s in self.surroundings) or (
            "\n  surroundings and source are as recorded, so the loop itself is not deterministic "
            "(unseeded randomness, data that change, threads that race)"
        )
        return (
            f"{head}: NOT equal. First difference: {self.first}"
            + "".join(f"\n  {d}" for d in self.differences[:12])
            + because
        )


def replay(run: "Run", to: int, *, verify: bool = False) -> Replay:
    """Run the loop again to step `to`, from the nearest stored state before it.

    With `verify`, starts strictly before `to` where it can, goes on to the next stored evidence at or after `to`, and
    compares every recorded scalar, fingerprint and stored tensor on the way. Raises `CannotReplay` or `StepNotFound`.
    """
    run, to = type(run)(run.path.resolve()), run.check_step(to)  # the loop may run in another directory
    starts = (
        [s for s in run.stored() if s <= to] if run.cursor != "none" else [s for s in run.stored() if s == run.start]
    )
    if run.cursor == "none" and run.start != 0:
        starts = []
    if to in run.stored() and not verify:
        starts = [to]
    if verify and len(starts) > 1 and starts[-1] == to:
        starts = starts[:-1]
    if not starts:
        raise CannotReplay(
            f"{run.name}: no stored state to start from before step {to}"
            + (
                "; its loop draws its own batches, so it can only be replayed from step 0"
                if run.cursor == "none"
                else ""
            )
        )
    start, state = _nearest_whole(run, starts)
    witness = Witness(run, start, run.last, verify=verify)
    stop = to
    if verify:
        stop = next((s for s in witness.evidence if s >= to), to)
    drive = Drive(
        "replay", _named(run), start, stop, state, applied_after(run, start), run.facts["edits"], witness=witness,
        beside=_beside(run),
    )  # fmt: skip
    with _threads(run):
        with driving(drive):
            _go(run, drive, {})
        changed = changed_surroundings(run.facts["surroundings"])
    if drive.recorder is None:
        raise CannotReplay(f"{run.name}: its entry ran, but opened no recorder at {_named(run)}")
    if drive.recorder.n < stop:
        raise NotReproduced(
            f"{run.name}: the loop ended at step {drive.recorder.n}, before step {stop}, which the run reached"
        )
    witness.finish(start, stop)
    found = sorted(witness.found)
    surroundings = [*changed, *changed_source(run.path, run.facts["source"])]
    return Replay(
        run,
        start,
        stop,
        drive.recorder,
        witness.checked,
        found[0][1] if found else "",
        [f for _, f in found],
        surroundings,
    )


def _nearest_whole(run: "Run", starts: list[int]) -> tuple[int, dict[str, Any]]:
    """The last of these stored states that is whole: a damaged one costs a longer replay, not the steps behind it."""
    for step in reversed(starts[1:]):
        with contextlib.suppress(Damaged):
            return step, run.snapshots.load(step)[0]
    return starts[0], run.snapshots.load(starts[0])[0]


def state_at(run: "Run", step: int) -> dict[str, Any]:
    """The full state at a step the run reaches."""
    if step in run.stored():
        return run.snapshots.load(step)[0]
    return copy.deepcopy(capture(replay(run, step).recorder.objects))


def fork(
    run: "Run",
    step: int,
    edits: list[Any],
    *,
    until: int | None,
    out: Path | None,
    options: dict[str, Any],
    progress: Callable[[int], None] | None = None,
    author: str = "fork",
) -> "Run":
    """What `Run.fork` does."""
    from strobe.runs.run import Run

    functions: dict[int, Any] = {}
    plain = [parse_edit(e, functions) for e in edits]
    if run.cursor == "none" and step != 0:
        raise CannotReplay(
            f"{run.name}: its loop draws its own batches, so a branch can only start at step 0; "
            "loop with `for step in rec.steps(N)`, or hand over data= with a state"
        )
    if any(e["act"] == "examples" for e in plain) and not run.events("weighs"):
        raise BadOption(
            f"the loop of {run.name} never called rec.weigh, so that dropping examples would change nothing there; take the "
            "loss from rec.weigh(ids, losses)"
        )
    out = out or directory.free_name(run.path)
    run = Run(run.path.resolve())  # the loop may run in another directory
    parent = {"run": str(run.path.resolve()), "id": run.facts["id"], "step": step}
    inherited = [e for e in run.facts["edits"] if stays(e)]
    mine = {e["name"] for e in plain if e["act"] == "set"}  # what this branch sets, the parent's later commands do not
    script = {
        s: kept for s, es in applied_after(run, step).items() if (kept := [e for e in es if e["name"] not in mine])
    }
    drive = Drive(
        "fork",
        _named(run),
        step,
        until,
        state_at(run, step),
        script,
        [*inherited, *plain],
        functions,
        out.resolve(),
        parent,
        beside=_beside(run),
    )
    drive.progress, drive.author = progress, author
    try:
        with _threads(run), driving(drive):
            _go(run, drive, options)
    except Exception:
        _set_aside(run, drive.out, step)
        raise
    if drive.recorder is None:
        raise CannotReplay(f"{run.name}: its entry ran, but opened no recorder at {_named(run)}")
    return Run(out)


def _set_aside(run: "Run", branch: Path | None, step: int) -> None:
    """A branch that failed before its first step is no branch: move it out of the way."""
    from strobe.runs.run import Run

    if branch is not None and directory.exists(branch) and Run(branch).last == step:
        aside = run.path / "aside" / f"{branch.name}-{time.time_ns()}"
        aside.parent.mkdir(exist_ok=True)
        branch.rename(aside)


def _named(run: "Run") -> Path:
    """The path under which the loop opens its recorder: that of the trunk, for a branch."""
    return Path(run.facts["loop_path"])


def _beside(run: "Run") -> Path:
    """The same, where the project was moved together with its runs."""
    return run.path.resolve().parent / _named(run).name


def applied_after(run: "Run", start: int) -> dict[int, list[dict[str, Any]]]:
    """The controls that were set live after step `start`, by step: a loop run again must set them again."""
    out: dict[int, list[dict[str, Any]]] = {}
    for s, edits in run.facts.get("script", {}).items():  # what a branch was handed by its parent
        if int(s) > start:
            out[int(s)] = list(edits)
    reached = run.index.last_step()
    out = {s: edits for s, edits in out.items() if s > reached}
    for e in run.index.events("applied", superseded=False):
        if e["step"] > start:
            out.setdefault(e["step"], []).append({"act": "set", "name": e["name"], "value": e["value"]})
    return out


@contextlib.contextmanager
def _threads(run: "Run") -> Iterator[None]:
    """As many torch threads as the run had."""
    import torch

    now = torch.get_num_threads()
    torch.set_num_threads(int(run.facts["surroundings"].get("threads", now)))
    try:
        yield
    finally:
        torch.set_num_threads(now)


def _go(run: "Run", drive: Drive, options: dict[str, Any]) -> None:
    entry = run.facts["entry"]
    if not entry:
        raise CannotReplay(
            f"{run.name} does not say how to run its loop again (it was recorded from a notebook or a test). Record with "
            "entry=(function, kwargs), or use run.at(step, model=..., loss=..., probe=...) at a stored step"
        )
    with contextlib.suppress(ReachedStep):
        if "function" in entry:
            with _placed(entry.get("cwd"), entry.get("root")):
                load(entry["function"])(**{**entry["kwargs"], **options})
        elif options:
            raise BadOption(f"{run.name} was recorded by a script: options= needs an entry function")
        else:
            _run_script(entry)


def _run_script(entry: dict[str, Any]) -> None:
    script = Path(entry["script"])
    if not script.exists():
        raise CannotReplay(f"the script {script} is gone; its text is in the run's source/, put it back to replay")
    argv = sys.argv
    sys.argv = [str(script), *entry["argv"]]
    try:
        with _placed(entry["cwd"], str(script.parent)):
            runpy.run_path(str(script), run_name="__main__")
    except StrobeError:
        raise
    except FileNotFoundError as e:
        raise CannotReplay(f"cannot run {script} again: {e}") from e
    finally:
        sys.argv = argv


@contextlib.contextmanager
def _placed(cwd: str | None, root: str | None) -> Iterator[None]:
    """In the directory where the loop ran, with its modules in reach; where that is gone, right here."""
    path, here = sys.path[:], Path.cwd()
    sys.path[:0] = [d for d in (root, cwd) if d and Path(d).is_dir()] or [str(here)]
    try:
        if cwd and Path(cwd).is_dir():
            os.chdir(cwd)
        yield
    finally:
        sys.path[:] = path
        os.chdir(here)
