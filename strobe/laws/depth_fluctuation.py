"""How much the length of a signal differs between random deep networks: exponential in depth over width, bounded with scaled branches."""

from collections.abc import Sequence
from math import expm1, isfinite, log1p

from strobe.core.cards import law
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction


@law(
    predicts="relative variance of the squared length of signals over random networks",
    ref="arXiv:1812.05994",
    free_parameters=0,
)
def depth_fluctuation(
    *, widths: Sequence[int], branch: float | None = None, outputs: int | None = None, rtol: float = 0.15
) -> Prediction:
    """Var |h|² / (E |h|²)² of the last hidden signal, for one input, over draws of the weights: exact at every depth and width.

        plain      h_l = relu(W_l h_{l-1})                   Π_l (1 + 5/n_l) − 1          ≈ exp(5 Σ 1/n_l) − 1
        branches   h_l = h_{l-1} + s V_l relu(W_l h_{l-1})   Π_l F_l − 1,
                   F = (1 + 2s² + 4s²/n + s⁴ (1 + 5/n)(1 + 2/n)) / (1 + s²)²

    For given h_{l-1} each layer multiplies |h|² by a factor that depends on the new weights only; 5 is the variance of 2 relu(g)², g
    normal. With s = 1/√L the product over L blocks tends to exp(4/n) − 1; with s = 1 it grows as exp(2.75 L/n).
    Args: widths of the hidden layers, or of the blocks (equal; V and W are n × n); branch s, None for plain; outputs m of a linear
    read-out, which multiplies the product by 1 + 2/m, None for the hidden signal itself; rtol.
    Regime (`when`): ReLU, no biases, no normalisation, independent normal weights of variance 2/fan-in (V and the read-out: 1/fan-in or
    any other that keeps the mean), before training. Tolerance: rtol of the value, for the measurement: the formula has no error. Beyond a
    value of about 2 a few rare networks lead the mean square, and samples of thousands fall short.
    Raises `BadOption` for no widths or one below 1, blocks of unequal width, branch or rtol <= 0, outputs < 1.
    Ref: Hanin and Rolnick, arXiv:1803.01719, section 3; Hanin and Nica, arXiv:1812.05994, theorem 1 (they give bounds; the product with
    these constants follows from the line above).

    >>> round(depth_fluctuation(widths=[64] * 8).value, 3), round(depth_fluctuation(widths=[64] * 800, branch=800**-0.5).value, 3)
    (0.825, 0.064)
    """
    n = [int(w) for w in widths]
    if not n or min(n) < 1 or (outputs is not None and outputs < 1) or not (isfinite(rtol) and rtol > 0):
        raise BadOption(f"widths and outputs of 1 or more and rtol > 0; got {n[:4]}, {outputs} and {rtol}")
    if branch is not None and not (isfinite(branch) and branch > 0 and len({*n}) == 1):
        raise BadOption(f"branches need a scale > 0 and blocks of one width; got {branch} and widths {sorted({*n})}")
    logs = sum(log1p(5 / w if branch is None else _block(w, branch)) for w in n)
    total = logs + (log1p(2 / outputs) if outputs else 0.0)
    if total > 100:
        raise BadOption(f"the relative variance is e^{total:.0f}: {len(n)} layers are too deep for width {min(n)}")
    value = expm1(total)
    kind = "plain layers" if branch is None else f"branches scaled by {branch:.4g}"
    return Prediction(
        "relative variance of |h|² over networks", value, rtol * value, f"ReLU, normal weights of variance 2/fan-in, {kind}, untrained",
        law="strobe.laws.depth_fluctuation:depth_fluctuation",
        knobs={"widths": n, "branch": branch, "outputs": outputs, "rtol": rtol}, ref="arXiv:1812.05994",
    )  # fmt: skip


def _block(n: int, s: float) -> float:
    """F − 1 of one block, without the cancelling terms."""
    return (4 * s**2 / n + s**4 * (7 / n + 10 / n**2)) / (1 + s**2) ** 2
