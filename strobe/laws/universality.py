"""What two trainings of one network share: how they see examples, and, their units matched, a basin of the loss."""

from collections.abc import Sequence

import numpy as np

from strobe.core.cards import law
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction


@law(predicts="excess of representation similarity over untrained pairs", ref="arXiv:1905.00414", free_parameters=0)
def shared_representation(*, widths: Sequence[int], margin: float = 0.05) -> Prediction:
    """Two trained networks are more alike than two untrained ones of the same kind: an excess above `margin` at each width.

        CKA(trained, trained') − CKA(untrained, untrained') > margin           likewise for mutual neighbours

    Args: widths of the networks compared, ascending; margin, at least 0 (0.05 is what the null's error allows to tell).
    Regime (`when`): same task and architecture, other seeds, both trained to one accuracy; a hidden layer.
    Where it fails: two untrained networks (the null: excess 0); widths of 1024 and more, whose null is near 1 already.
    Raises `BadOption`.
    Ref: Kornblith and others, arXiv:1905.00414 (similar across seeds, more so when wide); the comparison with untrained pairs is ours.

    >>> shared_representation(widths=[16, 64]).value.tolist()
    [0.05, 0.05]
    """
    _widths(widths)
    if not margin >= 0:
        raise BadOption(f"margin is at least 0, got {margin}")
    return Prediction(
        "excess of similarity over untrained pairs", np.full(len(widths), margin), np.zeros(len(widths)), side="above",
        when="one task and architecture, other seeds, both trained", law="strobe.laws.universality:shared_representation",
        knobs={"widths": [int(w) for w in widths], "margin": margin}, ref="arXiv:1905.00414",
    )  # fmt: skip


@law(
    predicts="how many times lower the loss barrier is after matching units", ref="arXiv:2209.04836", free_parameters=0
)
def matched_connectivity(*, widths: Sequence[int], drop: float = 9.0) -> Prediction:
    """Matching the hidden units of two trained perceptrons lowers the barrier between them by at least `drop`, at each width.

        barrier(as they are) / barrier(matched) >= drop

    Args: widths, ascending; drop, above 1: 9 is what weight matching gave for widths of 16 to 1024 on digits.
    Regime (`when`): perceptrons of one shape, trained on the same task from other seeds; a barrier before matching above 3 of its errors.
    Where it fails: narrow networks, whose units have no partner; other units matched at random (the null). Raises `BadOption`.
    Ref: Ainsworth, Hayase and Srinivasa, arXiv:2209.04836, section 5; Entezari and others, arXiv:2110.06296 (the conjecture).

    >>> matched_connectivity(widths=[64, 256]).value.tolist()
    [9.0, 9.0]
    """
    _widths(widths)
    if not drop > 1:
        raise BadOption(f"drop is above 1, got {drop}")
    return Prediction(
        "barrier as they are / barrier matched", np.full(len(widths), float(drop)), np.zeros(len(widths)), side="above",
        when="perceptrons of one shape, one task, other seeds, a barrier above 3 of its errors",
        law="strobe.laws.universality:matched_connectivity", knobs={"widths": [int(w) for w in widths], "drop": drop},
        ref="arXiv:2209.04836",
    )  # fmt: skip


@law(predicts="outlying singular values of a hidden matrix of a classifier", ref="arXiv:1810.01075", free_parameters=0)
def spectrum_outliers(*, classes: int, widths: Sequence[int], slack: float = 1.0) -> Prediction:
    """A trained classifier's hidden matrix is a random bulk and one singular value above it for each class.

        #{σ(W) > 1.05 s (√n + √m)} = classes ± slack          s the spread of the bulk, edge of the Marchenko-Pastur law

    Args: classes; widths, ascending, of square hidden matrices; slack.
    Regime (`when`): trained to a small loss from N(0, 1/n)-like weights, without weight decay; width at least 6 x classes, for the
    spikes to stand apart. Where it fails: the untrained matrix (the null, no outlier); narrow layers; weight decay, which eats the bulk.
    Raises `BadOption` for fewer than 2 classes, a width below 6 x classes, or a slack below 0 or of the size of the claim.
    Ref: Martin and Mahoney, arXiv:1810.01075, section 4 ("bulk + spikes"); that the spikes are as many as classes is read off here, as
    of the Hessian's outliers in Papyan, arXiv:2008.11865.

    >>> spectrum_outliers(classes=10, widths=[64, 256]).value.tolist()
    [10.0, 10.0]
    """
    _widths(widths)
    if classes < 2 or min(widths) < 6 * classes or not 0 <= slack < classes / 2:
        raise BadOption(
            f"needs classes >= 2, widths >= 6 x classes and 0 <= slack < classes / 2, got {classes}, {list(widths)} and {slack}"
        )
    return Prediction(
        "outlying singular values of the hidden matrix", np.full(len(widths), float(classes)), np.full(len(widths), slack),
        when="trained to a small loss without weight decay, width at least 6 x classes",
        law="strobe.laws.universality:spectrum_outliers", ref="arXiv:1810.01075",
        knobs={"classes": classes, "widths": [int(w) for w in widths], "slack": slack},
    )  # fmt: skip


def _widths(widths: Sequence[int]) -> None:
    w = np.asarray(widths)
    if w.ndim != 1 or not len(w) or not (w >= 1).all() or not (np.diff(w) > 0).all():
        raise BadOption(f"widths are numbers >= 1, ascending, got {list(widths)}")
