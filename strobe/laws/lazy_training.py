"""Networks whose output is scaled up so far that their weights hardly move: how little, and what they then compute."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from strobe.core.cards import law
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction

OF = ("weights", "kernel")
LAZY = 10.0


@law(predicts="movement of weights and of ntk against the output scale", ref="arXiv:1812.07956", free_parameters=0)
def lazy_scale(*, alphas: Sequence[float], of: str = "weights", tol: float = 0.1) -> Prediction:
    """The order in the output scale α of how far training moves the weights, or the tangent kernel: −1.

        f = α (f_w − f_w0),   loss ℓ(f) / α²:     |w − w0| / |w0| ~ 1/α,      |Θ − Θ_0| / |Θ_0| ~ 1/α

    Args: alphas, 10 or more each, between which the slope is taken; of, "weights" or "kernel"; tol, of the slope.
    Regime (`when`): α >= 10 for a network of NTK parametrisation and targets of order 1, trained to the same loss at every α, by small
    steps. Below, in the rich regime, the slope is flatter: nothing is said there.
    Raises `BadOption` for fewer than two different alphas, one below 10, or an unknown word.
    Ref: Chizat, Oyallon and Bach, arXiv:1812.07956, theorem 2.2 and figure 1.

    >>> lazy_scale(alphas=[10, 100]).value
    -1.0
    """
    a = [float(x) for x in alphas]
    if of not in OF or len(set(a)) < 2 or not min(a) >= LAZY or not np.isfinite(a).all() or not tol > 0:
        raise BadOption(
            f"lazy_scale needs two different alphas >= {LAZY:g}, of weights or kernel, tol > 0; got {alphas}, {of!r}, {tol}"
        )
    return Prediction(
        f"order in the output scale of the relative change of the {of}", -1.0, tol,
        "output scale >= 10, NTK parametrisation, the same last loss at every scale, small steps",
        law="strobe.laws.lazy_training:lazy_scale", knobs={"alphas": a, "of": of, "tol": tol}, ref="arXiv:1812.07956",
    )  # fmt: skip


@law(predicts="outputs along training from ntk at the start", ref="arXiv:1902.06720", free_parameters=0)
def linearised_training(
    *, kernel: Sequence[Any], targets: Sequence[float], lr: float, steps: Sequence[int], across: Sequence[Any] | None = None,
    rtol: float = 0.02,
) -> Prediction:  # fmt: skip
    """The outputs of a network at each step of full-batch descent, if its tangent kernel stays what it was at the start.

        f_t = (1 − (1 − lr Θ/n)^t) y          loss Σ (f − y)² / 2n,  f_0 = 0
        f_t(x') = Θ(x', X) Θ⁻¹ f_t            of other examples, with `across` = Θ(x', X)

    Exact for gradient descent on the linearised network, at every learning rate below 2n/λ₁, not only for the flow.
    Args: kernel, Θ (n, n), as `ntk` reads it at the start (of f itself: α² Θ_w where f = α f_w); targets (n,); lr, of f's own loss; steps;
    across (m, n); rtol, the tolerance in units of the targets' root mean square.
    Value: (steps, n), or (steps, m).
    Regime (`when`): lazy (α >= 10, or very wide), f = 0 at the start, constant lr, full batch. Where it fails: the rich regime.
    Raises `BadOption` for shapes that do not fit, a kernel that is not symmetric or has negative eigenvalues, or lr >= 2n/λ₁.
    Ref: Jacot et al., arXiv:1806.07572, section 5; Lee et al., arXiv:1902.06720, equations 8 to 11 (there for the flow).

    >>> linearised_training(kernel=[[2.0]], targets=[1.0], lr=0.25, steps=[0, 1, 2]).value.tolist()
    [[0.0], [0.5], [0.75]]
    """
    k, y, t = np.asarray(kernel, float), np.asarray(targets, float), [int(s) for s in steps]
    n = y.size
    cross = None if across is None else np.asarray(across, float)
    if y.ndim != 1 or not n or k.shape != (n, n) or (cross is not None and (cross.ndim != 2 or cross.shape[1] != n)):
        raise BadOption(
            f"kernel is (n, n), targets (n,) and across (m, n); got {k.shape}, {y.shape}, {None if cross is None else cross.shape}"
        )
    if (
        not (np.isfinite(k).all() and np.abs(k - k.T).max() <= 1e-4 * np.abs(k).max())
        or min(t, default=-1) < 0
        or not rtol > 0
    ):
        raise BadOption("the kernel must be finite and symmetric, the steps 0 or more, and rtol > 0")
    lam, u = np.linalg.eigh((k + k.T) / 2)
    if lam[0] < -1e-5 * lam[-1] or not 0 < lr < 2 * n / lam[-1]:
        raise BadOption(
            f"a kernel has no negative eigenvalue (least {lam[0]:.3g}), and 0 < lr < 2n/λ₁ = {2 * n / lam[-1]:.4g}; got lr = {lr}"
        )
    lam = np.maximum(lam, 0)
    done = 1 - (1 - lr * lam / n) ** np.array(t)[:, None]  # (steps, n)
    coefficients = u.T @ y
    if cross is None:
        value = (done * coefficients) @ u.T
    else:  # (1 − (1 − lr λ/n)^t)/λ tends to lr t/n
        over = np.where(lam > 1e-10 * lam[-1], done / np.maximum(lam, 1e-10 * lam[-1]), lr * np.array(t)[:, None] / n)
        value = (over * coefficients) @ u.T @ cross.T
    return Prediction(
        "outputs at each step", value, rtol * float(np.sqrt(np.mean(y**2))),
        "output scale >= 10 or very wide, f = 0 at the start, full-batch descent at a constant lr, squared error with its ½",
        law="strobe.laws.lazy_training:linearised_training", steps=t, ref="arXiv:1902.06720",
        knobs={"kernel": k.tolist(), "targets": y.tolist(), "lr": lr, "steps": t,
               "across": None if cross is None else cross.tolist(), "rtol": rtol},
    )  # fmt: skip
