"""Whether a deep random network keeps its inputs apart: their length, their correlation, and the stretch of small differences."""

from typing import Any

import numpy as np

from strobe.core.cards import law
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction
from strobe.numerics.signal_propagation import ACTIVATIONS, correlation_map, fixed_length, length_map, slope

OF = {"length": 0.02, "stretch": 0.02, "correlation": 0.03}  # and the tolerance: of the first two relative
CHAOS = 1.02  # χ₁ above which differences of size width^-½ grow


@law(
    predicts="length, stretch and correlation of signals in a random network", ref="arXiv:1606.05340", free_parameters=0
)
def order_chaos(
    *, activation: str, weight: float, bias: float, layers: int, of: str = "length", correlation: float = 0.5, length: float | None = None
) -> Prediction:  # fmt: skip
    """What deep layers of a wide random network do to the length of an input, to two inputs' correlation, or to a small difference.

        length       q* = weight E φ(√q* z)² + bias
        stretch      χ₁ = weight E φ'(√q* z)²,      < 1: inputs merge (order);  > 1: they come apart (chaos)
        correlation  c_{l+1} = (weight E φ(u)φ(v) + bias) / q_{l+1},   from c_0, after each of the layers (a curve)

    Args: activation "tanh", "erf" or "relu"; weight, bias: variances, weight/width per entry; layers, how many the curve has;
    correlation, c_0, of pre-activations of the first layer; length, their variance there, by default q*.
    Regime (`when`): width well above depth, independent normal weights; for "correlation" χ₁ <= 1.02: in chaos differences of size
    width^-½ grow to order 1 (a network of finite width then leaves the curve; judge it *outside*). All are known before a network is run.
    Tolerance: 2% of q* and of χ₁; 0.03 of c.
    Raises `BadOption` for unknown words, weight <= 0, bias < 0, |c_0| > 1, or lengths that have no fixed point or vanish (ReLU away from
    weight 2; tanh in order without bias).
    Ref: Poole et al., arXiv:1606.05340, equations 3 to 5; Schoenholz et al., arXiv:1611.01232.

    >>> said = order_chaos(activation="tanh", weight=1.5, bias=0.1, layers=10, of="stretch")
    >>> round(said.value, 3)
    0.878
    """
    if of not in OF or activation not in ACTIVATIONS:
        raise BadOption(
            f"of is one of {', '.join(OF)} and activation of {', '.join(ACTIVATIONS)}, got {of!r} and {activation!r}"
        )
    if not (weight > 0 and bias >= 0 and layers >= 1 and abs(correlation) <= 1 and (length is None or length > 0)):
        raise BadOption("order_chaos needs weight > 0, bias >= 0, layers >= 1, |correlation| <= 1 and length > 0")
    knobs: dict[str, Any] = {"activation": activation, "weight": weight, "bias": bias, "layers": layers, "of": of,
                             "correlation": correlation, "length": length}  # fmt: skip
    try:
        fixed = fixed_length(activation=activation, weight=weight, bias=bias)
    except ValueError as e:
        raise BadOption(str(e)) from e
    if not fixed > 1e-6:
        raise BadOption(
            f"the lengths of {activation} at weight {weight}, bias {bias} vanish or do not settle: nothing is left to measure"
        )
    value, tol, what, when = _said(fixed, of, knobs)
    return Prediction(
        what, value, tol, f"normal weights, width well above depth{when}",
        law="strobe.laws.order_chaos:order_chaos", knobs=knobs, ref="arXiv:1606.05340",
    )  # fmt: skip


def _said(fixed: float, of: str, knobs: dict[str, Any]) -> tuple[Any, float, str, str]:
    how: dict[str, Any] = {k: knobs[k] for k in ("activation", "weight")}
    if of == "length":
        return fixed, OF[of] * fixed, "variance of pre-activations in deep layers", ""
    chi = slope(fixed, **how)
    if of == "stretch":
        return chi, OF[of] * chi, "squared stretch of a small difference in a deep layer", ""
    curve, c, q = [], knobs["correlation"], knobs["length"] or fixed
    for _ in range(knobs["layers"]):
        c = correlation_map(c, q, bias=knobs["bias"], **how)
        q = length_map(q, bias=knobs["bias"], **how)
        curve.append(c)
    return np.array(curve), OF[of], "correlation of two inputs, layer by layer", f"; χ₁ <= {CHAOS} (here {chi:.3g})"
