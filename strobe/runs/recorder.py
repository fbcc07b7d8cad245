"""Record any PyTorch loop: `with strobe.record("runs/mine", model=model, optimizer=opt) as rec: ... rec.step(loss=loss)`."""

import contextlib
import os
import signal
import struct
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from math import inf
from pathlib import Path
from typing import Any, Literal

import numpy as np

from strobe.core.errors import BadOption, StrobeError
from strobe.core.reading import Reading
from strobe.runs import directory, drive
from strobe.runs.control import Inbox
from strobe.runs.directory import StrobeWarning
from strobe.runs.journal import Journal, dumps
from strobe.runs.levers import Levers
from strobe.runs.live import Live, OnNan
from strobe.runs.packs import fingerprint
from strobe.runs.schedule import NEVER, Schedule, keep, schedule
from strobe.runs.snapshots import Snapshots
from strobe.runs.state import capture, restore
from strobe.runs.tree import flatten
from strobe.runs.watch import Watch

FINGERPRINT_SHARE = 0.003  # of the loop's time: with it a recorded loop of 1.5 ms costs about 1% more, not 2%


def record(
    path: str | Path, *, model: Any, optimizer: Any = None, scheduler: Any = None, scaler: Any = None, data: Any = None,
    loss: Callable[[Any, Any], Any] | None = None, probe: Any = None,
    snapshots: "int | list[int] | Schedule | Literal['log'] | None" = "log", every_seconds: float | None = 300.0,
    most_snapshots: int = 64, resume: bool = False, on_nan: OnNan = "record",
    entry: "tuple[Callable[..., Any], dict[str, Any]] | None" = None, about: Mapping[str, Any] | None = None,
    tokenizer: Any = None, **objects: Any,
) -> "Recorder":  # fmt: skip
    """A recorder for one training run in the directory `path`; use it as a context manager.

    Args:
        model, optimizer, scheduler, scaler, data, **objects: whatever has a state: `state_dict`/`load_state_dict`, or a
            random generator. All of it, with the Python, NumPy and torch random states, is one snapshot.
        loss, probe: `loss(model, probe)` on held-out `probe`, for `rec.watch` and `run.at`.
        snapshots: when to store the full state: "log", every n steps, a list of steps, a function, or None; and
            `every_seconds` of wall time. At most `most_snapshots` are kept, thinned evenly on a log axis.
        resume: go on from the newest good snapshot of the run that `path` already holds; a new run otherwise.
        on_nan: what follows a loss that is not finite: "record" (and warn), "pause", "rewind" (to the last good
            snapshot, as a branch, with half the learning rate; three times, then stop) or "stop".
        entry: `(function, keyword arguments)` that runs this loop again, for replay and fork. By default the
            script that is running, where there is one.
        about: plain data to keep in run.json.
        tokenizer: with `encode(str) -> ids` and `decode(ids) -> str`, so that a look can show and take text. It is
            not stored: a replay gets it from the loop that it runs again.

    Raises `RunExists`, `RunBusy`, `NotARun`, `BadOption` before anything is written. After that no failure of
    Strobe stops the training: it is said once, as a `StrobeWarning`, and noted in the journal.
    """
    named = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler, "data": data, **objects}
    named = {k: v for k, v in named.items() if v is not None}
    if not isinstance(path, str | os.PathLike):
        raise BadOption(f"record takes the path of a directory first, got a {type(path).__name__}")
    if tokenizer is not None and not (hasattr(tokenizer, "encode") and hasattr(tokenizer, "decode")):
        raise BadOption(f"tokenizer needs encode(str) and decode(ids), which a {type(tokenizer).__name__} has not")
    if not hasattr(model, "named_parameters"):
        raise BadOption(f"model must be a torch.nn.Module, got a {type(model).__name__}")
    if entry is not None and not (isinstance(entry, tuple) and len(entry) == 2 and callable(entry[0])):
        raise BadOption("entry is (function, keyword arguments): entry=(train, {'lr': 0.1})")
    try:
        dumps([dict(about or {}), entry[1] if entry else {}])
    except TypeError as e:
        raise BadOption(f"about= and entry= must be plain data (numbers, text, lists, dicts): {e}") from e
    if on_nan not in ("record", "pause", "rewind", "stop"):
        raise BadOption(f"on_nan is 'record', 'pause', 'rewind' or 'stop', got {on_nan!r}")
    if most_snapshots < 2:
        raise BadOption(f"most_snapshots must be at least 2 (the first and the newest), got {most_snapshots}")
    flatten(capture(named), "state")  # what has no plain state is refused here, before anything exists
    return Recorder(
        Path(path), named, loss=loss, probe=probe, due=schedule(snapshots), every_seconds=every_seconds or inf,
        most=most_snapshots, resume=resume, on_nan=on_nan, entry=entry, about=dict(about or {}),
        tokenizer=tokenizer,
    )  # fmt: skip


