"""What stands for the journal while a loop is run again: it writes nothing, and compares with what was written then."""

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from strobe.runs.journal import SCALARS
from strobe.runs.packs import fingerprint
from strobe.runs.schedule import NEVER
from strobe.runs.state import capture, differences
from strobe.runs.tree import flatten

if TYPE_CHECKING:
    from strobe.runs.recorder import Recorder
    from strobe.runs.run import Run


class Mute:
    """Stands for the journal of a run that a driven script opens besides the one that is replayed."""

    waiting: tuple[()] = ()
    error = None

    def append(self, payload: bytes) -> None:
        """Forget."""

    def json(self, record: dict[str, Any]) -> None:
        """Forget."""

    def array(self, header: dict[str, Any], *arrays: np.ndarray) -> None:
        """Forget."""

    def forget(self) -> None:
        """Nothing to let go of."""

    def sync(self) -> None:
        """Nothing to sync."""


class Witness(Mute):
    """Stands for the journal during a replay: compares what the loop records with what it recorded then."""

    def __init__(self, run: "Run", start: int, stop: int, *, verify: bool) -> None:
        self.run, self.verify = run, verify
        self.layouts: dict[int, list[str]] = {}
        self.checked = {"scalars": 0, "fingerprints": 0, "tensors": 0}
        self.found: list[tuple[int, str]] = []
        self._then: dict[str, dict[int, bytes]] = {}
        inside = range(start + 1, stop + 1)
        index = run.index
        self._stored = [s for s in run.stored() if s in inside] if verify else []
        self._prints = (
            {s: (a[0], names) for s, a, names in index.arrays("fingerprint") if s in inside} if verify else {}
        )
        self.evidence = sorted({*self._stored, *self._prints})

    def json(self, record: dict[str, Any]) -> None:
        """Learn a layout; everything else is forgotten."""
        if record.get("kind") == "define" and self.verify:
            self.layouts[record["layout"]] = record["names"]
            for name in record["names"]:
                steps, values, _, _ = self.run.index.series(name)
                self._then[name] = dict(zip(steps.tolist(), (struct.pack("<d", v) for v in values), strict=True))

    def append(self, payload: bytes) -> None:
        """Compare one step's scalars, bit by bit."""
        if not self.verify or payload[0] != SCALARS:
            return
        layout, step = struct.unpack_from("<HQ", payload, 1)
        for i, name in enumerate(self.layouts[layout]):
            now, then = payload[19 + 8 * i : 27 + 8 * i], self._then[name].get(step)
            if then is not None:
                self.checked["scalars"] += 1
                if now != then:
                    a, b = struct.unpack("<d", then)[0], struct.unpack("<d", now)[0]
                    self.found.append((step, f"step {step}: {name} was {a!r}, is now {b!r}"))

    def finish(self, start: int, stop: int) -> None:
        """Name the series that were recorded then and are not recorded now."""
        if not self.verify:
            return
        for name in self.run.index.scalars():
            steps, _, _, _ = self.run.index.series(name)
            due = steps[(steps > start) & (steps <= stop)]
            if len(due) and name not in self._then:
                self.found.append((int(due[0]), f"step {due[0]}: {name} was recorded then, and is not recorded now"))

    def next_after(self, n: int) -> int:
        """The next step with stored evidence."""
        return next((s for s in self.evidence if s > n), NEVER)

    def visit(self, n: int, recorder: "Recorder") -> None:
        """Compare the state at step n with the snapshot or the fingerprints taken there."""
        if n not in self._stored and n not in self._prints:
            return
        now = capture(recorder.objects)
        if n in self._prints:
            prints, names = self._prints[n]
            _, tensors = flatten(now, "")
            for name, then in zip(names, prints.tolist(), strict=True):
                self.checked["fingerprints"] += 1
                if name not in tensors or fingerprint(tensors[name]) != then:
                    self.found.append((n, f"step {n}: tensor {name.lstrip('.')} differs"))
        if n in self._stored:
            then_state, _ = self.run.snapshots.load(n)
            self.checked["tensors"] += len(flatten(then_state, "")[1])
            self.found += [(n, f"step {n}: {d}") for d in differences(then_state, now)]
