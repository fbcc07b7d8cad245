"""Where a diagonal linear network ends, and in which order and when its coordinates rise."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from scipy.optimize import nnls

from strobe.core.cards import law
from strobe.core.errors import BadOption, Diverged, near
from strobe.core.prediction import Prediction

Rows = Sequence[Sequence[float]]
OF = ("times", "order", "losses")


@law(predicts="coefficients of a trained diagonal network", ref="arXiv:2002.09277", free_parameters=0)
def diagonal_net_bias(*, x: Rows, y: Sequence[float], alpha: float, rtol: float = 5e-3) -> Prediction:
    """The interpolator that gradient flow finds from a start of size alpha: between least |β|₁ and least |β|₂.

        f(x) = β·x,  β = w₊² − w₋²,  w₊(0) = w₋(0) = α 1          β∞ = 2 α² sinh(Xᵀν),  ν such that X β∞ = y

    ν is the minimum of the convex Σ 2α² cosh(Xᵀν) − ν·y, by Newton steps from a large α down to the one asked for.
    Args: x (n, d) of rank n < d, y (n,); alpha; rtol, tolerance of each coordinate relative to |β∞|.
    Regime (`when`): squared loss with any factor, small steps, trained until every residual is below 1e-3 of |y|.
    Where it fails: large steps or stochastic batches, which end sparser (arXiv:2106.09524); depth above 2.
    Rivals: the interpolators of least |β|₂ and of least |β|₁.
    Raises `BadOption` for alpha <= 0 or data without a unique family of interpolators; `Diverged` where Newton does not end.
    Ref: Woodworth and others, arXiv:2002.09277, theorem 1.

    >>> diagonal_net_bias(x=[[1.0, 2.0]], y=[1.0], alpha=1e-4).value.round(2).tolist()    # least |β|₁: the larger feature
    [0.0, 0.5]
    >>> diagonal_net_bias(x=[[1.0, 2.0]], y=[1.0], alpha=10.0).value.round(2).tolist()    # least |β|₂
    [0.2, 0.4]
    """
    X, t = _data(x, y)
    if not (alpha > 0 and rtol > 0):
        raise BadOption(f"diagonal_net_bias needs alpha > 0 and rtol > 0, got {alpha} and {rtol}")
    if np.linalg.matrix_rank(X) < len(X) or len(X) >= X.shape[1]:
        raise BadOption(
            f"x of shape {X.shape} and rank {np.linalg.matrix_rank(X)}: needs independent rows, fewer than columns"
        )
    value = _sinh_interpolator(X, t, alpha)
    return Prediction(
        "coefficients β", value, rtol * float(np.linalg.norm(value)), "squared loss, small steps, trained to every residual < 1e-3 |y|",
        law="strobe.laws.diagonal_net:diagonal_net_bias",
        knobs={"x": X.tolist(), "y": t.tolist(), "alpha": alpha, "rtol": rtol}, ref="arXiv:2002.09277",
    )  # fmt: skip


def _sinh_interpolator(X: np.ndarray, y: np.ndarray, alpha: float) -> np.ndarray:
    nu = np.zeros(len(X))
    path = np.geomspace(max(alpha, 10.0 * np.abs(y).max() ** 0.5), alpha, 60)
    for a in path:
        for _ in range(200):
            z = np.clip(X.T @ nu, -300, 300)
            slope = X @ (2 * a**2 * np.sinh(z)) - y
            if np.abs(slope).max() < 1e-11 * max(np.abs(y).max(), 1e-300):
                break
            try:
                step = np.linalg.solve((X * (2 * a**2 * np.cosh(z))) @ X.T, slope)
            except np.linalg.LinAlgError as e:
                raise Diverged(
                    f"Newton's steps are lost in rounding at alpha = {a:.3g}: a larger alpha is easier"
                ) from e
            step *= min(1.0, 2.0 / max(np.abs(X.T @ step).max(), 1e-300))  # within which sinh is nearly known
            nu = nu - step
        else:
            if np.abs(slope).max() > 1e-8 * np.abs(y).max():
                raise Diverged(f"Newton's steps did not end at alpha = {a:.3g}: a larger alpha is easier")
    return np.asarray(2 * alpha**2 * np.sinh(X.T @ nu))


@law(predicts="times, order and plateaus at which coordinates rise", ref="arXiv:2506.06489", free_parameters=0)
def alternating_gradient_flow(
    *, x: Rows, y: Sequence[float], alpha: float, of: str = "times", threshold: float = 0.02, apart: float = 0.15,
    until: float = 1e6,
) -> Prediction:  # fmt: skip
    """When each coordinate of a diagonal network rises from a tiny start, and the loss at which it then rests.

        dormant:  d ln(u_i / α)/dt = ± 2 g_i,  g = Xᵀ(y − Xβ)/n     awake when its integral reaches ± ln(√θ / α)
        then:     β = the least squares over the awake coordinates, each with its sign; those at 0 fall asleep

    for β = u² − v², u(0) = v(0) = α 1, and the loss ½ mean (y − Xβ)², t = lr · step.
    Args: x (n, d), y (n,); alpha, small; of, "times", "order" (the coordinates) or "losses" (of the plateaus); threshold θ of |β_i|
    at which a coordinate counts as awake; apart: only events that much later (relatively) than the one before and earlier than
    the next, and than `until`, the training time lr · steps, are claimed: a weak coordinate may take for ever.
    Tolerances: order exact, times 10%, losses 1% of the first.
    Regime (`when`): alpha <= 1e-6 (the smaller, the better the events separate), small steps: both known before training.
    Where it fails: events that come close together, whose plateaus are never reached: those are left out.
    Rival: every coordinate alone, ln(√θ / α) / (2 |g_i(0)|), as if inputs were uncorrelated.
    Raises `BadOption` for alpha above 1e-6, an unknown `of`, or data with no event that stands apart.
    Ref: Kunin and others, arXiv:2506.06489, section 3; Pesme and Flammarion, arXiv:2304.00488.

    >>> knobs = {"x": [[2.0, 0.0], [0.0, 1.0]], "y": [2.0, 1.0], "alpha": 1e-8}
    >>> alternating_gradient_flow(**knobs, of="order").value.tolist(), alternating_gradient_flow(**knobs, of="losses").value.tolist()
    ([0.0, 1.0], [0.25, 0.0])
    """
    X, t = _data(x, y)
    if of not in OF:
        raise BadOption(f"alternating_gradient_flow speaks of {', '.join(OF)}, not of {of!r}; {near(of, OF)}")
    if not (0 < alpha <= 1e-6 and threshold > alpha and apart > 0 and until > 0):
        raise BadOption(
            f"needs 0 < alpha <= 1e-6, threshold > alpha, apart and until > 0, got {alpha}, {threshold}, {apart} and {until}"
        )
    kept = separated(risings(X, t, alpha, threshold, until), apart, until)
    if not kept:
        raise BadOption(f"no coordinate rises {apart:.0%} apart from the others: nothing is claimed of these data")
    times, order, losses = (np.array(c, float) for c in zip(*kept, strict=True))
    value = {"times": times, "order": order, "losses": losses}[of]
    scale = float(np.mean(t**2)) / 2
    tol = {"times": 0.1 * times, "order": np.zeros(len(order)), "losses": np.full(len(losses), 0.01 * scale)}[of]
    return Prediction(
        {"times": "times at which coordinates rise", "order": "coordinates in the order they rise", "losses": "losses of plateaus"}[of],
        value, tol, f"a start of {alpha:g}, small enough; small steps; ½ mean squared error",
        law="strobe.laws.diagonal_net:alternating_gradient_flow", ref="arXiv:2506.06489",
        knobs={"x": X.tolist(), "y": t.tolist(), "alpha": alpha, "of": of, "threshold": threshold, "apart": apart,
               "until": until},
    )  # fmt: skip


def risings(
    X: np.ndarray, y: np.ndarray, alpha: float, threshold: float, until: float
) -> list[tuple[float, int, float]]:
    """Every event up to `until` and the next one: (time, coordinate, loss of the plateau after it)."""
    n, d = X.shape
    target, now = float(np.log(threshold**0.5 / alpha)), 0.0
    slept, awake, sign, beta = np.zeros(d), np.zeros(d, bool), np.zeros(d), np.zeros(d)
    out: list[tuple[float, int, float]] = []
    for _ in range(4 * d):
        g = X.T @ (y - X @ beta) / n
        with np.errstate(divide="ignore", invalid="ignore"):
            wait = np.where(awake | (np.abs(g) < 1e-9), np.inf, (np.sign(g) * target - slept) / (2 * g))
        j = int(wait.argmin())
        if not np.isfinite(wait[j]):
            break
        now += float(wait[j])
        slept[~awake] += 2 * g[~awake] * wait[j]
        awake[j], sign[j] = True, np.sign(g[j])
        slept[j] = sign[j] * target
        on = np.flatnonzero(awake)
        beta = np.zeros(d)
        beta[on] = nnls(X[:, on] * sign[on], y)[0] * sign[on]
        awake[on[np.abs(beta[on]) < 1e-12]] = False
        out.append((now, j, float(np.mean((y - X @ beta) ** 2)) / 2))
        if now > until:
            break
    return out


def separated(events: list[tuple[float, int, float]], apart: float, until: float) -> list[tuple[float, int, float]]:
    """The events that stand apart from the one before and the one after by that share of their time, all before `until`."""
    end = [e[0] for e in events[1:]] + [np.inf]
    before = [True] + [b[0] - a[0] > apart * a[0] for a, b in pairwise(events)]
    after = [min(n, until) - e[0] > apart * e[0] for e, n in zip(events, end, strict=True)]
    return [e for e, b, a in zip(events, before, after, strict=True) if a and b]


def _data(x: Any, y: Any) -> tuple[np.ndarray, np.ndarray]:
    X, t = np.asarray(x, float), np.asarray(y, float)
    if X.ndim != 2 or t.shape != (len(X),) or not len(X) or not (np.isfinite(X).all() and np.isfinite(t).all()):
        raise BadOption(f"x is (n, d) and y (n,), of finite numbers, got {X.shape} and {t.shape}")
    if not np.abs(t).max() > 0:
        raise BadOption("y is zero everywhere: nothing is learnt")
    return X, t
