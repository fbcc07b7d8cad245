"""Draw the strip: stacked traces over one logarithmic axis of training steps, with stages, events and predictions."""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from strobe.runs.run import Run

# Okabe and Ito's colours, legible to the colour-blind
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#8c6d31"]
STAGE_TINTS = ["#eef3f8", "#fdf3e7", "#eaf6f0", "#f8eef5", "#fbf8e6", "#eef7fb", "#f1f1f1", "#f6f0e6"]
WIDTH = 11.0


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
class Trace:
    """What is drawn for one series of one run."""

    label: str
    steps: np.ndarray
    values: np.ndarray
    errs: np.ndarray
    branch: bool = False


def traces(run: Run, name: str, label: str, *, branch: bool = False) -> list[Trace]:
    """A scalar series as one trace, an array reading as one per element (labelled by its `how["labels"]`)."""
    if name in run.names():
        s = run.series(name)
        if branch:
            keep = s.steps >= run.start
            s.steps, s.values, s.errs = s.steps[keep], s.values[keep], s.errs[keep]
        return [Trace(label, s.steps, s.values, s.errs, branch)]
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
    labels = last["how"].get("labels") or [
        ".".join(map(str, i)) if len(shape) > 1 else str(i[0]) for i in np.ndindex(*shape)
    ]
    return [Trace(f"{label} {n}".strip(), steps, values[:, i], errs[:, i], branch) for i, n in enumerate(labels)]


