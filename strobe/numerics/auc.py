"""How well a score tells two groups apart: the area under the ROC curve, with its standard error."""

import numpy as np


def auc(scores: np.ndarray, positive: np.ndarray) -> tuple[float, float]:
    """(A, err): the probability that a positive scores above a negative, ties counting half.

        A = mean over pairs of [sᵢ > sⱼ] + ½[sᵢ = sⱼ]
        err² = var(Vᵢ)/m + var(Vⱼ)/n,   Vᵢ: the share of negatives below positive i; Vⱼ: of positives above negative j

    Err: over the draw of the examples, the scores being given; 0 where every pair is in order, and then it is not known
    rather than nil. Cost: a sort. Raises `ValueError` without two examples of each kind, or for a NaN.
    Ref: DeLong, DeLong and Clarke-Pearson 1988, for one curve.

    >>> auc(np.array([3.0, 2.0, 1.0, 0.0]), np.array([True, False, True, False]))
    (0.75, 0.3535533905932738)
    """
    scores, positive = np.asarray(scores, float), np.asarray(positive, bool)
    if not np.isfinite(scores).all():
        raise ValueError("scores must be finite: an example without a score cannot be ranked")
    pos, neg = scores[positive], scores[~positive]
    if min(len(pos), len(neg)) < 2:
        raise ValueError(f"auc needs two examples of each kind, got {len(pos)} positive and {len(neg)} negative")
    below, above = _below(pos, neg), 1 - _below(neg, pos)
    err = np.sqrt(below.var(ddof=1) / len(pos) + above.var(ddof=1) / len(neg))
    return float(below.mean()), float(err)


def _below(of: np.ndarray, others: np.ndarray) -> np.ndarray:
    """For each the share of the others that are below it, half for one that is equal."""
    order = np.sort(others)
    return (np.searchsorted(order, of, "left") + np.searchsorted(order, of, "right")) / (2 * len(order))
