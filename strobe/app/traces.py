"""What of a run is drawn: its panels, the view a person has of it, and the traces in that."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from strobe.core.errors import BadOption, NameNotFound
from strobe.runs.run import Run

# Okabe and Ito's colours, legible to the colour-blind
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31"]


@dataclass(frozen=True)
class Panel:
    """One row of the strip: series (by name, or name[i] for an array reading) with labels, lines and bands."""

    title: str
    series: list[str]
    unit: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    lines: list[dict[str, Any]] = field(default_factory=list)  # {"value", "label", "err"?}
    curves: list[dict[str, Any]] = field(default_factory=list)  # {"steps", "values", "label"}: what was predicted
    log: bool = False
    note: str = ""


@dataclass(frozen=True)
class View:
    """How a person looks at a run; by default all of it, on a logarithmic axis, without a playhead.

    `window`: the steps in view. `panels`: these only, by title or name of a series. `flips`: of those, by number, the
    panels on the other kind of value axis. `branches`: the ids of those drawn. `lineage`: the ancestors' part in front.
    Raises `BadOption`.
    """

    log: bool = True
    window: tuple[int, int] | None = None
    playhead: int | None = None
    panels: tuple[str, ...] = ()
    flips: frozenset[int] = frozenset()
    branches: frozenset[str] | None = None
    lineage: bool = False

    def __post_init__(self) -> None:
        if self.window and not 0 <= self.window[0] < self.window[1]:
            raise BadOption(f"a window is two steps, the first below the second, got {list(self.window)}")

    def spans(self, run: Run, branches: Sequence[Run]) -> tuple[int, int]:
        """The first and last step on the axis. Raises `BadOption` where nothing of the run lies between."""
        start, last = 0 if self.lineage else run.start, max([run.last, *(b.last for b in branches)])
        low, high = self.window or (start, last)
        if self.window and (low > last or high < start):
            raise BadOption(f"the window {low} to {high} holds no step of {run.name}: it goes from {start} to {last}")
        low = max(low, 1) if self.log else low  # a logarithmic axis has no 0
        return low, max(high, low + 1)


WHOLE = View()


@dataclass(frozen=True)
class Trace:
    """What is drawn for one series of one run."""

    label: str
    steps: np.ndarray
    values: np.ndarray
    errs: np.ndarray
    branch: str = ""  # its name; "" for the run itself
    colour: str = COLOURS[0]
    style: int = 0  # which of the branches
    named: bool = True  # in the legend: of a branch's many elements only the first

    @property
    def title(self) -> str:
        """What it is called where nothing else says whose it is."""
        return f"{self.branch}: {self.label}" if self.branch else self.label

    def within(self, low: float, high: float) -> "Trace":
        """The part between two steps, and one point beyond each end, so that its line reaches the edge."""
        a, b = np.searchsorted(self.steps, low), np.searchsorted(self.steps, high, side="right")
        part = slice(max(int(a) - 1, 0), int(b) + 1)
        return replace(self, steps=self.steps[part], values=self.values[part], errs=self.errs[part])


def traces(run: Run, name: str, label: str, *, lineage: bool = False) -> list[Trace]:
    """A scalar series as one trace, an array reading as one per element (labelled by its `how["labels"]`)."""
    name, _, inside = name.partition("[") if name not in run.names() else (name, "", "")
    if name in run.names():
        s = run.series(name, lineage=lineage)
        return [Trace(label, s.steps, s.values, s.errs)]
    rows = run.readings(name)
    last = rows[-1]
    if len(last["how"].get("steps", ())) == len(np.atleast_1d(last["value"])):  # one reading of a whole path
        rows = [
            {"step": t, "value": v, "err": e}
            for t, v, e in zip(last["how"]["steps"], last["value"], last["err"], strict=True)
        ]
    steps = np.array([r["step"] for r in rows])
    values = np.array([np.ravel(r["value"]) for r in rows], float)
    errs = np.array([np.ravel(np.broadcast_to(r["err"], np.shape(r["value"]))) for r in rows], float)
    shape = np.shape(rows[-1]["value"])
    labels = names_of(last["how"], shape)
    return [
        Trace(f"{label} {n}".strip(), steps, values[:, i], errs[:, i])
        for i, n in enumerate(labels)
        if not inside or inside == f"{i}]"
    ]


def names_of(how: dict[str, Any], shape: tuple[int, ...]) -> list[str]:
    """What each number of an array is called: its `labels`; of a matrix "row, column" (`labels`, `probes`); or its index."""
    rows, columns = how.get("labels") or (), how.get("probes") or ()
    if len(rows) == np.prod(shape):
        return [str(n) for n in rows]
    if len(shape) == 2 and (len(rows), len(columns)) == shape:
        return [f"{r}, {c}" for r in rows for c in columns]
    return [".".join(map(str, i)) for i in np.ndindex(*shape)]


def drawn(panel: Panel, run: Run, branches: Sequence[Run], view: View = WHOLE) -> list[Trace]:
    """All traces of a panel, whole: the run's, and each branch's from its fork in the same colour."""
    out: list[Trace] = []
    for name in panel.series:
        label = panel.labels.get(name, name)
        own = _found(run, name, label, lineage=view.lineage)
        colours = [COLOURS[(sum(not t.branch for t in out) + i) % len(COLOURS)] for i in range(len(own))]
        out += [replace(t, colour=c) for t, c in zip(own, colours, strict=True)]
        for style, b in enumerate(branches):
            for i, (t, c) in enumerate(zip(_found(b, name, label), colours, strict=False)):
                keep = t.steps >= b.start
                out.append(
                    replace(t, steps=t.steps[keep], values=t.values[keep], errs=t.errs[keep], branch=b.name, colour=c,
                            style=style, named=not i))  # fmt: skip
    return out


def _found(run: Run, name: str, label: str, *, lineage: bool = False) -> list[Trace]:
    try:
        return traces(run, name, label, lineage=lineage)
    except NameNotFound:
        return []


def at_playhead(
    panels: Sequence[Panel], run: Run, branches: Sequence[Run], view: View
) -> list[tuple[str, Trace, int | None]]:
    """(panel, trace, index of its last point at or before the playhead; None where it has none yet)."""
    return [
        (p.title, t, int(i) - 1 if (i := np.searchsorted(t.steps, view.playhead or 0, side="right")) else None)
        for p in panels
        for t in drawn(p, run, branches, view)
    ]


def kept(steps: np.ndarray, values: np.ndarray, most: int, *, log: bool = True) -> np.ndarray:
    """Which points to draw: about `most` at most, the least and the largest of each cell of the axis, and both ends.

    No spike is lost: what is drawn reaches as far up and down as what was recorded.
    """
    n = len(steps)
    if n <= most:
        return np.arange(n)
    axis = np.log1p(steps - steps[0]) if log else (steps - steps[0]).astype(float)
    cell = (axis / max(float(axis[-1]), 1e-12) * (most // 2)).astype(np.int64)
    starts = np.flatnonzero(np.diff(cell, prepend=-1))
    own, ok = np.repeat(np.arange(len(starts)), np.diff([*starts, n])), np.isfinite(values)
    low, high = np.where(ok, values, np.inf), np.where(ok, values, -np.inf)
    least, largest = np.minimum.reduceat(low, starts), np.maximum.reduceat(high, starts)
    return np.unique(np.concatenate([_first(low == least[own], own), _first(high == largest[own], own), [0, n - 1]]))


def _first(hit: np.ndarray, own: np.ndarray) -> np.ndarray:
    at = np.flatnonzero(hit)
    return at[np.unique(own[at], return_index=True)[1]]
