"""How Bayes prediction errs with n examples: λ/n, where counting parameters says d/2n."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from strobe.core.cards import law
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction

_REF = "Watanabe 2009, Algebraic Geometry and Statistical Learning Theory"


@law(predicts="n E[G]", ref="Watanabe 2009, Algebraic Geometry and Statistical Learning Theory", free_parameters=0)
def bayes_generalization(
    *, n: Sequence[int], rlct: float, multiplicity: int = 1, first_order: bool = True, rtol: float = 0.15
) -> Prediction:
    """The mean generalisation error of Bayes prediction, times n, at each n: λ, whatever the number of parameters.

        G_n = E_X KL(q(y|x) ‖ E_w p(y|x, w)),    n E[G_n] → λ,    or with `first_order=False`   λ - (m - 1) / log n

    the derivative of the free energy in n: E[G_n] = E[F_{n+1}] - E[F_n] - S. In nats an example.

    Args: `n` numbers of examples above 2; `rlct` λ > 0, `multiplicity` m; `rtol`, relative to λ.
    Regime: the truth q lies in the model, w from the posterior at β = 1, the mean over data sets; n so large that λ's
    singularity is all that the posterior sees.
    Where it fails: a truth outside the model (then G_n counts from the nearest point, and λ is that point's); predicting
    by one parameter, whose error is larger where the model is singular.
    Ref: Watanabe 2009, main theorem 6.3 and corollary 6.2.

    >>> bayes_generalization(n=[200, 3200], rlct=3.5).value.tolist()
    [3.5, 3.5]
    """
    if not (0 < rlct < float("inf")) or multiplicity != int(multiplicity) or multiplicity < 1:
        raise BadOption(f"needs rlct > 0 and a multiplicity of 1 or more, got {rlct} and {multiplicity}")
    fall = 0.0 if first_order else (multiplicity - 1) / np.log(_sizes(n, rtol))
    knobs = {"rlct": rlct, "multiplicity": multiplicity, "first_order": first_order}
    return _said("bayes_generalization", n, np.full(len(n), float(rlct)) - fall, knobs, rtol, "", _REF)


@law(predicts="n E[G]", ref="Schwarz 1978, Annals of Statistics 6, 461", free_parameters=0)
def regular_generalization(*, n: Sequence[int], parameters: int, rtol: float = 0.15) -> Prediction:
    """The rival: the same for a regular model, n E[G_n] = d/2, which a singular one must refute.

        n E[G_n] → d / 2,    for Bayes prediction and for maximum likelihood alike

    Args: `n` numbers of examples above 2; `parameters` d; `rtol`, relative.
    Regime: a Fisher information of full rank at the truth. Where it fails: every singular truth, by d/2 - λ.
    Ref: Schwarz 1978, Akaike 1974 (d/2 per example in the mean, of either predictor).

    >>> regular_generalization(n=[200], parameters=12).value.tolist()
    [6.0]
    """
    if parameters != int(parameters) or parameters < 1:
        raise BadOption(f"parameters is a number >= 1, got {parameters}")
    value = np.full(len(n), parameters / 2)
    where, ref = "; a Fisher information of full rank", "Schwarz 1978, Annals of Statistics 6, 461"
    return _said("regular_generalization", n, value, {"parameters": int(parameters)}, rtol, where, ref)


def _said(
    name: str, n: Sequence[int], value: np.ndarray, knobs: dict[str, Any], rtol: float, where: str, ref: str
) -> Prediction:
    sizes = _sizes(n, rtol)
    return Prediction(
        "n E[G] of Bayes prediction, at each n", value, rtol * np.abs(value),
        when="the truth in the model, mean over data sets" + where, law=f"strobe.laws.bayes_generalization:{name}",
        knobs={"n": [int(x) for x in sizes], **knobs, "rtol": rtol}, ref=ref,
    )  # fmt: skip


def _sizes(n: Sequence[int], rtol: float) -> np.ndarray:
    sizes = np.asarray(n, float)
    if not rtol > 0:
        raise BadOption(f"rtol must be positive, got {rtol}")
    if sizes.ndim != 1 or not len(sizes) or not (np.isfinite(sizes).all() and sizes.min() > 2):
        raise BadOption(f"n is a list of numbers of examples above 2, got {n}")
    return sizes
