"""Where logistic regression goes on separable data: to the widest margin, for ever slower."""

from collections.abc import Sequence

import numpy as np
from scipy.optimize import nnls

from strobe.core.cards import law
from strobe.core.errors import BadOption, near
from strobe.core.prediction import Prediction

OF = ("growth", "loss")


@law(predicts="growth of a separating classifier's weights, and its loss", ref="arXiv:1710.10345", free_parameters=0)
def max_margin(
    *, x: Sequence[Sequence[float]], y: Sequence[float], of: str = "growth", rtol: float | None = None
) -> Prediction:
    """Logistic regression without a bias on separable data grows along the hard-margin vector: w(t) → ŵ ln t + ρ.

        ŵ = argmin |w|²  with  yᵢ w·xᵢ >= 1         dw / d ln t → ŵ         lr · t · L(t) → |ŵ|²

    with t the step and L = mean ln(1 + exp(−yᵢ w·xᵢ)). The direction itself comes only as 1/ln t; these two come as a power of 1/t
    that depends on the next-best margins.
    Args: x (n, d), y of −1 and 1; of, "growth" (the vector ŵ, as (w(2t) − w(t)) / ln 2) or "loss" (|ŵ|²); rtol, by default 10% of
    |ŵ| in each coordinate and 10% of the loss.
    Regime (`when`): separable data (else raises), plain descent at a constant lr, and a training loss below 0.1% of ln 2 at t.
    Where it fails: Adam, which goes to another margin; early times. Rivals: the least-squares direction; no growth.
    Raises `BadOption` for labels other than ±1, an unknown `of`, or data that no plane through 0 separates.
    Ref: Soudry and others, arXiv:1710.10345, theorem 3; the constant of the loss follows from ŵ·(−∇L) = L.

    >>> max_margin(x=[[2.0, 1.0], [2.0, -1.0]], y=[1, 1]).value.round(6).tolist()
    [0.5, 0.0]
    """
    X, s = np.asarray(x, float), np.asarray(y, float)
    if X.ndim != 2 or s.shape != (len(X),) or not len(X) or not np.isfinite(X).all() or not (np.abs(s) == 1).all():
        raise BadOption(f"x is (n, d) and y (n,) of −1 and 1, got {X.shape} and {s.shape}")
    if of not in OF:
        raise BadOption(f"max_margin speaks of {' and '.join(OF)}, not of {of!r}; {near(of, OF)}")
    share = {"growth": 0.1, "loss": 0.1}[of] if rtol is None else rtol
    if not share > 0:
        raise BadOption(f"rtol is positive, got {rtol}")
    w = _hard_margin(s[:, None] * X)
    value = w if of == "growth" else float(w @ w)
    return Prediction(
        {"growth": "dw / d ln t", "loss": "lr · t · L(t)"}[of], value, share * float(np.linalg.norm(w) if of == "growth" else w @ w),
        "plain descent at a constant lr on separable data, and a loss below 0.1% of ln 2",
        law="strobe.laws.max_margin:max_margin", knobs={"x": X.tolist(), "y": s.tolist(), "of": of, "rtol": rtol}, ref="arXiv:1710.10345",
    )  # fmt: skip


def _hard_margin(A: np.ndarray) -> np.ndarray:
    """Least |w| with A w >= 1: least distance programming as non-negative least squares (Lawson and Hanson, chapter 23)."""
    n, d = A.shape
    E = np.vstack([A.T, np.ones(n)])
    f = np.append(np.zeros(d), 1.0)
    u, left = nnls(E, f, maxiter=30 * (n + d))
    if left < 1e-9:
        raise BadOption("no plane through the origin separates these data: the weights do not grow for ever")
    r = f - E @ u
    w = -r[:d] / r[d]
    return np.asarray(-w if (A @ w < 0).all() else w)
