"""The kernel of a wide random network: what the mean over networks is, and how a single one comes near it with its width."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from strobe.core.cards import law
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction
from strobe.numerics.wide_kernels import MOMENTS
from strobe.numerics.wide_kernels import wide_kernels as recursion

OF = ("ntk", "nngp")


@law(predicts="ntk of random networks", ref="arXiv:1806.07572", free_parameters=0)
def wide_kernel(
    *, inputs: Sequence[Any], depth: int, width: int, nets: int, activation: str = "relu", weight: float = 2.0, bias: float = 0.0,
    of: str = "ntk",
) -> Prediction:  # fmt: skip
    """The mean tangent kernel (or covariance of outputs) of random fully connected networks is that of infinite width.

        mean K ≈ K_∞        K_∞ = Θ ("ntk") or Σ ("nngp") of `strobe.numerics.wide_kernels`

    The number is the relative Frobenius distance |mean K − K_∞| / |K_∞|, 0 within 4/√(width nets) + 1%: what the mean of that many
    networks fluctuates by is in the tolerance, so the reading needs no error but its rounding. `closed_form` gives K_∞. For ReLU the
    fluctuation is about √(5 depth / (width nets)): at three layers 4 is one of it, so take width x nets large enough for the 1% to lead.
    Args: inputs, rows x; depth, hidden layers; width, of each; nets, how many are averaged; activation "relu" or "erf"; weight and bias,
    the variances of both in NTK parametrisation, z = √(weight/width) W φ + √bias b; of, "ntk" or "nngp".
    Regime (`when`): independent standard normal weights at their start, depth well below width. Torch's own layers are another
    parametrisation: their kernel is a sum over layers with other weights. Where it fails: after training in the rich regime; depth
    near width, where single kernels spread over orders of magnitude.
    Raises `BadOption` for inputs that are not rows, sizes below 1, or depth >= width.
    Ref: Jacot et al., arXiv:1806.07572, theorem 1; Lee et al., arXiv:1711.00165, section 2 and arXiv:1902.06720, appendix E. The
    tolerance is ours.

    >>> said = wide_kernel(inputs=[[1.0, 0.0], [0.0, 1.0]], depth=1, width=100, nets=4)
    >>> said.value, round(said.tol, 3), said.side
    (0.0, 0.21, 'below')
    """
    x = np.asarray(inputs, float)
    if of not in OF or min(width, nets) < 1 or not 0 <= depth < width:
        raise BadOption(
            f"of is ntk or nngp, width and nets at least 1, depth below width; got {of}, {width}, {nets}, {depth}"
        )
    knobs = {"inputs": x.tolist(), "depth": depth, "width": width, "nets": nets, "activation": activation,
             "weight": weight, "bias": bias, "of": of}  # fmt: skip
    closed_form(inputs=x, depth=depth, activation=activation, weight=weight, bias=bias, of=of)  # refuses what it must
    return Prediction(
        f"relative distance of the mean {of} of {nets} networks of width {width} from the closed form",
        0.0, 4 / (width * nets) ** 0.5 + 0.01,
        "standard normal weights in NTK parametrisation, before training, depth well below width", side="below",
        law="strobe.laws.wide_kernels:wide_kernel", knobs=knobs, ref="arXiv:1806.07572",
    )  # fmt: skip


def closed_form(
    *, inputs: Any, depth: int, activation: str = "relu", weight: float = 2.0, bias: float = 0.0, of: str = "ntk"
) -> np.ndarray:
    """The kernel (n, n) that `wide_kernel` speaks of. Raises `BadOption`."""
    try:
        nngp, ntk = recursion(np.asarray(inputs, float), depth=depth, activation=activation, weight=weight, bias=bias)
    except ValueError as e:
        raise BadOption(f"{e}; activations with a closed form: {', '.join(MOMENTS)}") from e
    return ntk if of == "ntk" else nngp


@law(
    predicts="distance of one network's ntk from the closed form, against its width",
    ref="arXiv:1909.08156",
    free_parameters=0,
)
def kernel_spread(*, widths: Sequence[int], tol: float = 0.1) -> Prediction:
    """The order in width of how far the kernel of one random network is from the closed form: d ln|K − K_∞| / d ln width = −½.

        |K − K_∞|² = variance + bias²,   variance ~ depth/width,  bias ~ 1/width

    Args: widths, between which the slope is taken, two or more; tol.
    Regime (`when`): as `wide_kernel`; every width well above the depth, where variance leads.
    Raises `BadOption` for fewer than two different widths, or tol <= 0.
    Ref: Dyer and Gur-Ari, arXiv:1909.11304, section 3; Huang and Yau, arXiv:1909.08156; Hanin and Nica, arXiv:1909.05989, theorem 1.

    >>> kernel_spread(widths=[64, 256]).value
    -0.5
    """
    w = [int(x) for x in widths]
    if len(set(w)) < 2 or min(w) < 1 or not tol > 0:
        raise BadOption(f"the order needs two different widths >= 1 and tol > 0, got {widths} and {tol}")
    return Prediction(
        "order in width of the distance of one network's kernel from the closed form", -0.5, tol,
        "standard normal weights in NTK parametrisation, before training, every width well above the depth",
        law="strobe.laws.wide_kernels:kernel_spread", knobs={"widths": w, "tol": tol}, ref="arXiv:1909.08156",
    )  # fmt: skip


@law(predicts="spread of the ntk of deep ReLU networks over their starts", ref="arXiv:1909.05989", free_parameters=0)
def kernel_fluctuation(*, widths: Sequence[int], rtol: float = 0.05) -> Prediction:
    """How much the tangent kernel of one input varies over random ReLU networks: exponential in depth over width.

        E Θ² / (E Θ)² = exp Σ_j (5 − 8 j (L + 1 − j) / (L + 1)²) / n_j        hidden layers j = 1 to L, of widths n_j

    Each hidden layer multiplies what goes forward, and what comes back, by a factor of variance 5/n; the two share its mask, with
    covariance 1/n, where a pair of the L + 1 terms of Θ has the layer between them. For equal widths 3.2 to 3.7 L/n.
    Args: widths of the hidden layers; rtol.
    Regime (`when`): ReLU without biases at weight variance 2, Σ 1/n <= 1/8. Where it fails: other activations, residual branches that
    are scaled down with depth. Rival: e^{5 Σ 1/n}, to which the theorem below holds up to a constant, is too high.
    Raises `BadOption` for no widths, one below 2, or Σ 1/n > 1/8.
    Ref: Hanin and Nica, arXiv:1909.05989, theorem 1; the constant is our algebra, to first order in 1/n in the exponent.

    >>> round(kernel_fluctuation(widths=[64] * 8).value, 3)
    1.552
    """
    n = [int(w) for w in widths]
    beta = sum(1 / w for w in n if w) if n else 0.0
    if not n or min(n) < 2 or beta > 0.125 or not rtol > 0:
        raise BadOption(
            f"hidden layers of width 2 or more, Σ 1/width <= 1/8 and rtol > 0; got {n}, {beta:.3g} and {rtol}"
        )
    terms = len(n) + 1
    value = float(np.exp(sum((5 - 8 * j * (terms - j) / terms**2) / w for j, w in enumerate(n, 1))))
    return Prediction(
        "E Θ² / (E Θ)² of one input over networks", value, rtol * value,
        "ReLU, no biases, weight variance 2, Σ 1/width <= 1/8, before training",
        law="strobe.laws.wide_kernels:kernel_fluctuation", knobs={"widths": n, "rtol": rtol}, ref="arXiv:1909.05989",
    )  # fmt: skip
