"""Where full-batch training holds the sharpness."""

from strobe.core.cards import law
from strobe.core.errors import BadOption, near
from strobe.core.prediction import Prediction

OPTIMIZERS = ("gd", "heavy_ball", "nesterov", "ema", "adam")


@law(predicts="sharpness", ref="arXiv:2103.00065", free_parameters=0)
def edge_of_stability(
    *, lr: float, optimizer: str = "gd", momentum: float = 0.0, beta1: float = 0.9, rtol: float = 0.05
) -> Prediction:
    """Full-batch descent settles where a quadratic of that curvature is just not contracted: λ₁ = c / lr.

        gd          λ₁ = 2 / lr                                    θ ← θ − lr g
        heavy_ball  λ₁ = 2 (1 + m) / lr                            b ← m b + g;  θ ← θ − lr b
        nesterov    λ₁ = 2 (1 + m) / ((1 + 2 m) lr)                b ← m b + g;  θ ← θ − lr (g + m b)
        ema         λ₁ = 2 (1 + β₁) / ((1 − β₁) lr)                b ← β₁ b + (1 − β₁) g;  θ ← θ − lr b
        adam        λ₁(P⁻¹H) = 2 (1 + β₁) / ((1 − β₁) lr)          P = (1 − β₁ᵗ) (√v̂ + ε): 38 / lr at β₁ = 0.9

    Args: lr; optimizer, one of those; momentum m for heavy_ball and nesterov, in the convention of
    `torch.optim.SGD`, which is no moving average: as one, its edge is (1 − m) times lower; beta1 for ema and adam;
    rtol, the tolerance relative to the value. For adam the prediction is of `preconditioned_sharpness`.
    Regime (`when`): a full batch, a constant lr, no weight decay, and a training loss that rose at some step
    since this lr was set and stayed finite: none of it measures λ₁. A run whose loss never rose has not met the edge: then
    λ₁ is below it, and the law is outside.
    Where it fails: small batches, which settle lower (arXiv:2103.00065, appendix K); cross entropy late in training,
    where λ₁ falls again; any run with another convention of momentum. Measured here on digits, tanh, MSE: λ₁ lr / 2
    of 1.005 to 1.035 for gd, 0.993 to 1.000 for nesterov, 0.996 for adam, 0.933 for heavy_ball.
    Raises `BadOption` for an unknown optimizer, lr <= 0, momentum or beta1 outside [0, 1), or momentum given to an
    optimizer without it.
    Ref: arXiv:2103.00065, equations 1 and 2 and appendix B; arXiv:2207.14484, equation 2 and section 3 for adam.

    >>> edge_of_stability(lr=0.1).value
    20.0
    >>> round(edge_of_stability(lr=1e-3, optimizer="adam").value)
    38000
    """
    if optimizer not in OPTIMIZERS:
        raise BadOption(f"edge_of_stability knows no optimizer {optimizer!r}; {near(optimizer, OPTIMIZERS)}")
    if not (lr > 0 and rtol > 0):
        raise BadOption(f"edge_of_stability needs lr > 0 and rtol > 0, got lr = {lr}, rtol = {rtol}")
    if not (0 <= momentum < 1 and 0 <= beta1 < 1):
        raise BadOption(f"momentum and beta1 lie in [0, 1), got momentum = {momentum}, beta1 = {beta1}")
    if momentum and optimizer not in ("heavy_ball", "nesterov"):
        raise BadOption(f"{optimizer} takes no momentum; for torch.optim.SGD(momentum={momentum}) say 'heavy_ball'")
    value = {
        "gd": 2.0,
        "heavy_ball": 2 * (1 + momentum),
        "nesterov": 2 * (1 + momentum) / (1 + 2 * momentum),
        "ema": 2 * (1 + beta1) / (1 - beta1),
        "adam": 2 * (1 + beta1) / (1 - beta1),
    }[optimizer] / lr
    knobs = {"lr": lr, "optimizer": optimizer, "momentum": momentum, "beta1": beta1, "rtol": rtol}
    return Prediction(
        "preconditioned_sharpness" if optimizer == "adam" else "sharpness",
        value,
        tol=rtol * value,
        when=WHEN[optimizer],
        law="strobe.laws.edge_of_stability:edge_of_stability",
        knobs=knobs,
        ref="arXiv:2207.14484" if optimizer == "adam" else "arXiv:2103.00065",
    )


_ROSE = "the training loss rose at some step since this lr was set, and stayed finite"
WHEN = {
    "gd": f"full-batch gradient descent, constant lr, no momentum or weight decay; {_ROSE}",
    "heavy_ball": f"full-batch torch.optim.SGD(momentum=m, dampening=0), constant lr, no weight decay; {_ROSE}",
    "nesterov": f"full-batch torch.optim.SGD(momentum=m, nesterov=True), constant lr, no weight decay; {_ROSE}",
    "ema": f"full-batch descent along a moving average of gradients, constant lr, no weight decay; {_ROSE}",
    "adam": f"full-batch torch.optim.Adam, constant lr, no weight decay, √v̂ well above eps and slow to change; {_ROSE}",
}
