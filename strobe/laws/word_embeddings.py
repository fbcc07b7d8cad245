"""What word embeddings learn, and when, from the counts of the corpus alone."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from strobe.core.cards import law
from strobe.core.errors import BadOption, near
from strobe.core.prediction import Prediction

OF = ("times", "share")


def target(pairs: Any) -> np.ndarray:
    """M* = (P − p pᵀ) / (½ (P + p pᵀ)) of joint frequencies P (words, words), symmetric, with margins p. Raises `BadOption`.

    >>> target([[0.25, 0.25], [0.25, 0.25]]).tolist()
    [[0.0, 0.0], [0.0, 0.0]]
    """
    P = np.asarray(pairs, float)
    if (
        P.ndim != 2
        or P.shape[0] != P.shape[1]
        or not np.isfinite(P).all()
        or (P < 0).any()
        or not P.any()
        or not np.allclose(P, P.T)
    ):
        raise BadOption(f"pairs is a symmetric matrix of frequencies >= 0, got shape {P.shape}")
    P = P / P.sum()
    p = P.sum(1)
    if not (p > 0).all():
        raise BadOption("a word has no pair at all: leave it out")
    alone = np.outer(p, p)
    return np.asarray(2 * (P - alone) / (P + alone))


@law(
    predicts="steps at which embedding modes are half learned, or the eigenspace they span",
    ref="arXiv:2502.09863",
    free_parameters=0,
)
def word_embedding_modes(
    *, eigenvalues: Sequence[float], of: str = "times", starts: Sequence[float] | None = None, lr: float | None = None,
    rtol: float = 0.03,
) -> Prediction:  # fmt: skip
    """Word embeddings W (size, words) learn the top eigenvectors of M* one by one, each along a logistic curve.

        M*_ij = (P_ij − p_i p_j) / (½ (P_ij + p_i p_j))      P the joint frequencies of words in windows, p their margins: `target(P)`
        descent on ¼‖M* − WᵀW‖², word2vec's loss to second order, evenly weighted over pairs:
        mode k is at half its strength λ_k at step  ln(λ_k / u₀ − 1) / (2 λ_k lr),   u₀ = ‖W e_k‖² at the start
        and at the end WᵀW = Σ λ_k e_k e_kᵀ over the largest

    Args: eigenvalues λ of M* that are claimed, descending, positive; of, "times" (in steps of rate lr, from starts u₀ of each) or
    "share" (of the top eigenspace of WᵀW that is that of M*: 1); rtol.
    Regime (`when`): small random start, u₀ <= λ / 20; embeddings of at least 5 x as many dimensions as modes; lr λ₁ <= 0.05.
    Where it fails: word2vec's own loss, whose weights P + p pᵀ are far from even: its first directions are those of frequent words;
    few dimensions. Rival: the positive pointwise mutual information in the place of M*.
    Raises `BadOption` for eigenvalues that do not descend above 0, starts above λ / 20, or lr too large.
    Ref: Karkada and others, arXiv:2502.09863, sections 3 and 4.

    >>> word_embedding_modes(eigenvalues=[2.0], starts=[0.02], lr=0.01).value.round(1).tolist()         # ln 99 / 0.04
    [114.9]
    """
    if of not in OF:
        raise BadOption(f"word_embedding_modes speaks of {' and '.join(OF)}, not of {of!r}; {near(of, OF)}")
    top = np.asarray(eigenvalues, float)
    if top.ndim != 1 or not len(top) or not (top > 0).all() or (np.diff(top) > 0).any() or not 0 < rtol < 1:
        raise BadOption(f"eigenvalues are positive and descending, and 0 < rtol < 1; got {top.tolist()} and {rtol}")
    base: dict[str, Any] = {"law": "strobe.laws.word_embeddings:word_embedding_modes", "ref": "arXiv:2502.09863"}
    knobs: dict[str, Any] = {"eigenvalues": top.tolist(), "of": of, "rtol": rtol}
    if of == "share":
        if starts is not None or lr is not None:
            raise BadOption('starts and lr belong to of="times"')
        when = "evenly weighted loss, trained to the end"
        return Prediction("share of the top eigenspace", 1.0, rtol, when, knobs=knobs, **base)
    u = np.asarray(starts if starts is not None else [], float)
    if u.shape != top.shape or not (u > 0).all() or not (u <= top / 20).all():
        raise BadOption(f'of="times" takes one start for each mode, above 0 and at most λ / 20; got {u.tolist()}')
    if lr is None or not (lr > 0 and lr * top[0] <= 0.05):
        raise BadOption(f"lr is above 0 and lr λ₁ at most 0.05: lr <= {0.05 / top[0]:.3g}; got {lr}")
    steps = np.log(top / u - 1) / (2 * top * lr)
    return Prediction(
        "steps at which embedding modes are half learned", steps, rtol * steps, "small start, size >= 5 x modes, evenly weighted loss",
        knobs=knobs | {"starts": u.tolist(), "lr": lr}, **base,
    )  # fmt: skip
