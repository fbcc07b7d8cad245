"""Boundaries of stages from the path of a run: where it turns in the space of its outputs."""

from typing import Any

import numpy as np

from strobe.core.cards import observable
from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.numerics.boundaries import supported
from strobe.numerics.local_polynomials import local_polynomials, log_widths, resampled
from strobe.numerics.osculating import osculating, turns
from strobe.observables.essential_dynamics import essential_dynamics, inside
from strobe.observables.stages import boundaries

METHOD = "turns of the trajectory"


@observable(symbol="t_v", of="run", cost="one forward per stored step", ref="arXiv:2402.02364")
def vertices(
    run: Any, *, of: str | None = None, width: float | None = None, turn: float = 0.5, within: float = 0.15, least: float = 0.5,
    draws: int = 200, seed: int = 0, **options: Any,
) -> Reading:  # fmt: skip
    """Steps at which the path of a run's outputs turns sharply: maxima of the curvature of its essential dynamics.

        t_v: local maxima of κ(log t), of paths with arcs that turn by ∫ κ ds >= `turn` between the minima beside them

    Args: `run` a run (then `options` are those of `essential_dynamics`), or a reading of `essential_dynamics`, with
    `of` the name of a run in it; `width` of the smoothing, in decades at the last step (default: the reading's);
    `turn` radians; `within` decades of a maximum another one is the same, on this path and on a resampled one; `least`: what
    `sure` must be, else it is not listed (`how["dropped"]` has those). A turn closer
    to an end of the path than 1.5 widths (or spacings of its points) is none: there a fit has points on one side only, and
    the noise of the last steps alone turns it around (`how["edge"]` has those).
    Value: steps. Err: one standard error, in steps: how far the maximum moves when the path is its smooth curve plus
    moving blocks of what was smoothed away, and normal noise of the jackknife's size. `how["boundaries"]`: for each its
    `method`, `step`, `err`, `decades` (err in log10 t), `sure` (how often resampled paths have it, beyond chance), and `turned`
    (radians, ∫ |dθ| over its arc: wiggles add).
    Cost: as `essential_dynamics`; milliseconds for a reading. Regime: turns that lie closer than the width are one; a
    stage that goes straight on is not seen.
    Raises `BadOption` for options out of range, or a name the reading does not have.
    Ref: vertices and cusps of essential dynamics in Hoogland et al., arXiv:2402.02364, appendix; the criterion of the
    angle and the resampling are ours.

    >>> x = np.linspace(0, 3, 60); corner = np.stack([np.minimum(x, 1.5), np.maximum(x - 1.5, 0)], 1)
    >>> path = Reading(corner, 0 * corner, "", {"steps": (10**x).tolist(), "run": ["run"] * 60, "scores": corner.tolist(), "width": 0.2})
    >>> np.round(np.log10(vertices(path).value), 1).tolist()
    [1.5]
    """
    if not (turn > 0 and within > 0 and draws >= 20 and 0 <= least <= 1):
        raise BadOption(
            f"vertices needs turn, within > 0, draws >= 20, 0 <= least <= 1; got {turn}, {within}, {draws}, {least}"
        )
    if not isinstance(run, Reading):
        options |= {} if width is None else {"width": width}
        run = essential_dynamics(run, turn=turn, **options)
    names = list(dict.fromkeys(run.how["run"]))
    name = names[0] if of is None else of
    if name not in names:
        raise BadOption(f"the reading has no run {name!r}; it has {', '.join(names)}")
    mine = np.array([n == name for n in run.how["run"]])
    x = np.log10(np.array(run.how["steps"], float)[mine])
    y, err = np.array(run.how["scores"], float)[mine], np.asarray(run.err, float)[mine]
    width = run.how["width"] if width is None else width
    grid = np.linspace(x[0], x[-1], max(200, 2 * len(x)))
    matrices = local_polynomials(x, grid, log_widths(grid, width))
    rng = np.random.default_rng(seed)
    again = resampled(x, y, log_widths(x, width), draws, rng) + err * rng.standard_normal((draws, *y.shape))
    places, angles = _turns(grid, matrices, y, turn, within)
    there = inside(x, places, width)
    edge = [float(10**p) for p in places[~there]]
    places, angles = places[there], angles[there]
    sure, spread = supported(
        places, [_turns(grid, matrices, z, turn, within)[0] for z in again], within, float(np.ptp(x))
    )
    decades = np.hypot(spread, np.interp(places, x[1:], np.diff(x)) / np.sqrt(12))
    found = boundaries(METHOD, 10**places, decades, sure, turned=angles)
    kept = [b for b in found if b["sure"] >= least]
    how = {
        "boundaries": kept, "dropped": [b for b in found if b["sure"] < least], "method": METHOD, "of": name, "turn": turn, "width": width,
        "within": within, "edge": edge, "low": float(10 ** x[0]), "high": float(10 ** x[-1]), "explained": run.how.get("explained"),
    }  # fmt: skip
    return Reading(np.array([b["step"] for b in kept]), np.array([b["err"] for b in kept]), "steps", how)


def _turns(
    grid: np.ndarray, matrices: np.ndarray, y: np.ndarray, turn: float, within: float
) -> tuple[np.ndarray, np.ndarray]:
    """Places and angles; of maxima closer than `within` the one that turns more stands for both, else they share support."""
    places, angles = turns(grid, osculating(*(matrices @ y)), turn)
    while len(places) > 1 and np.diff(places).min() < within:
        i = int(np.argmin(np.diff(places)))
        keep, drop = (i, i + 1) if angles[i] >= angles[i + 1] else (i + 1, i)
        angles[keep] += angles[drop]
        places, angles = np.delete(places, drop), np.delete(angles, drop)
    return places, angles
