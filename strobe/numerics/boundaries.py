"""Places on an axis with errors: which of them come again under resampling, and which agree between methods."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

Places = tuple[np.ndarray, np.ndarray, np.ndarray]  # where, standard error, support


def supported(
    places: np.ndarray, again: Sequence[np.ndarray], within: np.ndarray | float, span: float
) -> tuple[np.ndarray, np.ndarray]:
    """(support, err) of each place: how often resampled sets have a place of its own within `within`, and their spread.

        support = (s − c) / max(1 − c, 0.1), at least 0:  s the share of sets that have it, c = mean of min(1, 2 · within · count / span)

    c is what as many places anywhere on the axis of length `span` would get: where places lie close, coming again says
    nothing. One resampled place counts for one place only. err is the standard deviation of those that came again.

    >>> support, err = supported(np.array([1.0, 2.0]), [np.array([1.1]), np.array([0.9, 2.5])], 0.2, 60.0)
    >>> np.round(support, 2).tolist(), np.round(err, 2).tolist()
    ([1.0, 0.0], [0.1, 0.2])
    """
    reach = np.broadcast_to(np.asarray(within, float), np.shape(places))
    found: list[list[float]] = [[] for _ in places]
    for other in again:
        for i, j in matched(places, other, np.repeat(reach[:, None], len(other), 1)):
            found[i].append(float(other[j]))
    share = np.array([len(f) / max(len(again), 1) for f in found])
    chance = np.array([np.mean([min(1.0, 2 * r * len(a) / span) for a in again]) for r in reach])
    support = np.maximum(share - chance, 0) / np.maximum(1 - chance, 0.1)
    err = np.array([np.std(f) if len(f) > 1 else r for f, r in zip(found, reach, strict=True)])
    return np.minimum(support, 1.0), err


def matched(a: np.ndarray, b: np.ndarray, reach: np.ndarray) -> list[tuple[int, int]]:
    """One-to-one pairs (i, j) with |a_i − b_j| <= reach_ij: as many as possible, and of those the nearest.

    >>> matched(np.array([1.0, 2.0]), np.array([1.1, 5.0]), np.full((2, 2), 0.5))
    [(0, 0)]
    """
    if not len(a) or not len(b):
        return []
    gap = np.abs(np.asarray(a)[:, None] - np.asarray(b)[None, :]) / np.maximum(reach, 1e-12)
    near = gap <= 1
    cost = np.where(near, gap, 1e3 * max(len(a), len(b)))  # as many as possible first
    rows, columns = linear_sum_assignment(cost)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if near[i, j]]


@dataclass(frozen=True, slots=True)
class Agreement:
    """`share` 2 · pairs / (count a + count b) with `err`; `chance` what places at random get, and `p` how often as much."""

    share: float
    err: float
    chance: float
    p: float
    pairs: list[tuple[int, int]]


def agreement(a: Places, b: Places, low: float, high: float, *, k: float = 2.0, floor: float = 0.0,
              draws: int = 400, seed: int = 0) -> Agreement:  # fmt: skip
    """How many of two sets of places agree: |a_i − b_j| <= max(k √(err_i² + err_j²), floor), each place in one pair at most.

    err: standard deviation over sets in which each place is there with the probability of its support, moved by its error.
    chance, p: b's places thrown uniformly into [low, high], with their errors: the mean share, and the share of throws
    that do as well (with one added to both counts). Two empty sets agree by definition, and chance does as well.

    >>> one = np.array([1.0, 2.0]), np.full(2, 0.05), np.ones(2)
    >>> agreement(one, one, 0.0, 4.0).share
    1.0
    """
    rng = np.random.default_rng(seed)
    reach = np.maximum(k * np.hypot(a[1][:, None], b[1][None, :]), floor)
    pairs = matched(a[0], b[0], reach)
    share = _share(len(pairs), len(a[0]), len(b[0]))
    again, thrown = [], []
    for _ in range(draws):
        (x, ix), (y, iy) = (_redrawn(s, rng) for s in (a, b))
        again.append(_share(len(matched(x, y, reach[np.ix_(ix, iy)])), len(x), len(y)))
        thrown.append(_share(len(matched(a[0], rng.uniform(low, high, len(b[0])), reach)), len(a[0]), len(b[0])))
    chance = float(np.mean(thrown))
    p = float((np.sum(np.array(thrown) >= share - 1e-12) + 1) / (draws + 1))
    return Agreement(share, float(np.std(again)), chance, p, pairs)


def _redrawn(places: Places, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    there = np.flatnonzero(rng.random(len(places[0])) < places[2])
    return places[0][there] + places[1][there] * rng.standard_normal(len(there)), there


def _share(pairs: int, a: int, b: int) -> float:
    return 2 * pairs / (a + b) if a + b else 1.0
