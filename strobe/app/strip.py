"""Draw the strip: stacked traces over one axis of training steps, with stages, events and predictions."""

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from strobe.app.sealed import about, draw_laws, with_titles
from strobe.app.traces import COLOURS, WHOLE, Panel, Trace, View, drawn, kept
from strobe.runs.run import Run

STAGE_TINTS = ["#eef3f8", "#fdf3e7", "#eaf6f0", "#f8eef5", "#fbf8e6", "#eef7fb", "#f1f1f1", "#f6f0e6"]
PLAYHEAD = "#d55e00"
WIDTH = 11.0


def draw(
    run: Run,
    panels: Sequence[Panel],
    branches: Sequence[Run],
    stages: dict[str, Any] | None,
    view: View = WHOLE,
    laws: Sequence[dict[str, Any]] = (),
) -> str:
    """The strip as an SVG text; `laws` as `laws_of` gives them."""
    import matplotlib
    from matplotlib.figure import Figure  # not pyplot: a notebook's own backend is none of our business

    with matplotlib.rc_context({"svg.fonttype": "none", "font.family": "sans-serif", "font.size": 9,
                                "axes.spines.top": False, "axes.spines.right": False, "svg.hashsalt": "strobe",
                                "text.parse_math": False, "font.sans-serif": ["DejaVu Sans", "Arial"]}):  # fmt: skip
        heights = [1.55] * len(panels) + [0.75]
        fig = Figure(figsize=(WIDTH, sum(heights) + 0.5))
        axes = fig.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
        span = view.spans(run, branches)
        for ax in axes:
            ax.set_xscale("log" if view.log else "linear")
            ax.set_xlim(span)
            if view.log:
                _plain_log(ax.xaxis, *span)
        for ax, panel in zip(axes, panels, strict=False):
            _panel(ax, panel, drawn(panel, run, branches, view), view.log, laws)
        _events(axes[-1], run, branches)
        for ax in axes:
            _bands(ax, stages, first=ax is axes[0], log=view.log)
        if view.playhead is not None:
            _playhead(axes, view.playhead, view.log)
        axes[-1].set_xlabel(f"training step ({'log' if view.log else 'linear'} scale)")
        fig.align_ylabels(axes)
        fig.subplots_adjust(
            left=0.085, right=0.80, top=1 - 0.35 / fig.get_figheight(), bottom=0.45 / fig.get_figheight(), hspace=0.22
        )
        told: dict[str, str] = {}
        for ax, panel in zip(axes, panels, strict=False):
            told |= draw_laws(ax, panel, laws)
        return with_titles(_svg(fig), told)


def _playhead(axes: Any, step: int, log: bool) -> None:
    low, high = axes[0].get_xlim()
    at = 1 if log and step == 0 else step  # as everything at step 0, at the beginning of a logarithmic axis
    if low <= at <= high:
        for ax in axes:
            ax.axvline(at, color=PLAYHEAD, lw=1.2, zorder=6)
        right = axes[0].transAxes.inverted().transform(axes[0].transData.transform((at, 0)))[0] > 0.9
        axes[0].annotate(str(step), (at, 1.0), xycoords=("data", "axes fraction"), xytext=(-4 if right else 4, -3),
                         textcoords="offset points", ha="right" if right else "left", va="top", fontsize=7.5, color="white",
                         zorder=7, bbox={"boxstyle": "round,pad=0.2", "fc": PLAYHEAD, "ec": "none"})  # fmt: skip


