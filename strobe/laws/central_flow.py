"""The loss that full-batch descent at the edge of stability has on average, from the smooth flow it oscillates about."""

from typing import Any

import numpy as np

from strobe.core.cards import law
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction


@law(predicts="time-averaged training loss", ref="arXiv:2410.24206", free_parameters=0)
def central_flow(*, lr: float, losses: Any, variances: Any, rtol: float = 0.15) -> Prediction:
    """Gradient descent that oscillates about a flow w(t) has on average the flow's loss and what the oscillation adds.

        mean loss = L(w) + ½ Σᵢ σᵢ² λᵢ = L(w) + Σᵢ σᵢ² / lr        the unstable λᵢ are held at 2 / lr

    where the flow is dw/dt = −lr (∇L + ½ Σᵢ σᵢ² ∇λᵢ), t in steps, and the σᵢ² >= 0 are what keeps every λᵢ <= 2 / lr
    (complementarity: σᵢ² > 0 only at equality). `strobe.numerics.central_flow` integrates it; with σ = 0 it is gradient flow.

    Args: lr; losses, L(w(t)) along the flow, (steps,); variances, Σᵢ σᵢ² there, alike; rtol, of each mean loss.
    Regime (`when`): full batch, plain descent, constant lr, a loss averaged over many periods of oscillation, and the flow is
    integrated with more unstable directions than there are. A flow whose σ stays 0 says what gradient flow says.
    Where it fails: as rates so large that the third order of the loss is not enough (arXiv:2410.24206, section 3.4).
    Raises `BadOption` for lr <= 0, curves of different lengths, a negative variance or what is not finite.
    Ref: Cohen et al., arXiv:2410.24206, section 3 (equations 8 to 11); departure: σ's covariance is taken diagonal.

    >>> central_flow(lr=0.5, losses=[1.0, 0.5], variances=[0.0, 0.1]).value.tolist()
    [1.0, 0.7]
    """
    loss, extra = np.asarray(losses, float), np.asarray(variances, float)
    if not (lr > 0 and rtol > 0):
        raise BadOption(f"central_flow needs lr > 0 and rtol > 0, got lr = {lr}, rtol = {rtol}")
    if loss.ndim != 1 or loss.shape != extra.shape or not len(loss):
        raise BadOption(f"losses and variances are curves of one length, got shapes {loss.shape} and {extra.shape}")
    if not (np.isfinite(loss).all() and np.isfinite(extra).all() and (extra >= 0).all()):
        raise BadOption("losses and variances must be finite and variances at least 0")
    value = loss + extra / lr
    return Prediction(
        "time-averaged loss", value, rtol * np.abs(value),
        "full-batch gradient descent, constant lr, a loss averaged over the oscillation", law="strobe.laws.central_flow:central_flow",
        knobs={"lr": lr, "losses": loss.tolist(), "variances": extra.tolist(), "rtol": rtol}, ref="arXiv:2410.24206",
    )  # fmt: skip
