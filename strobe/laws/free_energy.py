"""The Bayes free energy and its trade: loss against degeneracy, and the n at which one kind of solution gives way to another."""

from collections.abc import Sequence
from itertools import pairwise
from math import isfinite, log

import numpy as np
from scipy.special import lambertw

from strobe.core.cards import law
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction

_REF = "Watanabe 2009, Algebraic Geometry and Statistical Learning Theory"
_FILE = "strobe.laws.free_energy:"
Phase = tuple[float, float]  # (loss, λ)


@law(predicts="free energy", ref="Watanabe 2009, Algebraic Geometry and Statistical Learning Theory", free_parameters=0)
def free_energy(
    *, n: Sequence[int], rlct: float, multiplicity: int = 1, loss: float = 0.0, rtol: float = 0.1
) -> Prediction:
    """How much the free energy F_n = -log ∫ e^{-n L_n(w)} φ(w) dw has risen since the first n, at each further n.

        F_n = n L + λ log n - (m - 1) log log n + O(1):
        F_n - F_{n₀} = (n - n₀) L + λ log(n / n₀) - (m - 1) log(log n / log n₀) + o(1)

    The rise, for what is left out (prior, volume, noise of the data) is of order 1 and about the same at every n.

    Args: `n` two or more rising numbers of examples above 2, the first is n₀; `rlct` λ > 0 and `multiplicity` m; `loss` L at
    the best parameters, nats an example (0: the free energy over that of the truth); `rtol`, of the part that is not (n - n₀) L.
    Regime: the mean over data sets (F_n of one wanders by √n), a prior that is positive at the best parameters, n large.
    Where it fails: λ of one phase where the posterior is still in another (`phase_change`).
    Ref: Watanabe 2009, main theorem 6.2.

    >>> free_energy(n=[100, 1000, 10000], rlct=1.5).value.round(3).tolist()
    [3.454, 6.908]
    """
    sizes = [int(k) for k in n]
    if len(sizes) < 2 or sizes[0] <= 2 or any(b <= a for a, b in pairwise(sizes)):
        raise BadOption(f"n is two or more rising numbers of examples above 2, got {list(n)}")
    if not (0 < rlct < float("inf")) or multiplicity != int(multiplicity) or multiplicity < 1 or not isfinite(loss):
        raise BadOption(
            f"needs rlct > 0, a multiplicity of 1 or more, a finite loss; got {rlct}, {multiplicity}, {loss}"
        )
    if not rtol > 0:
        raise BadOption(f"rtol must be positive, got {rtol}")
    late, first = np.array(sizes[1:], float), float(sizes[0])
    rise = rlct * np.log(late / first) - (multiplicity - 1) * np.log(np.log(late) / log(first))
    return Prediction(
        f"rise of the free energy since n = {sizes[0]}", (late - first) * loss + rise, rtol * np.abs(rise),
        when="the mean over data sets; n large; a prior that is positive at the best parameters",
        law=_FILE + "free_energy", ref=_REF,
        knobs={"n": sizes, "rlct": rlct, "multiplicity": multiplicity, "loss": loss, "rtol": rtol},
    )  # fmt: skip


@law(predicts="free energy gap", ref="Watanabe 2009, Algebraic Geometry and Statistical Learning Theory", free_parameters=0)  # fmt: skip
def phase_gap(*, n: float, first: Phase, second: Phase, tol: float = 2.3) -> Prediction:
    """By how many nats the free energy of the first of two phases exceeds the second's: above 0 the second is preferred.

        F₁ - F₂ = n (L₁ - L₂) + (λ₁ - λ₂) log n,       log of (posterior share of the second / of the first)

    Args: `n` examples; `first` and `second` as (L, λ), L in nats an example; `tol` in nats, for the terms of order 1 that are
    left out: 2.3 is a factor of ten in the shares.
    Regime: both phases in the support of one smooth prior; the posterior has reached both.
    Where it fails: prior mass or number of copies of the phases more than e^tol apart; multiplicities that differ.
    Ref: Watanabe 2009, main theorem 6.2, for each phase by itself.

    >>> round(phase_gap(n=1000, first=(0.03, 2.0), second=(0.02, 3.0)).value, 2)                        # 10 - log 1000
    3.09
    """
    (a, p), (b, q) = _phases(first, second)
    if not (1 < n < float("inf") and tol > 0):
        raise BadOption(f"needs n > 1 and tol > 0, got {n} and {tol}")
    return Prediction(
        "free energy of the first phase less that of the second", n * (a - b) + (p - q) * log(n), tol,
        when="a posterior e^{−nL} with a smooth prior, both phases in its support; terms of order 1 within tol",
        law=_FILE + "phase_gap", knobs={"n": n, "first": [a, p], "second": [b, q], "tol": tol}, ref=_REF,
    )  # fmt: skip


@law(predicts="ln n", ref="Watanabe 2009, Algebraic Geometry and Statistical Learning Theory", free_parameters=0)
def phase_change(
    *, first: Phase, second: Phase, names: tuple[str, str] = ("the first", "the second"), factor: float = 2.0
) -> Prediction:
    """ln n at which the posterior goes over from a phase to one of lower loss and larger λ.

        n L₁ + λ₁ ln n = n L₂ + λ₂ ln n   ⟺   n / ln n = (λ₂ - λ₁) / (L₁ - L₂),   the larger root

    Args: `first`, `second` as (L, λ), L in nats an example; `names` for the sentences; `factor` by which n may be off:
    terms of order 1 in the free energy (prior, volume, number of copies) are left out.
    Where it fails: where those terms are large against λ₂ - λ₁.
    Raises `BadOption` where the second never wins, its loss being no lower, or always does: its λ is no larger, or the
    ratio is below e.
    Ref: Watanabe 2009, main theorem 6.2.

    >>> round(2.718281828 ** phase_change(first=(0.03, 2.0), second=(0.02, 3.0)).value)                           # n / ln n = 100
    647
    """
    (a, p), (b, q) = _phases(first, second)
    if not factor > 1:
        raise BadOption(f"factor is how many times n may be off, above 1; got {factor}")
    rise, fall = q - p, a - b
    if fall <= 0:
        raise BadOption(f"{names[0]} never gives way to {names[1]}: the loss of the second, {b:.6g}, is not lower")
    if rise <= 0 or rise / fall < 2.7183:
        raise BadOption(
            f"{names[1]} is preferred to {names[0]} at every n: its loss is lower and λ, {q:g}, no larger to speak of"
        )
    return Prediction(
        f"ln n where {names[0]} gives way to {names[1]}", log(-(rise / fall) * float(lambertw(-fall / rise, -1).real)), log(factor),
        when="a posterior e^{−nL} with a smooth prior, both phases in its support; terms of order 1 left out",
        law=_FILE + "phase_change", ref=_REF,
        knobs={"first": [a, p], "second": [b, q], "names": list(names), "factor": factor},
    )  # fmt: skip


def _phases(*given: Phase) -> list[Phase]:
    """Each as (loss, λ), checked."""
    for phase in given:
        if len(phase) != 2 or not isfinite(phase[0]) or not 0 <= phase[1] < float("inf"):
            raise BadOption(f"a phase is (loss, λ), both finite and λ >= 0; got {phase}")
    return [(float(x), float(y)) for x, y in given]