def _plain_log(axis: Any, low: float, high: float) -> None:
    """Ticks of a logarithmic axis as plain numbers: powers are mathematics, which an SVG's text does not set."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    decades = np.log10(high / low) if high > low > 0 else 9
    subs = (1.0,) if decades > 3 else (1.0, 3.0) if decades > 2 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs, numticks=9) if decades > 1 else MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:.6g}"))
    axis.set_minor_formatter(NullFormatter())


def _svg(fig: Any) -> str:
    out = io.StringIO()
    fig.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    text = out.getvalue()
    text = text[text.index("<svg") :]
    return re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)


def _panel(ax: Any, panel: Panel, found: Sequence[Trace], log: bool, laws: Sequence[dict[str, Any]]) -> None:
    low, high = ax.get_xlim()
    elements = sum(not t.branch for t in found)
    several = {t.branch for t in found if not t.named}
    for t in found:
        if t.branch and len(t.steps) and t.steps[0] > high:
            continue  # it forks later than this window
        legend = "_" if not t.named else t.branch if t.branch in several else t.title
        _line(ax, t.within(low, high), legend, log, many=elements > 4 and not t.branch)
    for curve in panel.curves:
        ax.plot(curve["steps"], curve["values"], color="#222222", lw=1.1, ls=":", zorder=5, label=curve["label"])
    for line in panel.lines:
        ax.axhline(line["value"], color="#555555", lw=0.9, ls=(0, (4, 2)), zorder=1)
        if line.get("err"):
            ax.axhspan(line["value"] - line["err"], line["value"] + line["err"], color="#555555", alpha=0.12, lw=0)
        if any(
            np.isclose(line["value"], w["predicted"], rtol=1e-9, atol=0)
            for w in about(panel, laws)
            if np.ndim(w["predicted"]) == 0
        ):
            continue  # it was predicted: its label comes with the verdict
        ax.annotate(line["label"], (1.0, line["value"]), xycoords=("axes fraction", "data"), xytext=(-3, 2),
                    textcoords="offset points", ha="right", va="bottom", fontsize=7.5, color="#333333")  # fmt: skip
    if panel.log:
        ax.set_yscale("log")
        _plain_log(ax.yaxis, *ax.get_ylim())
    ax.set_ylabel(panel.unit, fontsize=8.5)
    ax.set_title(panel.title, loc="left", fontsize=9.5, fontweight="bold", pad=3)
    if panel.note:
        ax.set_title(panel.note, loc="right", fontsize=7.5, color="#555555", pad=3)
    if found:
        ax.legend(loc="upper left", bbox_to_anchor=(1.005, 1.02), fontsize=7.5, frameon=False, handlelength=1.4,
                  borderaxespad=0.2, labelspacing=0.25, ncols=2 if elements > 7 else 1, columnspacing=0.8)  # fmt: skip
    else:
        ax.text(0.5, 0.5, "nothing recorded", transform=ax.transAxes, ha="center", va="center", color="#888888")
    ax.grid(axis="y", color="#dddddd", lw=0.5)


def _line(ax: Any, t: Trace, legend: str, log: bool, *, many: bool) -> None:
    on = slice(None) if not log else t.steps >= 1
    steps, values, errs = t.steps[on], t.values[on], t.errs[on]
    dashes: Any = "-" if not t.branch else [(0, (5, 1.5)), (0, (2, 1.2)), (0, (5, 1, 1, 1))][t.style % 3]
    keep = kept(steps, values, 900, log=log)
    marker = {"marker": "o", "ms": 2.2} if len(keep) <= 60 and not many else {}
    ax.plot(
        steps[keep], values[keep], color=t.colour, lw=1.0 if many else 1.3, ls=dashes, label=legend,
        alpha=0.75 if t.branch else 1.0, **marker,
    )  # fmt: skip
    if errs.any() and len(steps) <= 400:
        ax.fill_between(steps, values - errs, values + errs, color=t.colour, alpha=0.18, lw=0)
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


def _bands(ax: Any, stages: dict[str, Any] | None, *, first: bool, log: bool) -> None:
    if not stages:
        return
    low, high = ax.get_xlim()
    edges = np.clip([low, *stages["value"], high], low, high)
    place = np.log(edges) if log else edges
    for i in range(len(edges) - 1):
        if edges[i] == edges[i + 1]:
            continue
        ax.axvspan(edges[i], edges[i + 1], color=STAGE_TINTS[i % len(STAGE_TINTS)], zorder=-3, lw=0)
        if first and (share := (place[i + 1] - place[i]) / (place[-1] - place[0])) > 0.015:
            middle = (place[i] + place[i + 1]) / 2
            ax.annotate(f"stage {i + 1}" if share > 0.06 else str(i + 1), (np.exp(middle) if log else middle, 1.16),
                        xycoords=("data", "axes fraction"), ha="center", fontsize=8, color="#333333", annotation_clip=False)  # fmt: skip
    for t, err in zip(stages["value"], np.broadcast_to(stages["err"], np.shape(stages["value"])), strict=True):
        if t - 2 * err < high and t + 2 * err > low:
            ax.axvspan(max(t - 2 * err, low), min(t + 2 * err, high), color="#7a7a7a", alpha=0.16, zorder=-2, lw=0)
        if low < t < high:
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
    low, high = ax.get_xlim()
    whole = low <= 1  # what happened at step 0 stands at the beginning of a logarithmic axis

    def within(steps: Sequence[int]) -> list[float]:
        return [max(s, low) for s in steps if (s >= low or whole) and s <= high]

    stored = within(run.stored())
    ax.plot(stored, [0.75] * len(stored), "|", color="#555555", ms=6, label=f"{len(stored)} snapshots")
    for kind, (label, mark, colour) in SHOWN_EVENTS.items():
        steps = within([e["step"] for r in (run, *branches) for e in r.events(kind)])
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
        at = max(b.start, low)
        if b.start > high or b.last < low:
            continue
        ax.plot([at, b.last], [-0.5 - 0.4 * i] * 2, color="#d55e00", lw=1.4, ls="--", label=f"{b.name} from {b.start}")
    ax.legend(loc="upper left", bbox_to_anchor=(1.005, 1.1), fontsize=7.5, frameon=False, borderaxespad=0.2, labelspacing=0.2,
              ncols=1, handlelength=1.2)  # fmt: skip


def draw_path(run: Run, names: Sequence[str], stages: dict[str, Any] | None) -> str | None:
    """The last trajectory of these names in its first two principal axes, coloured by stage; None where none was measured."""
    import matplotlib
    from matplotlib.figure import Figure

    found = [e for e in run.index.events("reading", superseded=False) if e["name"] in names]
    if not found:
        return None
    scores, errs = np.array(found[-1]["value"], float), np.array(found[-1]["err"], float)
    how = found[-1]["how"]
    if scores.shape[1] < 2:
        return None
    steps = np.array(how["steps"])
    stage = np.searchsorted(stages["value"], steps, side="right") if stages else np.zeros(len(steps), int)
    with matplotlib.rc_context(
        {"svg.fonttype": "none", "font.size": 9, "svg.hashsalt": "strobe", "text.parse_math": False}
    ):
        fig = Figure(figsize=(6.4, 4.2))
        ax = fig.subplots()
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
