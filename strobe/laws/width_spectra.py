"""What settles as a network gets wider: how strongly its weights' changes act, what sticks out, how sharp the loss is."""

from collections.abc import Sequence

import numpy as np

from strobe.core.cards import law
from strobe.core.errors import BadOption, near
from strobe.core.prediction import Prediction

OF = {
    "updates": "σ₁(ΔW) √(fan_in / fan_out)",
    "spikes": "σ₁ / edge and the number of spikes",
    "sharpness": "lr λ₁ of the preconditioned Hessian",
}
REF = {"updates": "arXiv:2310.17813", "spikes": "arXiv:1810.01075", "sharpness": "arXiv:2402.17457"}
WHERE = "strobe.laws.width_spectra"


@law(predicts="exponents in width of spectra along training", ref="arXiv:2402.17457", free_parameters=0)
def spectra_settle(*, of: str, widths: Sequence[int], numbers: int, tol: float = 0.15) -> Prediction:
    """In the maximal update parametrisation the leading spectral numbers of a training do not depend on width: each ~ width^0.

        updates     σ₁(W_t − W_0) √(fan_in / fan_out), of each matrix: a step moves features, and no more at any width
        spikes      σ₁ / edge, and how many singular values of a hidden matrix lie above the Marchenko-Pastur edge
        sharpness   lr λ₁(D P⁻¹ H) at steps along training: Adam's P, D the learning rates' multipliers

    Args: of; widths, at least 4, spanning a factor of 8; numbers, how many exponents are judged (matrices, or looks along training); tol.
    Regime (`when`): the same data, depth, steps and base rate; Adam or SGD by `strobe.edits.mup`'s table; after the first tens of
    steps (before, parameters whose gradients were all but zero rule P); for spikes, widths of six classes and more.
    Where it fails: the standard parametrisation (the null); the bulk of the spectrum, whose number of directions grows with width.
    Raises `BadOption` for another quantity, fewer widths or a shorter span, numbers < 1 or tol <= 0.
    Ref: Noci and others, arXiv:2402.17457 (sharpness, "super consistency"); Yang, Simon and Bernstein, arXiv:2310.17813, condition 1
    (updates); that the spikes settle too is ours, after Martin and Mahoney, arXiv:1810.01075.

    >>> spectra_settle(of="updates", widths=[32, 64, 128, 256], numbers=3).value.tolist()
    [0.0, 0.0, 0.0]
    """
    if of not in OF:
        raise BadOption(f"spectra_settle speaks of {', '.join(OF)}, not of {of!r}; {near(of, list(OF))}")
    sizes = _sizes(widths)
    if numbers < 1 or not tol > 0:
        raise BadOption(f"numbers is at least 1 and tol above 0, got {numbers} and {tol}")
    return Prediction(
        f"exponents in width: {OF[of]}", np.zeros(numbers), np.full(numbers, float(tol)),
        "the same data, depth, steps and base rate, after the first tens of steps", law=f"{WHERE}:spectra_settle",
        knobs={"of": of, "widths": sizes, "numbers": numbers, "tol": tol}, ref=REF[of],
    )  # fmt: skip


@law(predicts="exponents in width of the first updates' action, standard", ref="arXiv:2310.17813", free_parameters=0)
def standard_updates(*, roles: Sequence[str], widths: Sequence[int], tol: float = 0.25) -> Prediction:
    """In the standard parametrisation Adam's first steps act more strongly the wider the network: σ₁(ΔW) √(fan_in / fan_out) ~ width^s.

        input 0, hidden 1, output 1       entries of size lr, in few directions: σ₁ = lr √(fan_in fan_out), times √(fan_in / fan_out)

    Args: roles of the matrices in order, "input" (only its outputs widen), "hidden" or "output"; widths, at least 4, spanning a factor
    of 8; tol of each exponent.
    Regime (`when`): the first few steps of Adam, one lr for all, gradients of few directions. Where it fails: later, as the updates of
    wide networks stop growing once the loss is small; plain descent, whose updates have the gradient's size. Raises `BadOption`.
    Ref: Yang, Simon and Bernstein, arXiv:2310.17813, section 4 (the sizes); the exponents follow as above.

    >>> standard_updates(roles=["input", "hidden", "output"], widths=[32, 64, 128, 256]).value.tolist()
    [0.0, 1.0, 1.0]
    """
    known = {"input": 0.0, "hidden": 1.0, "output": 1.0}
    if not roles or (odd := [r for r in roles if r not in known]):
        raise BadOption(f"roles are {', '.join(known)}, got {roles if not roles else odd[0]!r}")
    sizes = _sizes(widths)
    if not tol > 0:
        raise BadOption(f"tol must be positive, got {tol}")
    return Prediction(
        f"exponents in width: {OF['updates']}", np.array([known[r] for r in roles]), np.full(len(roles), float(tol)),
        "the first few steps of Adam, one lr for all widths", law=f"{WHERE}:standard_updates",
        knobs={"roles": list(roles), "widths": sizes, "tol": tol}, ref="arXiv:2310.17813",
    )  # fmt: skip


def _sizes(widths: Sequence[int]) -> list[int]:
    sizes = [int(w) for w in widths]
    if len({*sizes}) < 4 or len({*sizes}) < len(sizes) or min(sizes) < 1 or max(sizes) < 8 * min(sizes):
        raise BadOption(
            f"an exponent in width is told from 4 widths or more that span a factor of 8, each once; got {sizes}"
        )
    return sizes
