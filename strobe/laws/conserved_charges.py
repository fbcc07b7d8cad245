"""How the charges of a network's symmetries change under gradient descent with steps that are not infinitely small."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from strobe.core.cards import law
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction


@law(predicts="change of rescale_charges or balancedness", ref="arXiv:2012.04728", free_parameters=0)
def charge_change(*, lr: float, spent: Sequence[Any], tol: float = 1e-10) -> Prediction:
    """The exact change of every charge over a stretch of gradient descent, from the gradients alone: Δq = lr² s.

        unit j:         s_j = Σ_t |g_in,j|² + g_b,j² − |g_out,j|²                q_j = |w_in,j|² + b_j² − |w_out,j|²
        linear layers:  s = Σ_t G_l G_lᵀ + g_b g_bᵀ − G_{l+1}ᵀ G_{l+1}           Q = W_l W_lᵀ + b bᵀ − W_{l+1}ᵀ W_{l+1}

    The term of order lr vanishes by the symmetry, at every step and for every loss, so nothing is left out.
    Args: lr; spent, s above (an array of any shape), of the gradients that the steps used; tol, 1e-10 in double precision.
    Regime (`when`): plain descent θ ← θ − lr g, full batch or not; a homogeneous (ReLU) unit or linear layers; no decay. It is known
    before anyone looks at a charge. Where it fails: momentum, Adam, weight decay; in single precision to about 1e-5.
    Rival: gradient flow, which says 0; it is off by order lr.
    Raises `BadOption` for lr <= 0, tol <= 0, or `spent` that is empty or not finite.
    Ref: Kunin and others, arXiv:2012.04728, section 5, and Tanaka and Kunin, arXiv:2105.02716; the exact discrete sum is ours.

    >>> charge_change(lr=0.1, spent=[2.0, -1.0]).value.round(3).tolist()
    [0.02, -0.01]
    """
    s = np.asarray(spent, float)
    if not s.size or not np.isfinite(s).all():
        raise BadOption("spent holds the summed squares of gradients: finite numbers, at least one")
    if not (lr > 0 and tol > 0):
        raise BadOption(f"charge_change needs lr > 0 and tol > 0, got {lr} and {tol}")
    return Prediction(
        "change of the charges", lr**2 * s, tol, "plain gradient descent, homogeneous or linear layers, no weight decay",
        law="strobe.laws.conserved_charges:charge_change", knobs={"lr": lr, "spent": s.tolist(), "tol": tol}, ref="arXiv:2012.04728",
    )  # fmt: skip


@law(predicts="drift of rescale_charges or balancedness against lr", ref="arXiv:2012.04728", free_parameters=0)
def charge_drift_order(*, rates: Sequence[float], rtol: float = 0.15) -> Prediction:
    """The order in lr of the drift of a charge over a fixed training time: d ln|Δq| / d ln lr = 1, so it is conserved by the flow.

        |Δq| = lr² |Σ_t …| ≈ lr · |∫ (|g_in|² − |g_out|²) dt|        t = lr · step

    Args: rates, the learning rates between which the slope is taken, two or more, of one training time; rtol.
    Regime (`when`): each rate below the edge of stability (the training loss fell at every step), plain descent, no decay.
    Where it fails: a rate beyond the edge; stochastic batches, where gradient noise adds its own part.
    Raises `BadOption` for fewer than two different rates.
    Ref: Kunin and others, arXiv:2012.04728, section 5.

    >>> charge_drift_order(rates=[0.1, 0.05]).value
    1.0
    """
    r = [float(x) for x in rates]
    if len(set(r)) < 2 or not all(x > 0 for x in r) or not rtol > 0:
        raise BadOption(f"the order needs two different rates > 0 and rtol > 0, got {rates} and {rtol}")
    return Prediction(
        "order in lr of the drift of the charges", 1.0, rtol,
        "plain descent for one training time, and the training loss fell at every step",
        law="strobe.laws.conserved_charges:charge_drift_order", knobs={"rates": r, "rtol": rtol}, ref="arXiv:2012.04728",
    )  # fmt: skip
