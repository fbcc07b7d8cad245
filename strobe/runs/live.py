"""The live half of a recorder: commands, controls, pausing, going back as a branch, and what follows a bad loss."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import ExitStack
from math import inf
from typing import Any, Literal

from strobe.core.errors import BadOption, StrobeError
from strobe.runs import directory
from strobe.runs.control import Command, Inbox, expired
from strobe.runs.levers import Levers
from strobe.runs.notes import Notes
from strobe.runs.schedule import NEVER
from strobe.runs.snapshots import Snapshots
from strobe.runs.state import restore
from strobe.runs.watch import Watch

OnNan = Literal["record", "pause", "rewind", "stop"]


class Live(Notes):
    """What a `Recorder` does at a step boundary because somebody, or a rule, asked for it."""

    objects: dict[str, Any]
    levers: Levers
    _inbox: Inbox | None
    _counter: Any
    _seen: int
    _store: Snapshots
    _lock: directory.Lock
    _syncer: Any
    _watches: list[Watch]
    _undo: ExitStack
    _pinned: set[int]
    _on_nan: OnNan
    _old_handler: Any
    _looped = _terminated = _stopping = False
    _script: dict[int, list[dict[str, Any]]]
    _weighs = False
    _rewinds = 0
    _bad_step = -2
    _next_snapshot = _due = NEVER
    _print_due = 1

    def _save(self) -> None:
        raise NotImplementedError

    def _open_journal(self, resumed: int | None, facts: dict[str, Any] | None) -> None:
        raise NotImplementedError

    def _guard(self, what: str, act: Callable[[], None]) -> None:
        raise NotImplementedError

    def _say(self, what: str, text: str) -> None:
        raise NotImplementedError

    def _not_finite(self, n: int, loss: float) -> None:
        """The first of a row of losses that are not finite: say so, keep the last good state, follow the rule."""
        again, self._bad_step = self._bad_step == n - 1, n
        if again and self._on_nan == "record":
            return
        good = [s for s in self._store.steps() if s < n]
        self._pinned.update(good[-1:])
        self.event("nonfinite", loss=loss, last_good=good[-1] if good else None, rule=self._on_nan)
        said = f"the loss is {loss} at step {n}; the last good snapshot is step {good[-1] if good else 'none'}"
        self._say("nan", f"{said}; rule: {self._on_nan}")
        if self._on_nan == "pause":
            self._wait(Command("pause", author="rule on_nan"))
        elif self._on_nan == "stop":
            self._stopping = True
        elif self._on_nan == "rewind":
            self._rewinds += 1
            if self._rewinds > 3 or not good or not self._looped:
                why = "it went back three times" if self._rewinds > 3 else "the loop has no `for step in rec.steps(N)`"
                self._say(
                    "rewind", f"the rule 'rewind' cannot be followed ({why if good else 'no good state'}): stopping"
                )
                self._stopping = True
                return
            self._branch(good[-1], author="rule on_nan", why=said)
            if "lr" in self.levers.names():
                self._apply({"act": "set", "name": "lr", "value": self.levers.get("lr") * 0.5}, "rule on_nan")

    def control(self, name: str, get: Callable[[], float], set: Callable[[float], None], *,
                min: float = -inf, max: float = inf, unit: str = "") -> None:  # fmt: skip
        """Declare a control that `strobe set RUN name=value` may change while the run lives."""
        self.levers.declare(name, get, set, low=min, high=max, unit=unit)
        self.event("control", name=name, low=min, high=max, unit=unit)

    def weigh(self, ids: Any, losses: Any) -> Any:
        """The mean of per-example `losses`, with the weights that this branch gives its examples: Σ wᵢ lᵢ / Σ wᵢ.

        A loop whose loss comes from here can be forked without some examples, or with others counted more. Without
        such an edit it is `losses.mean()`, to the bit; where a whole batch is dropped, zero.
        """
        weights = self.levers.weights
        if not self._weighs:
            self._weighs = True
            self.event("weighs")  # so that a fork knows that dropping examples will do something here
        if not weights:
            return losses.mean()
        w = losses.new_tensor([weights.get(int(i), 1.0) for i in ids])
        return (w * losses).sum() / w.sum().clamp_min(1e-12)

    def _commands(self) -> None:
        if self._inbox is None:
            return
        due = self._inbox.next_due()
        if not self._inbox.changed() and (due is None or due > self.n):
            self._seen = self._inbox.seen
            return
        while command := self._inbox.take(self.n):
            self._obey(command)
        self._seen = self._inbox.seen

    def _obey(self, c: Command) -> None:
        try:
            if expired(c):
                raise BadOption("expired before the loop reached a step boundary")
            if c.act == "pause":
                return self._wait(c)
            if c.act == "stop":
                self._stopping = True
            elif c.act == "snapshot":
                self._save()
            elif c.act == "rewind":
                return self._branch(int(c.args["step"]), author=c.author, why=f"command {c.id}", answer=c)
            elif c.act == "set":
                self._apply({"act": "set", "name": c.args["name"], "value": c.args["value"]}, c.author)
            elif c.act == "resume":
                raise BadOption("the run is not paused")
            self._answer(c, "applied")
        except KeyError as e:
            self._answer(c, "refused", reason=str(e) if isinstance(e, StrobeError) else f"{c.act} needs {e.args[0]}=")
        except StrobeError as e:
            self._answer(c, "refused", reason=str(e))
        except Exception as e:  # a full disk, the user's own `set`: answered, for somebody waits
            self._answer(c, "refused", reason=f"{type(e).__name__}: {e}")

    def _apply(self, command: dict[str, Any], author: str) -> None:
        before = self.levers.get(command["name"])
        self.levers.apply(command)
        if (
            self.n in self._store.steps()
        ):  # a snapshot taken before the command, at this very step, is no longer the state
            self._store.drop(self.n)
            self._next_snapshot = self.n
        self.event("applied", author=author, before=before, **command)

    def _answer(self, c: Command, outcome: str, **why: Any) -> None:
        self.event("command", id=c.id, act=c.act, author=c.author, outcome=outcome, args=c.args, **why)
        self._journal.sync()

    def _answer_earlier(self, commands: list[Command]) -> None:
        """Commands that the writer before this one never answered are refused, so that none is lost in silence."""
        if commands:
            from strobe.runs.run import Run

            answered = {e["id"] for e in Run(self.path).events("command")}
            for c in commands:
                if c.id not in answered:
                    self._answer(c, "refused", reason="the process ended before it came to this command; send it again")

    def _wait(self, c: Command) -> None:
        """Paused: stand at this step boundary, obeying commands, until resume or stop."""
        assert self._inbox is not None
        self._answer(c, "applied")
        here = self.path
        while True:
            while command := self._inbox.take(self.n):
                if command.act == "resume":
                    return self._answer(command, "applied")
                if command.act == "pause":
                    self._answer(command, "refused", reason="the run is paused already")
                    continue
                self._obey(command)
                if self._stopping or self.path != here:
                    return
            if self._terminated:
                self._interrupt()
            time.sleep(0.02)

    def _branch(self, step: int, *, author: str, why: str, answer: Command | None = None) -> None:
        """Go back to a stored step and write on as a new run; what was recorded stays as it is."""
        if not self._looped:
            raise BadOption(
                "this loop draws its own batches, so its data cannot go back: loop with `for step in rec.steps(N)`"
            )
        stored = [s for s in self._store.steps() if s <= self.n]
        if step not in stored:
            near = max((s for s in stored if s <= step), default=None)
            raise BadOption(f"step {step} is not stored; the nearest stored step before it is {near}")
        state, _ = self._store.load(step)
        path = directory.free_name(self.path)
        old = directory.describe(self.path)
        if answer:
            self._answer(answer, "applied", branch=str(path))
        self.event("rewound", to=step, branch=path.name, author=author, why=why)
        self._journal.close()
        lock = directory.claim(path, resume=False)
        restore(self.objects, state, where=f"step {step} of {self.path}")
        facts = directory.create(
            path, entry=old.get("entry"), objects=self.objects, start=step, edits=old.get("edits", []), about=old["about"],
            parent={"run": str(self.path.resolve()), "id": old["id"], "step": step}, loop_path=old["loop_path"],
            inherited={s: edits for s, edits in self._script.items() if s > step},
        )  # fmt: skip
        self._lock.release()
        self.path, self._lock, self.n, self._store = path, lock, step, Snapshots(path)
        self._open_journal(None, facts)
        self._syncer.journal = self._journal
        assert self._inbox is not None
        self._inbox.close()
        self._inbox = Inbox(path)
        self._counter, self._seen = self._inbox.counter, self._inbox.seen
        self.event("cursor", by="step")
        self.event("controls", values={k: self.levers.get(k) for k in self.levers.names()})
        for w in self._watches:
            w.next_step = w.schedule(step)
        self._print_due = step + 1
        self._save()

    def _terminate(self) -> None:
        self._terminated = True
        self._wake()

    def _wake(self) -> None:
        self._due = 0

    def _interrupt(self) -> None:
        """SIGTERM: store the state, say so, then let the signal do what it does."""
        self._guard("snapshot", self._save)
        self.event("interrupted", error="SIGTERM")
        self._journal.sync()
        signal.signal(signal.SIGTERM, self._old_handler if self._old_handler is not None else signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