def draw(run: Run, panels: Sequence[Panel], branches: Sequence[Run], stages: dict[str, Any] | None) -> str:
    """The strip as an SVG text."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9, "axes.spines.top": False,
                         "axes.spines.right": False, "svg.hashsalt": "strobe",
                         "text.parse_math": False, "font.sans-serif": ["DejaVu Sans", "Arial"]}):  # fmt: skip
        rows = len(panels) + 1
        heights = [1.55] * len(panels) + [0.75]
        fig, axes = plt.subplots(rows, 1, sharex=True, figsize=(WIDTH, sum(heights) + 0.5), height_ratios=heights)
        for ax, panel in zip(axes, panels, strict=False):
            _panel(ax, panel, run, branches)
        _events(axes[-1], run, branches)
        low = 1 if run.start == 0 else max(run.start, 1)
        for ax in axes:
            ax.set_xscale("log")
            ax.set_xlim(low, max([run.last, *(b.last for b in branches), low + 1]))
            _bands(ax, stages, first=ax is axes[0])
        axes[-1].set_xlabel("training step (log scale)")
        fig.align_ylabels(axes)
        fig.subplots_adjust(
            left=0.085, right=0.80, top=1 - 0.35 / fig.get_figheight(), bottom=0.45 / fig.get_figheight(), hspace=0.22
        )
        return _svg(fig)


def _svg(fig: Any) -> str:
    import matplotlib.pyplot as plt

    out = io.StringIO()
    fig.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(fig)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)


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


def thin(steps: np.ndarray, values: np.ndarray, most: int = 900) -> tuple[np.ndarray, np.ndarray]:
    """The points of `kept`, on a log axis."""
    keep = kept(steps, values, most)
    return steps[keep], values[keep]


def _panel(ax: Any, panel: Panel, run: Run, branches: Sequence[Run]) -> None:
    from strobe.core.errors import NameNotFound

    drawn = 0
    for name in panel.series:
        label = panel.labels.get(name, name)
        try:
            found = traces(run, name, label)
        except NameNotFound:
            continue
        for t in found:
            _line(ax, t, COLOURS[drawn % len(COLOURS)], many=len(found) > 4)
            drawn += 1
        for i, b in enumerate(branches):
            try:
                for j, t in enumerate(traces(b, name, "", branch=True)):
                    title = f"{b.name}: {label}" if len(found) == 1 else (b.name if j == 0 else "_")
                    _line(
                        ax,
                        Trace(title, t.steps, t.values, t.errs, True),
                        COLOURS[(drawn - len(found) + j) % len(COLOURS)],
                        style=i,
                    )
            except NameNotFound:
                continue
    for curve in panel.curves:
        ax.plot(curve["steps"], curve["values"], color="#222222", lw=1.1, ls=":", zorder=5, label=curve["label"])
    for line in panel.lines:
        ax.axhline(line["value"], color="#555555", lw=0.9, ls=(0, (4, 2)), zorder=1)
        if line.get("err"):
            ax.axhspan(line["value"] - line["err"], line["value"] + line["err"], color="#555555", alpha=0.12, lw=0)
        ax.annotate(line["label"], (1.0, line["value"]), xycoords=("axes fraction", "data"), xytext=(-3, 2),
                    textcoords="offset points", ha="right", va="bottom", fontsize=7.5, color="#333333")  # fmt: skip
    if panel.log:
        ax.set_yscale("log")
    ax.set_ylabel(panel.unit, fontsize=8.5)
    ax.set_title(panel.title, loc="left", fontsize=9.5, fontweight="bold", pad=3)
    if panel.note:
        ax.set_title(panel.note, loc="right", fontsize=7.5, color="#555555", pad=3)
    if drawn:
        ax.legend(loc="upper left", bbox_to_anchor=(1.005, 1.02), fontsize=7.5, frameon=False, handlelength=1.4,
                  borderaxespad=0.2, labelspacing=0.25, ncols=2 if drawn > 7 else 1, columnspacing=0.8)  # fmt: skip
    else:
        ax.text(0.5, 0.5, "nothing recorded", transform=ax.transAxes, ha="center", va="center", color="#888888")
    ax.grid(axis="y", color="#dddddd", lw=0.5)


def _line(ax: Any, t: Trace, colour: str, *, many: bool = False, style: int = 0) -> None:
    keep = t.steps >= 1
    steps, values, errs = t.steps[keep], t.values[keep], t.errs[keep]
    dashes: Any = "-" if not t.branch else [(0, (5, 1.5)), (0, (2, 1.2)), (0, (5, 1, 1, 1))][style % 3]
    x, y = thin(steps, values)
    marker = {"marker": "o", "ms": 2.2} if len(x) <= 60 and not many else {}
    ax.plot(
        x, y, color=colour, lw=1.0 if many else 1.3, ls=dashes, label=t.label, alpha=0.75 if t.branch else 1.0, **marker
    )
    if errs.any() and len(steps) <= 400:
        ax.fill_between(steps, values - errs, values + errs, color=colour, alpha=0.18, lw=0)
    bad = ~np.isfinite(values)
    if bad.any():
        ax.plot(
            steps[bad],
            np.full(bad.sum(), 0.02),
            "x",
            color="#c00000",
            ms=5,
            transform=ax.get_xaxis_transform(),
            label="not finite",
        )


def _bands(ax: Any, stages: dict[str, Any] | None, *, first: bool) -> None:
    if not stages:
        return
    low, high = ax.get_xlim()
    edges = [low, *stages["value"], high]
    for i in range(len(edges) - 1):
        ax.axvspan(edges[i], edges[i + 1], color=STAGE_TINTS[i % len(STAGE_TINTS)], zorder=-3, lw=0)
        if first:
            ax.annotate(f"stage {i + 1}", (np.sqrt(edges[i] * edges[i + 1]), 1.16), xycoords=("data", "axes fraction"),
                        ha="center", fontsize=8, color="#333333", annotation_clip=False)  # fmt: skip
    for t, err in zip(stages["value"], np.broadcast_to(stages["err"], np.shape(stages["value"])), strict=True):
        ax.axvspan(max(t - 2 * err, low), min(t + 2 * err, high), color="#7a7a7a", alpha=0.16, zorder=-2, lw=0)
        ax.axvline(t, color="#7a7a7a", lw=0.8, zorder=-1)


SHOWN_EVENTS = {
    "prediction": ("sealed prediction", "^", "#0072b2"), "verdict": ("verdict", "v", "#009e73"),
    "applied": ("control set", "D", "#d55e00"), "edit": ("edit", "D", "#d55e00"), "error": ("error", "X", "#c00000"),
    "nonfinite": ("not finite", "X", "#c00000"), "command": ("command", "s", "#cc79a7"), "replay": ("replay", "P", "#000000"),
}  # fmt: skip


def _events(ax: Any, run: Run, branches: Sequence[Run]) -> None:
    ax.set_title("snapshots, events, forks", loc="left", fontsize=9.5, fontweight="bold", pad=3)
    ax.set_yticks([])
    ax.set_ylim(-1.4, 1.2)
    stored = [max(s, 1) for s in run.stored()]
    ax.plot(stored, [0.75] * len(stored), "|", color="#555555", ms=6, label=f"{len(stored)} snapshots")
    for kind, (label, mark, colour) in SHOWN_EVENTS.items():
        steps = [max(e["step"], 1) for r in (run, *branches) for e in r.events(kind)]
        if steps:
            ax.plot(
                steps,
                [0.1] * len(steps),
                mark,
                color=colour,
                ms=5,
                ls="",
                label=f"{len(steps)} × {label}",
                clip_on=False,
            )
    for i, b in enumerate(branches):
        at = max(b.start, 1)
        ax.plot([at, b.last], [-0.5 - 0.4 * i] * 2, color="#d55e00", lw=1.4, ls="--", label=f"{b.name} from {b.start}")
    ax.legend(loc="upper left", bbox_to_anchor=(1.005, 1.1), fontsize=7.5, frameon=False, borderaxespad=0.2, labelspacing=0.2,
              ncols=1, handlelength=1.2)  # fmt: skip


def draw_path(run: Run, name: str, stages: dict[str, Any] | None) -> str | None:
    """The trajectory in its first two principal axes, coloured by stage; None where it was not measured."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    found = [e for e in run.index.events("reading", superseded=False) if e["name"] == name]
    if not found:
        return None
    scores, errs = np.array(found[-1]["value"], float), np.array(found[-1]["err"], float)
    how = found[-1]["how"]
    if scores.shape[1] < 2:
        return None
    steps = np.array(how["steps"])
    stage = np.searchsorted(stages["value"], steps, side="right") if stages else np.zeros(len(steps), int)
    with plt.rc_context({"svg.fonttype": "none", "font.size": 9, "svg.hashsalt": "strobe", "text.parse_math": False}):
        fig, ax = plt.subplots(figsize=(6.4, 4.2))
        ax.plot(scores[:, 0], scores[:, 1], color="#999999", lw=0.8, zorder=1)
        for k in np.unique(stage):
            at = stage == k
            ax.errorbar(scores[at, 0], scores[at, 1], errs[at, 1], errs[at, 0], fmt="o", ms=4, color=COLOURS[k % len(COLOURS)],
                        elinewidth=0.6, label=f"stage {k + 1}", zorder=2)  # fmt: skip
        for i in sorted({0, len(steps) - 1, *np.linspace(0, len(steps) - 1, 6).astype(int)}):
            ax.annotate(
                str(steps[i]),
                (float(scores[i, 0]), float(scores[i, 1])),
                xytext=(4, 4),
                textcoords="offset points",
                fontsize=7.5,
            )
        ax.set_xlabel(f"PC 1 ({how['explained'][0]:.0%} of the variance)")
        ax.set_ylabel(f"PC 2 ({how['explained'][1]:.0%})")
        ax.legend(fontsize=8, frameon=False)
        fig.tight_layout()
        return _svg(fig)
