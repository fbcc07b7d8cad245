"""Measure along a run: live (`rec.watch`) or later (`follow`), through one call, so that both give the same number."""

import hashlib
import inspect
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from strobe.core.catalogue import path_of
from strobe.core.errors import BadOption, Diverged, RunBusy, StrobeError
from strobe.core.reading import Reading
from strobe.runs.journal import dumps
from strobe.runs.schedule import Schedule, schedule
from strobe.runs.snapshots import FORMAT, loads_manifest, write_manifest

if TYPE_CHECKING:
    from strobe.core.snapshot import Snapshot
    from strobe.runs.run import Run


@dataclass
class Watch:
    """One observable on a schedule."""

    function: Callable[..., Reading]
    schedule: Schedule
    given: str | None
    options: dict[str, Any]
    next_step: int = 0
    last: int = -1

    @property
    def name(self) -> str:
        """The series this watch writes."""
        return self.given or str(getattr(self.function, "__name__", type(self.function).__name__))

    def due(self, n: int) -> int:
        """The next step at which to measure."""
        return self.next_step if self.next_step > n else self.schedule(n)

    def measure(self, snap: "Snapshot") -> Reading:
        """One reading of one snapshot."""
        self.last = snap.step
        return measure(self.function, snap, self.options)

    def origin(self) -> dict[str, Any]:
        """What a later reader needs to recompute the number."""
        return {"fn": _path(self.function), "options": _shown(self.options), "source": source_hash(self.function)}


def measure(function: Callable[..., Reading], snap: "Snapshot", options: dict[str, Any]) -> Reading:
    """Call an observable and check what comes back. Raises `Diverged` for a number that is not finite."""
    with snap.quiet():  # an observable that forgets it must not change the training
        reading = function(snap, **options)
    if not isinstance(reading, Reading):
        raise BadOption(f"{_path(function)} returned a {type(reading).__name__}; an observable returns a Reading")
    if not (np.isfinite(reading.value).all() and np.isfinite(reading.err).all()):
        raise Diverged(f"{_path(function)} at step {snap.step} measured {reading}, which is not finite")
    return reading


def follow(
    run: "Run", observable: Callable[..., Reading], /, *, every: Any = None, again: bool = False, note: str = "",
    progress: Callable[[int, int], None] | None = None, **options: Any,
) -> dict[int, Reading]:  # fmt: skip
    """Measure `observable` on a recorded run: {step: reading}.

    Args: `every` as in `record(snapshots=...)`, over 0..last step, or a list of just the steps to measure; None means
    every stored snapshot. Steps that are not stored are replayed. Readings are kept in `readings/`, addressed by the
    function's path, options and source; `again=True` measures anew. A step that fails is told in the result's absence
    and noted in the file; if all do, the first error is raised.
    `note` is a name under which they are written into the run's journal too, so that strip and report draw them
    (a step that has a reading of that name is left); raises `RunBusy` while the run is being written, before it measures.
    """
    _fits(observable, options)
    if note and run.live:
        raise RunBusy(
            f"{run.path} is being written, so nothing else can be put on its strip: "
            "measure without a note (--no-note), or wait"
        )
    steps = _steps(run, every)
    key = hashlib.sha256(dumps([_path(observable), _shown(options), source_hash(observable)])).hexdigest()[:24]
    path = run.path / "readings" / f"{key}.json"
    kept = {} if again else _load(path)
    todo = [s for s in steps if str(s) not in kept]
    failures: dict[int, StrobeError] = {}
    for i, snap in enumerate(run.walk(todo)):
        try:
            kept[str(snap.step)] = asdict(measure(observable, snap, options))
        except StrobeError as e:
            failures[snap.step] = e
        if progress:
            progress(i + 1, len(todo))
    if todo:
        _save(
            path,
            {
                "fn": _path(observable),
                "options": _shown(options),
                "readings": kept,
                "failures": {s: str(e) for s, e in failures.items()},
            },
        )
    if failures and len(failures) == len(todo) == len(steps):
        raise next(iter(failures.values()))
    found = {s: Reading(**kept[str(s)]) for s in steps if str(s) in kept}
    if note:
        _note(run, note, found, again=again)
    return found


def _fits(observable: Callable[..., Reading], options: dict[str, Any]) -> None:
    try:
        inspect.signature(observable).bind(None, **options)
    except TypeError as e:
        takes = [p.name for p in inspect.signature(observable).parameters.values() if p.kind == p.KEYWORD_ONLY]
        raise BadOption(f"{_path(observable)}: {e}; its options are {', '.join(takes) or 'none'}") from e
    except ValueError:  # something without a signature: it will say so itself
        pass


def _note(run: "Run", name: str, found: dict[int, Reading], *, again: bool) -> None:
    from strobe.runs.notes import Notes

    there = set() if again else {e["step"] for e in run.index.events("reading", superseded=False) if e["name"] == name}
    if new := [s for s in found if s not in there]:
        with Notes(run.path) as notes:
            for step in new:
                notes.reading(name, found[step], step=step)


def _steps(run: "Run", every: Any) -> list[int]:
    if every is None:
        return run.stored()
    if isinstance(every, Sequence) and not isinstance(every, str):  # named one by one: 0 only where it is named
        schedule(every)
        return sorted({int(s) for s in every if run.start <= s <= run.last})
    due, steps = schedule(every), [run.start] if run.start == 0 else []
    step = due(run.start)
    while step <= run.last:
        steps.append(step)
        step = due(step)
    return steps


def source_hash(function: Callable[..., Any]) -> str:
    """sha256 of the function's source text: a changed observable is another observable."""
    while hasattr(function, "func"):
        function = function.func
    try:
        text = inspect.getsource(function if inspect.isfunction(function) else type(function))
    except (OSError, TypeError):
        text = repr(type(function))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _path(function: Callable[..., Any]) -> str:
    while hasattr(function, "func"):
        function = function.func
    return path_of(function) if hasattr(function, "__qualname__") else path_of(type(function))


def _shown(options: dict[str, Any]) -> dict[str, Any]:
    """Options as plain data; tensors by their hash."""
    from torch import Tensor

    from strobe.runs.packs import fingerprint

    out: dict[str, Any] = {}
    for k, v in options.items():
        if isinstance(v, Tensor):
            out[k] = f"tensor {tuple(v.shape)} {fingerprint(v):016x}"
        elif isinstance(v, dict) or v is None or isinstance(v, bool | int | float | str):
            out[k] = _shown(v) if isinstance(v, dict) else v
        elif isinstance(v, Iterable):
            out[k] = [_shown({"": x})[""] for x in v]
        else:
            out[k] = repr(v)
    return out


def _load(path: Path) -> dict[str, Any]:
    try:
        return dict(loads_manifest(path)["readings"])
    except (OSError, ValueError, KeyError):  # a damaged file is measured again
        return {}


def _save(path: Path, body: dict[str, Any]) -> None:
    path.parent.mkdir(exist_ok=True)
    beside = path.with_suffix(f".{os.getpid()}")
    write_manifest(beside, {"format": FORMAT, **body})
    os.replace(beside, path)
