"""Boundaries of stages from a learning coefficient: where it stops rising or falling in log time."""

from typing import Any

import numpy as np

from strobe.core.cards import observable
from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.numerics.boundaries import supported
from strobe.numerics.local_polynomials import local_polynomials, log_widths, resampled
from strobe.observables.stages import boundaries, series_of

METHOD = "plateaus of the learning coefficient"


@observable(symbol="dλ̂/d ln t ≈ 0", of="run", cost="no gradients: refits of a smooth curve", ref="arXiv:2402.02364")
def llc_plateaus(
    run: Any, *, name: str = "llc", flat: float = 0.25, width: float = 0.2, within: float = 0.15, least: float = 0.5, from_step: int = 1,
    draws: int = 400, seed: int = 0,
) -> Reading:  # fmt: skip
    """Steps at which a trace of λ̂ stops moving in log t, or begins to: the edges of its plateaus.

        s(x) = slope of a local quadratic fit of λ̂(x), x = log10 t, of width as in `essential_dynamics`
        a plateau: an interval where |s| < `flat` · range of the fit, per decade;  its boundaries: both edges inside the trace,
        or the middle where it is shorter than 2 `within` (a maximum, a minimum, a short shoulder)

    Args: `run` anything with `series(name)`, or a mapping name -> (steps, values, errs); `name` the trace (any other
    than λ̂ does too); `flat` ranges per decade; `width` decades, at the last step; plateaus less than `within` decades
    apart are one, and a boundary of a resampled curve within `within` is the same; `least`: what `sure` must be, else it
    is not listed (`how["dropped"]` has those).
    Value: steps. Err: one standard error, in steps, over curves that are the fit plus the readings' own errs (normal)
    and what scatters beyond these (moving blocks). `how["boundaries"]`: for each its `method`, `step`, `err`, `decades`,
    `sure` (how often resampled curves have it, beyond chance), and `kind`: "plateau begins", "plateau ends", "maximum",
    "minimum", "shoulder"; `how["plateaus"]`: first and last step of each.
    Cost: milliseconds. Regime: at least 6 readings; stages shorter than the width are not seen. A λ̂ taken where the
    snapshot is not near a minimum says what the trace says, and no more.
    Raises `BadOption` with fewer than 6 readings, or a trace without range.
    Ref: boundaries at plateaus of λ̂(t) as in Hoogland et al., arXiv:2402.02364 (there the slope of a Gaussian process).

    >>> t = np.logspace(0, 4, 50); y = np.tanh(4 * (np.log10(t) - 1)) + np.tanh(4 * (np.log10(t) - 3))
    >>> got = llc_plateaus({"llc": (t, y, 0 * y + 0.02)})
    >>> [(b["kind"], round(float(np.log10(b["step"])), 1)) for b in got.how["boundaries"]][1:3]
    [('plateau begins', 1.4), ('plateau ends', 2.6)]
    """
    if not (flat > 0 and width > 0 and within > 0 and draws >= 20 and 0 <= least <= 1):
        raise BadOption("llc_plateaus needs flat, width, within > 0, draws >= 20 and 0 <= least <= 1")
    steps, y, err = series_of(run, name)
    keep = np.isfinite(y) & np.isfinite(err) & (steps >= max(from_step, 1))
    if keep.sum() < 6:
        raise BadOption(
            f"llc_plateaus needs 6 finite readings of {name!r} from step {from_step} on, found {keep.sum()}"
        )
    x, y, err = np.log10(steps[keep]), y[keep], err[keep]
    grid = np.linspace(x[0], x[-1], 200)
    matrices = local_polynomials(x, grid, log_widths(grid, width))[:2]
    if not np.ptp(matrices[0] @ y) > 0:
        raise BadOption(f"the trace {name!r} has no range: there is nothing to find on it")
    rng = np.random.default_rng(seed)
    again = resampled(x, y, log_widths(x, width), draws, rng)
    spread = float(np.std(again - again.mean(0)))
    own = float(np.sqrt(np.square(err).mean()))  # what scatters beyond the readings' own errs is noise of training
    again = again.mean(0) + (again - again.mean(0)) * np.sqrt(max(1 - (own / spread) ** 2, 0.0) if spread else 0.0)
    again = again + err * rng.standard_normal(again.shape)
    places, kinds, plateaus = _edges(grid, matrices @ y, flat, within)
    others = [_edges(grid, matrices @ z, flat, within)[0] for z in again]
    sure, moved = supported(places, others, within, float(np.ptp(x)))
    decades = np.hypot(moved, np.interp(places, x[1:], np.diff(x)) / np.sqrt(12))
    listed = boundaries(METHOD, 10**places, decades, sure, kind=kinds)
    kept = [b for b in listed if b["sure"] >= least]
    how = {
        "boundaries": kept, "dropped": [b for b in listed if b["sure"] < least], "method": METHOD, "of": name, "flat": flat, "width": width,
        "within": within, "plateaus": [[float(10 ** grid[a]), float(10 ** grid[b])] for a, b in plateaus],
        "low": float(10 ** x[0]), "high": float(10 ** x[-1]),
    }  # fmt: skip
    return Reading(np.array([b["step"] for b in kept]), np.array([b["err"] for b in kept]), "steps", how)


def _edges(
    grid: np.ndarray, curve: np.ndarray, flat: float, within: float
) -> tuple[np.ndarray, list[str], list[tuple[int, int]]]:
    """(places, what each is, (first, last) of each plateau)."""
    plateaus, last = _plateaus(grid, curve, flat, within), len(grid) - 1
    found: list[tuple[float, str]] = []
    for a, b in plateaus:
        if a > 0 and b < last and grid[b] - grid[a] < 2 * within:
            before, after = curve[1][a - 1], curve[1][b + 1]
            kind = "shoulder" if before * after > 0 else "maximum" if before > 0 else "minimum"
            found.append(((grid[a] + grid[b]) / 2, kind))
            continue
        found += [(grid[a], "plateau begins")] * (a > 0) + [(grid[b], "plateau ends")] * (b < last)
    return np.array([f[0] for f in found]), [f[1] for f in found], plateaus


def _plateaus(grid: np.ndarray, curve: np.ndarray, flat: float, within: float) -> list[tuple[int, int]]:
    """(first, last) of each interval on which the slope is small."""
    value, slope = curve
    low = np.abs(slope) < flat * float(np.ptp(value))
    turn = slope[:-1] * slope[1:] < 0  # an extremum between two points of the grid is flat however steep its sides
    low[:-1] |= turn
    low[1:] |= turn
    edges = np.flatnonzero(np.diff(np.concatenate([[0], low.astype(int), [0]])))
    joined: list[tuple[int, int]] = []
    for a, b in zip(edges[::2].tolist(), (edges[1::2] - 1).tolist(), strict=True):
        if joined and grid[a] - grid[joined[-1][1]] < within:
            joined[-1] = (joined[-1][0], b)
        else:
            joined.append((a, b))
    return joined
