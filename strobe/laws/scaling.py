"""Neural scaling: where a fitted loss surface says the next run will be, and how a compute budget is best split."""

from collections.abc import Sequence

import numpy as np

from strobe.core.cards import law
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction


@law(predicts="loss of runs larger than those it was fitted on", ref="arXiv:2203.15556", free_parameters=5)
def scaling_law(
    *, sizes: Sequence[float], examples: Sequence[float], floor: float, a: float, b: float, alpha: float, beta: float, rtol: float = 0.05
) -> Prediction:  # fmt: skip
    """L(N, D) = E + A / N^α + B / D^β, from five numbers fitted on smaller runs (`numerics.scaling_fit.fit`).

    Args: sizes N (parameters) and examples D of the runs it speaks about; floor E; a, b, alpha, beta; rtol, of each loss.
    Regime (`when`): within a factor of about 8 of the fitted range in each; every run trained to the same degree (to the end, or once
    through its data).
    Where it fails: double descent, repeated data, a learning rate not transferred across sizes.
    Raises `BadOption` for sizes and examples of different number, or numbers that are not positive (E may be 0).
    Ref: Hoffmann et al., arXiv:2203.15556, equation 10.

    >>> scaling_law(sizes=[1e9], examples=[1e9], floor=1.7, a=400, b=400, alpha=0.5, beta=0.5).value.round(3).tolist()
    [1.725]
    """
    n, d = np.asarray(list(sizes), float), np.asarray(list(examples), float)
    if not len(n) or n.shape != d.shape or not ((n > 0).all() and (d > 0).all()):
        raise BadOption(f"scaling_law needs as many sizes as examples, all positive; got {len(n)} and {len(d)}")
    if not (floor >= 0 and a >= 0 and b >= 0 and alpha > 0 and beta > 0 and rtol > 0):
        raise BadOption("scaling_law needs floor, a, b >= 0 and alpha, beta, rtol > 0")
    value = floor + a * n**-alpha + b * d**-beta
    knobs = {
        "sizes": n.tolist(),
        "examples": d.tolist(),
        "floor": floor,
        "a": a,
        "b": b,
        "alpha": alpha,
        "beta": beta,
        "rtol": rtol,
    }
    return Prediction(
        "loss", value, rtol * value, "near the fitted range, every run trained to the same degree", fitted=5,
        law="strobe.laws.scaling:scaling_law", knobs=knobs, ref="arXiv:2203.15556",
    )  # fmt: skip


@law(predicts="exponent of the best size in compute", ref="arXiv:2203.15556", free_parameters=2)
def compute_optimal(*, alpha: float, beta: float, tol: float = 0.02) -> Prediction:
    """Of a compute C = 6 N D the best N grows as C^(β / (α + β)), the best D as C^(α / (α + β)).

    Args: alpha, beta, fitted (`scaling_law`); tol, of the exponent.
    Regime (`when`): the loss is that surface; C in the range where neither term has vanished.
    Raises `BadOption` unless alpha, beta, tol > 0.
    Ref: Hoffmann et al., arXiv:2203.15556, equation 4.

    >>> round(compute_optimal(alpha=0.34, beta=0.28).value, 3)
    0.452
    """
    if not (alpha > 0 and beta > 0 and tol > 0):
        raise BadOption(f"compute_optimal needs alpha, beta, tol > 0, got {alpha}, {beta}, {tol}")
    return Prediction(
        "exponent of N in C", beta / (alpha + beta), tol, "the surface of scaling_law", fitted=2, law="strobe.laws.scaling:compute_optimal",
        knobs={"alpha": alpha, "beta": beta, "tol": tol}, ref="arXiv:2203.15556",
    )  # fmt: skip


@law(predicts="exponent of the time to learn a task in how often it comes", ref="arXiv:2303.13506", free_parameters=0)
def quanta(*, alpha: float, of: str = "times", tol: float = 0.25) -> Prediction:
    """Tasks met with probabilities p_k ~ k^−(α+1) are learned one by one, the frequent ones first, each in a time ~ 1 / p_k.

        "times"   d log t_k / d log p_k = −1          "order"   Spearman rank correlation of k with t_k >= 0.9
        "steps"   d log L / d log t = −α / (α + 1)    (the loss left is that of the tasks not yet learned)

    Args: alpha > 0; of; tol, of the exponent (of "order": of 1, and then 0.1 by default).
    Regime (`when`): tasks that share nothing but the network, all learnable at its width, t from the moment a task's loss is half of
    one that is not learned.
    Where it fails: the exponent of steps is only rough at the sizes that fit here (own; and its authors say so of parity).
    Raises `BadOption` for alpha or tol <= 0, or another `of`.
    Ref: Michaud et al., arXiv:2303.13506, sections 2 and 4.

    >>> quanta(alpha=0.4).value, round(quanta(alpha=0.4, of="steps").value, 3)
    (-1.0, -0.286)
    """
    if of not in ("times", "order", "steps"):
        raise BadOption(f"quanta speaks of times, order and steps, not of {of!r}")
    if not (alpha > 0 and tol > 0):
        raise BadOption(f"quanta needs alpha and tol > 0, got {alpha} and {tol}")
    value = {"times": -1.0, "order": 1.0, "steps": -alpha / (alpha + 1)}[of]
    return Prediction(
        {"times": "exponent of t in p", "order": "rank correlation", "steps": "exponent of the loss in steps"}[of], value,
        min(tol, 0.1) if of == "order" else tol, "independent tasks, all learnable", law="strobe.laws.scaling:quanta",
        side="above" if of == "order" else "both", knobs={"alpha": alpha, "of": of, "tol": tol}, ref="arXiv:2303.13506",
    )  # fmt: skip
