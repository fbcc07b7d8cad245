"""A recorder inside a loop that somebody else owns: a Trainer counts the steps, restores its checkpoints, and stops.

What the integrations (huggingface.py, lightning.py) share. The host's step and the recorder's are one number: a host
that resumes from its own checkpoint goes on in the same run, and what the run held beyond that step is superseded in
the journal and moved to `aside/`, not deleted.
"""

import contextlib
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from strobe.core.errors import BadOption, CannotReplay, StateMismatch
from strobe.core.reading import Reading
from strobe.runs import directory, drive
from strobe.runs.recorder import Recorder, record
from strobe.runs.replay import applied_after
from strobe.runs.run import Run
from strobe.runs.snapshots import Snapshots
from strobe.runs.state import capture, differences


class Hosted:
    """One recorder, opened when the host's training begins and closed when it ends, however it ends.

    Args:
        path: the run directory.
        host: what to call the owner of the loop in an error.
        setup: called with the open recorder before the first step: watches, controls, sealed predictions.
        options: for `strobe.record`.

    Raises `BadOption` for an option that only a loop of one's own can honour.
    """

    def __init__(
        self, path: str | Path, *, host: str, setup: Callable[[Recorder], None] | None, options: Mapping[str, Any]
    ) -> None:
        if options.get("on_nan") == "rewind":
            raise BadOption(
                f"on_nan='rewind' needs a loop that can go back; {host} draws its own batches: 'pause' or 'stop'"
            )
        if "resume" in options:
            raise BadOption(f"{host} resumes from its own checkpoints, and the recording follows it; leave resume= out")
        self.path, self.host, self.setup, self.options = Path(path), host, setup, dict(options)
        self.recorder: Recorder | None = None
        self._stop = False

    def open(self, start: int, objects: Mapping[str, Any], *, processes: int = 1) -> Recorder:
        """Begin to record at the host's step `start`: a new run, or the run at `path` gone on with where start > 0.

        Raises what `strobe.record` raises; `BadOption` for a training of several processes or a gap in the steps,
        `StateMismatch` where the run's snapshot of this step is another model, `CannotReplay` for a replay or fork
        from a step whose batches the host cannot draw again.
        """
        if processes > 1:
            raise BadOption(
                f"Strobe records the training of one process, this one has {processes}: a command would reach one, "
                "and the rest would go on without it"
            )
        self.close(RuntimeError("the training before this one did not end"))
        d = drive.current()
        if d is not None and directory.same(self.path, d.path) and d.start != start:
            raise CannotReplay(
                f"{self.host} begins at step {start} and draws its own batches, so it cannot be run again from step "
                f"{d.start} of {self.path}; only from step 0"
            )
        go_on = start > 0 and d is None and directory.exists(self.path)
        rec = record(self.path, resume=go_on, **{**objects, **self.options})
        rec.n = start
        if go_on:
            self._check(start, Run(self.path))
            rec._resume_from = partial(_go_on, rec, start)  # type: ignore[method-assign]  # the host has restored it all
        self.recorder = rec.start()
        self._stop = False
        if self.setup:
            self.setup(rec)
        return rec

    def _check(self, start: int, run: Run) -> None:
        if not run.start <= start <= run.last:
            raise BadOption(
                f"{self.host} resumes at step {start}, but {self.path} holds steps {run.start} to {run.last}: "
                "record under another name, which begins a run at this step"
            )

    def step(self, *, loss: Any = None, last: bool = False, **scalars: Any) -> bool:
        """One finished step of the host's; True when the training is to stop. `last` stores the state as it is now."""
        rec = self.recorder
        if rec is None:
            return False
        try:
            rec._guard("step", partial(rec.step, loss, **scalars))
        except drive.StopTraining:
            self._stop = last = True
        if last and rec._writes:
            self._last(rec)
        return self._stop

    @staticmethod
    def _last(rec: Recorder) -> None:
        """What `close` would do, now: between its last step and its end the host may change the model."""
        for w in [w for w in rec._watches if w.last < rec.n]:
            rec._guard(f"watch {w.name}", partial(rec._measure_one, w))
        if rec.n not in Snapshots(rec.path).steps():
            rec._guard("last snapshot", rec._save)

    def log(self, numbers: Mapping[str, Any]) -> None:
        """Numbers that the host reports about the present step, under its names."""
        if (rec := self.recorder) is None:
            return
        for name, value in numbers.items():
            with contextlib.suppress(TypeError, ValueError):  # text, and whatever else is not one number
                rec._guard("log", partial(_note, rec, name, float(value)))

    def close(self, error: BaseException | None = None) -> None:
        """End the recording, if one is open."""
        rec, self.recorder = self.recorder, None
        if rec is not None:
            rec._guard("close", partial(rec.close, drive.StopTraining() if self._stop else error))


def _note(rec: Recorder, name: str, value: float) -> None:
    rec.reading(name, Reading(value, 0.0))


def _go_on(rec: Recorder, start: int) -> int:
    """In place of `Recorder._resume_from`: the host restored the state; what lies beyond it is put aside."""
    store = Snapshots(rec.path)
    if start in store.steps():
        then, now = (
            store.load(start)[0]["objects"]["model"],
            capture({"model": rec.objects["model"]})["objects"]["model"],
        )
        if found := differences({"model": then["state"]}, {"model": now["state"]}):
            raise StateMismatch(
                f"step {start} of {rec.path} is not the model that was resumed ({found[0]}): it is another training; "
                "record under another name"
            )
    rec._script = applied_after(Run(rec.path), start)
    for step in [s for s in store.steps() if s > start]:  # no earlier snapshot reads a later one's pack
        aside = rec.path / "aside" / f"step-{step}-{time.time_ns()}"
        aside.parent.mkdir(exist_ok=True)
        (store.root / str(step)).rename(aside)
    return start
