"""Exponents of a linear or kernel model's loss in time, size, data and compute, from those of its spectrum and its target."""

from strobe.core.cards import law
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction

OF = {
    "time": "training time", "size": "number of modes that the model has", "data": "number of examples, without ridge or noise",
    "compute": "compute, size times time, at the best size",
}  # fmt: skip
LEAST = 1.75  # of the target's exponent: below, corrections die out too slowly to be seen


@law(predicts="exponents of the loss of linear and kernel models", ref="arXiv:2402.01092", free_parameters=0)
def source_capacity(*, source: float, capacity: float, of: str = "data", tol: float = 0.05) -> Prediction:
    """The slope of ln loss, for a spectrum λ_k ~ k^−b and a target whose power in mode k is c_k² ~ k^−a.

        time     −(a − 1)/b            gradient flow
        size     −(a − 1)
        data     −min(a − 1, 2b)       ridgeless regression
        compute  −(a − 1)/(1 + b)      C = N t, the best N for each C

    Args: source, a > 1; capacity, b > 1; of, "time", "size", "data" or "compute"; tol.
    Regime (`when`): a >= 1.75 (at 1.5 corrections are logarithmic: 0.08 off), loss far from its floor and from its start. Both
    exponents are those of the kernel and the target, known before training.
    Raises `BadOption` for a or b not above 1, an unknown word, a - 1 = 2b for "data" (a logarithm).
    Ref: Bordelon et al., arXiv:2402.01092, section 3; Caponnetto and De Vito 2007; Cui et al., arXiv:2105.15004; that of compute is ours.

    >>> source_capacity(source=2.0, capacity=1.5).value, round(source_capacity(source=2.0, capacity=1.5, of="time").value, 3)
    (-1.0, -0.667)
    """
    if of not in OF or not (1 < source < 50 and 1 < capacity < 50 and tol > 0):
        raise BadOption(
            f"of is one of {', '.join(OF)}, source and capacity above 1, tol > 0; got {of!r}, {source}, {capacity}, {tol}"
        )
    if of == "data" and source - 1 == 2 * capacity:
        raise BadOption(f"at a - 1 = 2b = {2 * capacity:g} the power law has a logarithm")
    a, b = source - 1, capacity
    value = {"time": -a / b, "size": -a, "data": -min(a, 2 * b), "compute": -a / (1 + b)}[of]
    return Prediction(
        f"slope of ln loss in ln {OF[of].split(',')[0]}", value, tol,
        f"source exponent >= {LEAST:g} (here {source:g}), loss far from its floor and its start",
        law="strobe.laws.source_capacity:source_capacity", ref="arXiv:2402.01092",
        knobs={"source": source, "capacity": capacity, "of": of, "tol": tol},
    )  # fmt: skip