class Recorder(Live):
    """Appends to one run directory. Made by `record`; `n` is the number of finished steps."""

    def __init__(
        self, path: Path, objects: dict[str, Any], *, loss: Any, probe: Any, due: Schedule, every_seconds: float, most: int,
        resume: bool, on_nan: OnNan, entry: Any, about: dict[str, Any], tokenizer: Any = None,
    ) -> None:  # fmt: skip
        self.path, self.objects, self.loss, self.probe = path, objects, loss, probe
        self.tokenizer = tokenizer
        self.n = 0
        self.levers = Levers(objects)
        self._snapshot_due, self._every_seconds, self._most = due, every_seconds, most
        self._resume, self._on_nan, self._entry, self._about = resume, on_nan, entry, about
        self._layouts: dict[tuple[str, ...], Callable[..., bytes]] = {}
        self._watches: list[Watch] = []
        self._script: dict[int, list[dict[str, Any]]] = {}
        self._pinned: set[int] = set()
        self._print_due, self._print_cost, self._print_names = 1, 0.0, ""
        self._due = NEVER
        self._said: set[str] = set()
        self._inbox: Inbox | None = None
        self._counter: Any = [0]
        self._seen = 0
        self._journal: Any = None
        self._drive: drive.Drive | None = None
        self._undo = contextlib.ExitStack()
        self._store, self._writes = Snapshots(path), False
        self._pid = os.getpid()
        self._open = False

    # ---------------------------------------------------------------- opening and closing

    def __enter__(self) -> "Recorder":
        return self.start()

    def start(self) -> "Recorder":
        """Open the run (what `with` does)."""
        from strobe.runs.witness import Mute

        d = drive.current()
        if d is None:
            self._start_writing(None)
        elif d.recorder is not None or not any(directory.same(self.path, p) for p in (d.path, d.beside) if p):
            self._journal = Mute()  # another run of the same script: it must run, and leave no file
        else:
            self._drive = d
            self._start_replaying(d) if d.mode == "replay" else self._start_writing(d)
        self._open = True
        return self

    def _start_replaying(self, d: drive.Drive) -> None:
        assert d.witness is not None
        d.recorder, self._journal = self, d.witness
        restore(self.objects, d.state, where=f"step {d.start} of {d.path}")
        self.n, self._script = d.start, d.script
        if left := _EDITED.pop(self.objects["model"], None):  # the loop replays in one and the same model
            left.close()
        self.levers.install(d.edits, self._undo, functions=d.functions, only_sites=True)
        _EDITED[self.objects["model"]] = self._undo
        self._due = min(d.stop if d.stop is not None else NEVER, d.witness.next_after(self.n), self._scripted())
        if d.stop == self.n:
            raise drive.ReachedStep

    def _start_writing(self, d: drive.Drive | None) -> None:
        path = self.path if d is None or d.out is None else d.out
        named, self.path = self.path if d is None else d.path, path
        self._lock = directory.claim(path, resume=self._resume and d is None)
        try:
            self._store = Snapshots(path)
            self._inbox = Inbox(path) if directory.exists(path) else None  # what is sent from here on is obeyed
            resumed = self._resume_from() if self._resume and d is None else None
            fresh = resumed is None
            applied, facts = [], None
            if d is not None:
                restore(self.objects, d.state, where=f"step {d.start} of {d.path}")
                self.n, d.recorder, self._script = d.start, self, d.script
                applied = self.levers.install(d.edits, self._undo, functions=d.functions)
            if fresh:
                facts = directory.create(
                    path, entry=self._entry, objects=self.objects, start=self.n, parent=d.parent if d else None,
                    edits=d.edits if d else [], about=self._about, loop_path=str(named.resolve()), inherited=self._script,
                )  # fmt: skip
            else:
                self.levers.install(directory.describe(path)["edits"], self._undo, only_sites=True)
            self._open_journal(resumed, facts)
            self._inbox = self._inbox or Inbox(path)
            self._counter, self._seen = self._inbox.counter, self._inbox.seen
            self._answer_earlier(self._inbox.earlier)
            for edit in applied:
                self.event("edit", author=d.author if d else "fork", **edit)
        except BaseException:
            self._undo.close()
            if self._inbox:
                self._counter = [0]
                self._inbox.close()
            self._lock.release()
            directory.forsake(path)
            raise
        self._began = self._last_saved = time.monotonic()
        self._started_at = self.n
        if fresh:
            self._guard("snapshot", self._save)
        self._set_due()
        self._writes = True
        self._syncer = _Syncer(self._journal)
        weakref.finalize(self, _abandoned, self._syncer, self._lock)
        self._old_handler = _on_sigterm(self)
        _OPEN.add(self)
        self.event("controls", values={k: self.levers.get(k) for k in self.levers.names()})

    def _open_journal(self, resumed: int | None, facts: dict[str, Any] | None) -> None:
        self._journal = directory.new_journal(self.path, resumed=resumed, facts=facts)
        self._journal.on_error = partial(_wake, weakref.ref(self))  # the sync thread must not keep a recorder alive
        self._layouts.clear()
        self._print_names = ""

    def _resume_from(self) -> int | None:
        """Restore the newest snapshot that is whole; None where nothing was recorded yet."""
        from strobe.runs.replay import applied_after
        from strobe.runs.run import Run

        for step in reversed(self._store.steps()):
            try:
                state, _ = self._store.load(step)
            except StrobeError as e:
                self._say(f"step {step}", f"{e}; trying the snapshot before it")
                continue
            restore(self.objects, state, where=f"step {step} of {self.path}")
            self.n = step
            self._script = applied_after(Run(self.path), step)
            return step
        if directory.exists(self.path) and Run(self.path).last > 0:
            raise StrobeError(f"{self.path} holds no whole snapshot to resume from; strobe doctor {self.path} says why")
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:  # type: ignore[override]
        self.close(error)
        return isinstance(error, drive.StopTraining)

    def close(self, error: BaseException | None = None) -> None:
        """End the recording: a last snapshot where the loop ended well, a note of how it ended."""
        if not self._open or os.getpid() != self._pid:
            return
        self._open = False
        if self._writes:  # a replay's network is handed out with the branch's edits in force
            try:
                self._finish(error)  # so is what is measured and stored last
            finally:
                self._undo.close()

    def _finish(self, error: BaseException | None) -> None:
        ended = error is None or isinstance(error, drive.StopTraining | drive.ReachedStep)
        if ended:
            for w in self._watches:
                if w.last < self.n:
                    self._guard(f"watch {w.name}", partial(self._measure_one, w))
        if ended and self.n not in self._store.steps():
            self._guard("last snapshot", self._save)
        why = {} if ended else {"error": f"{type(error).__name__}: {error}"}
        self.event("finished" if ended else "interrupted", **why)
        self._syncer.stop()
        if self._journal.waiting and not self._journal.drain():
            self._say("close", f"{len(self._journal.waiting)} records could not be written: {self._journal.error}")
        self._journal.close()
        self._counter, self._seen, self._due = [0], 0, 0
        if self._inbox:
            self._inbox.close()
        if self._old_handler is not None:
            signal.signal(signal.SIGTERM, self._old_handler)
        self._lock.release()

    # ---------------------------------------------------------------- one step

    def step(self, loss: Any = None, *, example_loss: tuple[Any, Any] | None = None, **scalars: Any) -> None:
        """Say that one training step is finished, with any scalars (numbers or 0-d tensors).

        `example_loss=(ids, losses)`: per-example losses of this step's batch, kept compactly.
        """
        self.n = n = self.n + 1
        if loss is not None:
            scalars["loss"] = loss
        if scalars:
            names = tuple(scalars)
            try:
                values = [v if type(v) is float else _plain(v) for v in scalars.values()]
                self._journal.append((self._layouts.get(names) or self._define(names))(n, time.time(), *values))
                loss = values[-1] if loss is not None else None
            except Exception as e:  # never stops training
                self._cannot_record(n, scalars, e)
                loss = None
        if example_loss is not None:
            self._guard("example_loss", partial(self._examples, *example_loss))
        if n >= self._due or self._counter[0] != self._seen or (loss is not None and not -inf < loss < inf):
            self._slow(n, loss)

    def _define(self, names: tuple[str, ...]) -> Callable[..., bytes]:
        """A layout for names that have none yet: its number is how many there are."""
        number = len(self._layouts)
        for _ in range(2):  # one damaged byte must not take the names of every record that follows
            self._journal.json({"kind": "define", "layout": number, "names": list(names)})
        pack = struct.Struct(f"<BHQd{len(names)}d").pack
        layout = partial(pack, 2, number)
        self._layouts[names] = layout
        return layout

    def _cannot_record(self, n: int, scalars: dict[str, Any], error: Exception) -> None:
        good = {k: v for k, v in scalars.items() if _is_number(v)}
        for k in set(scalars) - set(good):
            v = scalars[k]
            what = f"a tensor of shape {tuple(v.shape)}" if hasattr(v, "shape") else f"a {type(v).__name__}"
            self._say(f"scalar {k}", f"step {n}: {k} is {what}, not one number, and is not recorded")
        if len(good) == len(scalars):
            self._say("journal", f"step {n} is not recorded: {error}")
        elif good:
            names = tuple(good)
            layout = self._layouts.get(names) or self._define(names)
            self._journal.append(layout(n, time.time(), *map(_plain, good.values())))

    def _slow(self, n: int, loss: Any) -> None:
        """Everything that is not due at every step; control flow leaves it, failures do not."""
        if not self._open:
            self._due = NEVER
            return self._say(
                "closed",
                f"step {n} is not recorded: the recorder is not open (use it as `with strobe.record(...) as rec:`)",
            )
        if self._terminated:
            self._interrupt()
        if isinstance(self._journal, Journal):
            if self._journal.error:
                self._say("disk", f"step {n}: the journal cannot be written ({self._journal.error.strerror}); training goes "
                          "on, records wait in memory")  # fmt: skip
            if loss is not None and not (-inf < loss < inf):
                self._not_finite(n, loss)
                n = self.n
            for command in self._script.get(n, []):
                self._guard("control", partial(self._apply, command, "as recorded"))
            self._guard("commands", self._commands)
            n = self.n
            self._guard("watches", self._measure)
            self._guard("fingerprint", self._print)
            if n >= self._next_snapshot or time.monotonic() - self._last_saved > self._every_seconds:
                self._guard("snapshot", self._save)
            self._set_due()
            if self._drive and self._drive.stop is not None and n >= self._drive.stop:
                raise drive.ReachedStep
        elif self._drive and self._drive.recorder is self and self._drive.witness:
            for command in self._script.get(n, []):
                self.levers.apply(command)
            self._drive.witness.visit(n, self)
            stop = self._drive.stop if self._drive.stop is not None else NEVER
            if n >= stop:
                raise drive.ReachedStep
            self._due = min(stop, self._drive.witness.next_after(n), self._scripted())
        if self._stopping:
            raise drive.StopTraining

    def _scripted(self) -> int:
        return min((s for s in self._script if s > self.n), default=NEVER)

    def _set_due(self) -> None:
        n = self.n
        if self._drive and self._drive.progress:
            self._drive.progress(n)
        self._next_snapshot = self._snapshot_due(n)
        waiting = self._inbox.next_due() if self._inbox else None
        stop = self._drive.stop if self._drive and self._drive.stop is not None else NEVER
        watches = min((w.due(n) for w in self._watches), default=NEVER)
        pace = (time.monotonic() - self._began) / max(n - self._started_at, 1)
        seconds = min(self._every_seconds / 16, 1e9) if waiting is None else 1.0  # what waits may expire
        clock = n + max(1, int(seconds / max(pace, 1e-6)))
        shown = n + 20 if self._drive and self._drive.progress else NEVER
        self._due = min(
            shown,
            self._next_snapshot,
            watches,
            self._print_due,
            stop,
            clock,
            self._scripted(),
            max(waiting or NEVER, n + 1),
        )
        if self._terminated or getattr(self._journal, "error", None):
            self._due = n + 1

    # ---------------------------------------------------------------- what is due now and then

    def _save(self) -> None:
        self._store.save(self.n, capture(self.objects))
        self._last_saved = time.monotonic()
        stored = self._store.steps()
        for step in set(stored) - keep(stored, most=self._most, pinned=self._pinned):
            self._store.drop(step)
        self.event("snapshot")

    def _measure(self) -> None:
        for w in self._watches:
            if w.last < self.n >= w.next_step:
                w.next_step = w.schedule(self.n)
                self._guard(f"watch {w.name}", partial(self._measure_one, w))

    def _measure_one(self, w: Watch) -> None:
        began = time.monotonic()
        reading = w.measure(self.snapshot())
        self.reading(w.name, reading, seconds=round(time.monotonic() - began, 6), **w.origin())

    def _print(self) -> None:
        """Fingerprint every tensor of the state, as often as `FINGERPRINT_SHARE` of the loop's time allows."""
        if self.n < self._print_due:
            return
        began = time.monotonic()
        _, tensors = flatten(capture(self.objects), "")
        names = ",".join(tensors)
        if names != self._print_names:
            self._print_names = names
            self._journal.json({"kind": "tensors", "names": list(tensors)})
        prints = np.array([fingerprint(t) for t in tensors.values()], dtype=np.uint64)
        self._journal.array({"kind": "fingerprint", "step": self.n}, prints)
        now = time.monotonic()
        self._print_cost += now - began
        pace = (now - self._began) / max(self.n - self._started_at, 1)
        behind = self._print_cost / FINGERPRINT_SHARE - (now - self._began)
        self._print_due = self.n + max(1, int(behind / max(pace, 1e-6)) + 1)

    def _examples(self, ids: Any, losses: Any) -> None:
        ids = np.asarray(ids.tolist() if hasattr(ids, "tolist") else ids)
        losses = np.asarray(losses.detach().cpu().float() if hasattr(losses, "detach") else losses, dtype=np.float32)
        if ids.ndim != 1 or ids.shape != losses.shape or ids.dtype.kind not in "iu":
            raise BadOption(
                f"example_loss takes integer ids and losses of one length, got {ids.shape} and {losses.shape}"
            )
        small = np.uint32 if len(ids) and ids.min() >= 0 and ids.max() < 2**32 else np.int64
        self._journal.array({"kind": "examples", "step": self.n}, ids.astype(small), losses)

    def _in_child(self) -> None:
        """A forked worker is not the writer: it keeps no lock and writes nothing."""
        if self._open:
            self._open, self._due = False, 0
            self._journal.forget()
            self._lock.release()

    # ---------------------------------------------------------------- what a user may call at any time

    def steps(self, total: int) -> Iterator[int]:
        """0-based indices of the steps still to do, up to `total`: says that the data are a function of the step.

        This is what makes a loop resumable, rewindable and replayable from any snapshot.
        """
        if not isinstance(total, int):
            raise BadOption(f"rec.steps takes the number of steps in all, got a {type(total).__name__}")
        self._looped = True
        self.event("cursor", by="step")
        while self.n < total:
            before = self.n
            yield before
            if self.n == before:
                raise BadOption("rec.steps goes on only after rec.step(...): call it once per iteration")

    def save(self, *, pin: bool = False) -> None:
        """Store the full state now; `pin` keeps it for good, whatever retention thins out. Nothing in a replay."""
        if self._writes:
            self._pinned.update([self.n] if pin else [])
            if self.n not in self._store.steps():
                self._guard("snapshot", self._save)

    def snapshot(self) -> Any:
        """The state as it is now, as a `Snapshot` on the loss and probe handed to `record`."""
        from strobe.core.snapshot import Snapshot

        if self.loss is None:
            raise BadOption("measuring needs record(..., loss=fn, probe=held_out_data)")
        return Snapshot(self.objects["model"], self.loss, self.probe, self.n)

    def watch(
        self, observable: Callable[..., Reading], /, *, every: Any = "log", name: str | None = None, **options: Any
    ) -> None:
        """Measure `observable(snapshot, **options)` at step 0 and then on a schedule; failures are events, not errors."""
        w = Watch(observable, schedule(every), name, options)
        w.next_step = w.schedule(self.n)
        if isinstance(self._journal, Journal):
            self.snapshot()  # a watch without a loss is a mistake of the user's: said here
        self._watches.append(w)
        if isinstance(self._journal, Journal):
            if self.n == self._started_at:
                self._guard(f"watch {w.name}", partial(self._measure_one, w))
            self._set_due()

    # ---------------------------------------------------------------- failures

    def _guard(self, what: str, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as e:
            reason = (
                f"{e.strerror}: {e.filename}" if isinstance(e, OSError) and e.strerror else f"{e}" or type(e).__name__
            )
            self._say(what, f"step {self.n}: {what} failed ({type(e).__name__}: {reason}); training goes on")

    def _say(self, what: str, text: str) -> None:
        """Once per kind of failure: a warning for the person, an event for the record."""
        if what in self._said:
            return
        self._said.add(what)
        with contextlib.suppress(Exception):
            self._journal.json(
                {"kind": "event", "type": "error", "step": self.n, "time": time.time(), "what": what, "text": text}
            )
        with warnings.catch_warnings():
            warnings.simplefilter("always", StrobeWarning)
            warnings.warn(f"strobe: {text}", StrobeWarning, stacklevel=4)


_OPEN: "weakref.WeakSet[Recorder]" = weakref.WeakSet()
_EDITED: "weakref.WeakKeyDictionary[Any, contextlib.ExitStack]" = weakref.WeakKeyDictionary()  # by replays


def _leave_to_parent() -> None:
    for recorder in _OPEN:
        recorder._in_child()


os.register_at_fork(after_in_child=_leave_to_parent)


class _Syncer(threading.Thread):
    """Syncs the journal about once a second, so that a power loss takes at most that. Ends with its recorder."""

    def __init__(self, journal: Journal) -> None:
        super().__init__(daemon=True, name="strobe-sync")
        self.journal, self._stop_now = journal, threading.Event()
        self.start()

    def run(self) -> None:
        while not self._stop_now.wait(1.0):
            with contextlib.suppress(OSError, ValueError):
                self.journal.sync()

    def stop(self) -> None:
        self._stop_now.set()
        self.join(timeout=10)


def _wake(known: "weakref.ref[Recorder]") -> None:
    if (recorder := known()) is not None:
        recorder._wake()


def _abandoned(syncer: _Syncer, lock: directory.Lock) -> None:
    """A recorder that was dropped without being closed: its thread ends and its claim is given back."""
    syncer._stop_now.set()
    lock.release()


def _plain(v: Any) -> float:
    """A number or a 0-d tensor as a float; `.item()`, for a tensor in the graph warns when it is made a float."""
    return float(v.item() if hasattr(v, "item") else v)


def _is_number(v: Any) -> bool:
    try:
        _plain(v)
    except Exception:
        return False
    return True


def _on_sigterm(recorder: Recorder) -> Any:
    """Chain onto the default SIGTERM (main thread only); returns the handler to put back, or None."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        return None
    known = weakref.ref(recorder)

    def handle(*_: Any) -> None:
        if (rec := known()) is not None and rec._open:
            rec._terminate()
        else:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)

    return signal.signal(signal.SIGTERM, handle)
