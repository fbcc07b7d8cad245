"""Held-out comparison of many scores on the same examples: areas under the ROC curve, their intervals, and the price of choosing."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

PAIRS = 1 << 25  # comparisons held at a time


@dataclass(frozen=True, slots=True)
class Areas:
    """value, low, high (scores,): the area of each score and its interval; draws (scores, resamples); chosen: what the best is worth.

    `chosen` is (area, low, high) of the best score with the choice made anew in each resample and judged on what that left out.
    """

    value: np.ndarray
    low: np.ndarray
    high: np.ndarray
    draws: np.ndarray
    chosen: tuple[float, float, float]


def folds_of(positive: np.ndarray, groups: np.ndarray, folds: int, rng: np.random.Generator) -> np.ndarray:
    """A fold for each example, the same within a group, both kinds spread evenly: (n,). Raises ValueError where a fold lacks a kind."""
    names, inverse = np.unique(groups, return_inverse=True)
    order = rng.permutation(len(names))
    on = np.bincount(inverse, positive)
    off = np.bincount(inverse, ~positive)
    held = np.zeros((folds, 2))
    where = np.zeros(len(names), int)
    for g in sorted(order, key=lambda g: -(on[g] + off[g])):
        share = held / np.maximum([on.sum(), off.sum()], 1)
        cost = ((share + np.array([on[g], off[g]]) / np.maximum([on.sum(), off.sum()], 1)) ** 2 - share**2).sum(1)
        where[g] = int(cost.argmin())
        held[where[g]] += on[g], off[g]
    if (held < 1).any():
        raise ValueError(
            f"{folds} folds need an example of each kind in each, by groups: there are {held.astype(int).tolist()}"
        )
    return where[inverse]


def areas(scores: np.ndarray, positive: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """Area of each score, pairs of one fold only: (..., n) -> (...). Ties count half."""
    total, pairs = 0.0, 0
    for f in np.unique(fold):
        s, on = scores[..., fold == f], positive[fold == f]
        order = np.sort(s[..., ~on], -1)
        flat = order.reshape(-1, order.shape[-1])
        ups = s[..., on].reshape(len(flat), -1)
        below = np.stack(
            [np.searchsorted(o, u, "left") + np.searchsorted(o, u, "right") for o, u in zip(flat, ups, strict=True)]
        )
        total = total + below.sum(-1).reshape(s.shape[:-1]) / 2
        pairs += int(on.sum()) * int((~on).sum())
    return np.asarray(total / pairs)


def dealt_areas(scores: np.ndarray, deals: np.ndarray, fold: np.ndarray) -> np.ndarray:
    """The same for a labelling of its own for each score, (m, n) and (m, n): (m,). Ties are counted as they come."""
    total, pairs = np.zeros(len(scores)), np.zeros(len(scores))
    for f in np.unique(fold):
        s, on = scores[:, fold == f], deals[:, fold == f]
        rank = s.argsort(1).argsort(1) + 1
        many = on.sum(1)
        total += (rank * on).sum(1) - many * (many + 1) / 2
        pairs += many * (on.shape[1] - many)
    return np.asarray(total / np.maximum(pairs, 1))


def bake_off(
    scores: np.ndarray, positive: np.ndarray, fold: np.ndarray, groups: np.ndarray, *, resamples: int = 1000, level: float = 0.95,
    rng: np.random.Generator,
) -> Areas:  # fmt: skip
    """Areas of held-out scores (m, n) with bootstrap intervals over groups of examples, and what the best of them is worth.

        A_m = Σ_f Σ_{i on, j off in fold f} ([s_i > s_j] + ½ [s_i = s_j]) / pairs

    In each resample groups are drawn with replacement within the two kinds; the best score on it is judged on the groups that were not
    drawn: the mean of that is free of the optimism of choosing the best of m (BBC-CV).
    Err: over the draw of the examples that are scored; not over that of those the scores were fitted on.
    Cost: m n² comparisons and as many products for each resample. Raises ValueError for a score that is not finite.
    Ref: Efron and Tibshirani 1993, chapter 13; Tsamardinos et al. 2018 (arXiv:1708.07180), algorithm 2.
    """
    if not np.isfinite(scores).all():
        raise ValueError(f"scores must be finite; those of number {int(np.argmin(np.isfinite(scores).all(1)))} are not")
    weight = _draws(positive, groups, resamples, rng)
    out = weight == 0
    inside, outside, whole = zip(*(
        (_weighted(block, weight.astype(float)), _weighted(block, out.astype(float)), _weighted(block, np.ones((1, len(fold)))))
        for block in _blocks(scores, positive, fold)
    ), strict=True)  # fmt: skip
    draws, left = np.concatenate(inside), np.concatenate(outside)
    value = np.concatenate(whole)[:, 0]
    low, high = np.nanquantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=1)
    best = np.nanargmax(np.where(np.isnan(draws), -1, draws), axis=0)
    judged = left[best, np.arange(resamples)]
    spread = draws[int(value.argmax())]
    centre = float(np.nanmean(judged))
    tails = np.nanquantile(spread - np.nanmean(spread), [(1 - level) / 2, (1 + level) / 2])
    return Areas(value, low, high, draws, (centre, float(max(centre + tails[0], 0)), float(min(centre + tails[1], 1))))


def _draws(positive: np.ndarray, groups: np.ndarray, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """How often each example is drawn, (resamples, n): groups whole, within the kind that most of a group is of."""
    names, inverse = np.unique(groups, return_inverse=True)
    mostly = np.bincount(inverse, positive) * 2 > np.bincount(inverse)
    counts = np.zeros((resamples, len(names)), int)
    for kind in (True, False):
        members = np.flatnonzero(mostly == kind)
        if len(members):
            counts[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=resamples)
    return counts[:, inverse]


Block = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def _blocks(scores: np.ndarray, positive: np.ndarray, fold: np.ndarray) -> Iterator[Block]:
    on, off = np.flatnonzero(positive), np.flatnonzero(~positive)
    same = (fold[on][:, None] == fold[off][None]).astype(np.float32)
    step = max(PAIRS // same.size, 1)
    for i in range(0, len(scores), step):
        a, b = scores[i : i + step, on][:, :, None], scores[i : i + step, off][:, None]
        yield ((a > b) + np.float32(0.5) * (a == b)).astype(np.float32) * same, same, on, off


def _weighted(block: Block, weight: np.ndarray) -> np.ndarray:
    """Areas with each example counted `weight` times, (m, resamples); NaN where no pair is left."""
    won, same, on, off = block
    u, v = weight[:, on].astype(np.float32), weight[:, off].astype(np.float32)
    pairs = ((u @ same) * v).sum(1)
    m = len(won)
    got = (u @ won.transpose(1, 0, 2).reshape(len(on), -1)).reshape(len(u), m, len(off))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(((got * v[:, None]).sum(2) / pairs[:, None]).T, float)
