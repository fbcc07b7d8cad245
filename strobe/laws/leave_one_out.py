"""The test error of kernel ridge regression from its training set alone: leaving one out exactly, or by a ratio of traces."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from strobe.core.cards import law
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction

WHEN = "kernel ridge regression, test examples from where the training examples come from"


@law(predicts="test error of kernel ridge regression from its training set", ref="arXiv:2203.06176", free_parameters=0)
def leave_one_out(*, dual_squares: Sequence[Any], inverse_diagonal: Sequence[Any], rtol: float = 0.05) -> Prediction:
    """The mean squared error on new examples is that on each example of a fit to all others, known without fitting again.

        mean_i Σ_k α_ik² / (G⁻¹)_ii²         G = K + ridge 1,   α = G⁻¹ Y

    Args: dual_squares, Σ_k α_ik² over outputs, (n,) or of several training sets (sets, n), whose mean is predicted;
    inverse_diagonal, (G⁻¹)_ii, likewise; `strobe.numerics.eigenlearning.dual` gives α and it; rtol, of the mean over sets: one set's
    own error spreads more.
    Regime (`when`): new examples of the same distribution; the sets are large enough that one example less changes little. Any
    kernel, the tangent kernel of a network too. Where it fails: other data, duplicates in the training set.
    Raises `BadOption` for shapes that differ, a diagonal that is not positive.
    Ref: Allen 1974 (PRESS); of tangent kernels Wei et al., arXiv:2203.06176, section 3.

    >>> leave_one_out(dual_squares=[0.25, 1.0], inverse_diagonal=[0.5, 0.5]).value
    2.5
    """
    a, d = _read(dual_squares, inverse_diagonal, rtol)
    value = float((a / d**2).mean())
    return Prediction(
        "mean test error of kernel ridge regression, from leaving one out", value, rtol * value, WHEN,
        law="strobe.laws.leave_one_out:leave_one_out", ref="arXiv:2203.06176",
        knobs={"dual_squares": a.tolist(), "inverse_diagonal": d.tolist(), "rtol": rtol},
    )  # fmt: skip


@law(predicts="test error of kernel ridge regression from its training set", ref="arXiv:2006.09796", free_parameters=0)
def kernel_alignment_risk(
    *, dual_squares: Sequence[Any], inverse_diagonal: Sequence[Any], rtol: float = 0.05
) -> Prediction:
    """The kernel alignment risk estimator (generalised cross-validation): one common leverage instead of each example's own.

        (mean_i Σ_k α_ik²) / (mean_i (G⁻¹)_ii)²         G = K + ridge 1,   α = G⁻¹ Y

    Args: as for `leave_one_out`, of which it is the case where all (G⁻¹)_ii are one number; of several sets the mean of their estimates.
    Regime (`when`): examples alike in leverage, as in high dimension or on Gaussian features. Where it fails: real data with dense and
    sparse regions; on digits it is 18 to 36% low (`strobe.studies.kernel_curves`), and stays in the catalogue as failing there.
    Raises `BadOption` as `leave_one_out`.
    Ref: Jacot et al., arXiv:2006.09796, definition 3 and theorem 7; Golub, Heath and Wahba 1979; Wei et al., arXiv:2203.06176.

    >>> kernel_alignment_risk(dual_squares=[0.25, 1.0], inverse_diagonal=[0.5, 0.5]).value
    2.5
    """
    a, d = _read(dual_squares, inverse_diagonal, rtol)
    value = float((a.mean(-1) / d.mean(-1) ** 2).mean())
    return Prediction(
        "mean test error of kernel ridge regression, from its alignment risk", value, rtol * value, f"{WHEN}, examples alike in leverage",
        law="strobe.laws.leave_one_out:kernel_alignment_risk", ref="arXiv:2006.09796",
        knobs={"dual_squares": a.tolist(), "inverse_diagonal": d.tolist(), "rtol": rtol},
    )  # fmt: skip


def _read(dual_squares: Any, inverse_diagonal: Any, rtol: float) -> tuple[np.ndarray, np.ndarray]:
    a, d = np.asarray(dual_squares, float), np.asarray(inverse_diagonal, float)
    if a.shape != d.shape or a.ndim not in (1, 2) or a.shape[-1:] < (2,) or not rtol > 0:
        raise BadOption(f"both are (n,) or (sets, n), n >= 2, and rtol > 0; got {a.shape}, {d.shape}, {rtol}")
    if not (np.isfinite(a).all() and np.isfinite(d).all() and (a >= 0).all() and (d > 0).all()):
        raise BadOption("squares are >= 0 and the diagonal of (K + ridge)⁻¹ > 0, all finite")
    return a, d
