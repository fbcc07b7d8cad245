"""The developmental stages of a run: where its traces change course together."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from strobe.core.cards import observable
from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.numerics.changepoints import bends

Trace = tuple[np.ndarray, np.ndarray, np.ndarray]
METHOD = "bends of the traces"


@observable(symbol="t_k", of="run", cost="no gradients: refits of piecewise lines", ref="arXiv:2402.02364")
def stages(
    run: Any, *, names: Sequence[str] | None = None, floor: float = 0.05, most: int = 6, apart: float = 0.12,
    grid: int = 60, from_step: int = 1, seed: int = 0,
) -> Reading:  # fmt: skip
    """Steps t_1 < t_2 < ... at which a set of traces bends: the boundaries between the stages of training.

        min over k, t:  Σ_traces ‖y − piecewise line with bends at log10 t‖² / σ²  +  BIC(k),    σ = max(err, floor · range)

    Args: `run` anything with `names()` and `series(name)`, or a mapping name -> (steps, values, errs); `names` which
    traces (all that have at least 6 points); `floor` the share of a trace's range below which its shape is not
    interpreted; `most` boundaries at most; `apart` their least distance in decades; `grid` points on the log axis.
    Value: the boundaries, in steps. Err: one standard error, in steps (block bootstrap of the residuals, and noise of
    size σ). It covers where a bend lies given how many there are, not whether there should be one more.
    how: `boundaries`, for each its `method`, `step`, `err`, `decades` (err in log10 t) and `sure`: how often
    resampled traces, segmented anew with as many bends as the BIC gives them, have it within `apart`, beyond chance;
    `stages`, one per interval: from, to, what rises, falls or holds still (slope in ranges per decade), and
    "plateau" where nothing moves faster than 0.25 ranges per decade; `bic` for every number of bends.
    Cost: milliseconds. Regime: traces on a common logarithmic axis; a stage shorter than `apart` is not seen.
    Raises `BadOption` when no trace has enough points.
    Ref: stages as in Hoogland et al., arXiv:2402.02364; the segmentation is ours.

    >>> t = np.arange(1, 1001.0); y = np.clip(np.log10(t) - 1, 0, 1)
    >>> np.round(np.log10(stages({"a": (t, y, 0 * y)}).value), 1).tolist()
    [1.0, 2.0]
    """
    traces = _traces(run, names, from_step)
    low = max(t[0][0] for t in traces.values())
    high = min(t[0][-1] for t in traces.values())
    if not high > low:
        raise BadOption("the traces share no interval of steps; name some that do with names=")
    points = min(grid, min(int(((t[0] >= low) & (t[0] <= high)).sum()) for t in traces.values()))
    if points < 6:
        raise BadOption(f"stages needs 6 points of every trace on a common interval of steps, found {points}")
    x = np.linspace(np.log10(low), np.log10(high), points)
    curves, noise = zip(*(_resample(x, t, floor) for t in traces.values()), strict=True)
    ranges = np.array([np.ptp(c) or 1.0 for c in curves])
    found = bends(x, np.stack(curves), np.array(noise), most=most, apart=apart, seed=seed)
    at = 10**found.at
    edges = [float(low), *at.tolist(), float(high)]
    parts = [
        _describe(edges[i], edges[i + 1], dict(zip(traces, found.slopes[i] / ranges, strict=True)))
        for i in range(len(edges) - 1)
    ]
    how = {
        "traces": list(traces), "points": points, "bic": found.bic, "stages": parts, "floor": floor, "method": METHOD,
        "boundaries": boundaries(METHOD, at, found.err, found.sure), "low": float(low), "high": float(high),
    }  # fmt: skip
    return Reading(at, at * np.log(10) * found.err, unit="steps", how=how)


def boundaries(
    method: str, steps: np.ndarray, decades: np.ndarray, sure: np.ndarray, **more: Any
) -> list[dict[str, Any]]:
    """One row for each boundary, as every method records it: which found it, where, and how sure it is.

    `decades` is one standard error of log10 of the step, `sure` how often resampled data have it, 0 to 1; `more` are
    facts of each, lists of one value a boundary.

    >>> round(boundaries("by eye", np.array([100.0]), np.array([0.1]), np.array([0.9]))[0]["err"])
    23
    """
    rows = []
    for i, (t, d, s) in enumerate(zip(steps, decades, sure, strict=True)):
        row = {
            "method": method,
            "step": float(t),
            "err": float(t * np.log(10) * d),
            "decades": float(d),
            "sure": float(s),
        }
        rows.append(row | {k: v[i] if isinstance(v[i], str) else float(v[i]) for k, v in more.items()})
    return rows


def series_of(run: Any, name: str) -> Trace:
    """(steps, values, errs) as floats, of a run or of a mapping."""
    if isinstance(run, Mapping):
        steps, values, errs = (np.asarray(a, float) for a in run[name])
        return steps, values, errs
    s = run.series(name)
    return s.steps.astype(float), s.values, s.errs


def _traces(run: Any, names: Sequence[str] | None, from_step: int) -> dict[str, Trace]:
    given = run if isinstance(run, Mapping) else None
    out = {}
    for name in names or (list(given) if given is not None else run.names()):
        steps, values, errs = series_of(run, name)
        keep = np.isfinite(values) & (steps >= max(from_step, 1))
        if keep.sum() >= 6 or names:
            out[name] = (steps[keep], values[keep], errs[keep])
    if not out:
        raise BadOption("stages needs at least one trace with 6 or more finite points from step 1 on; watch more often")
    return out


def _resample(x: np.ndarray, trace: Trace, floor: float) -> tuple[np.ndarray, float]:
    """A trace on the common grid: the mean of the points in each cell, or between two points a line."""
    steps, values, errs = trace
    at = np.log10(steps)
    half = (x[1] - x[0]) / 2
    y = np.interp(x, at, values)
    cell = np.searchsorted(x - half, at, side="right") - 1
    for i in np.unique(cell[(cell >= 0) & (cell < len(x))]):
        y[i] = values[cell == i].mean()
    spread = float(np.median(np.abs(np.diff(y, 2)))) / 1.65  # sd of noise from second differences: median |N(0, 6σ²)|
    return y, max(float(np.median(errs)), spread, floor * float(np.ptp(y)), 1e-12)


def _describe(start: float, end: float, slopes: dict[str, float]) -> dict[str, Any]:
    moving = {k: round(float(v), 3) for k, v in slopes.items() if abs(v) >= 0.25}
    return {
        "from": round(start, 1), "to": round(end, 1), "kind": "transition" if moving else "plateau",
        "rises": {k: v for k, v in moving.items() if v > 0}, "falls": {k: v for k, v in moving.items() if v < 0},
    }  # fmt: skip
