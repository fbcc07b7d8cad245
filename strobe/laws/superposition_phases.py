"""Which polygon the posterior of a superposition prefers: learning coefficients, and the n at which one gives way to the next."""

from dataclasses import replace

from strobe.core.cards import law
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction
from strobe.laws.free_energy import phase_change
from strobe.laws.superposition import Polygon, polygon


def coefficient(p: Polygon) -> float:
    """λ of a polygon, λ = (3c − 1 − free) / 2: half the number of directions in which the loss rises, all quadratically.

    One of the 3c parameters turns the figure. A "-" column, silent, is `free` in all three of its own where the corners have
    b < 0 (k > 4); where they have b = 0 (k = 4) any move of its two weights wakes them, and its bias alone is free.
    Raises `BadOption` for fewer than 4 corners (their angles are free too, and the rest touches them), and for + beside -
    with more than 4 corners: there a + and a - column turned against each other lower the loss, a saddle.

    >>> [coefficient(polygon(4, 2)), coefficient(polygon(5)), coefficient(polygon(6))]
    [8.5, 7.0, 8.5]
    """
    silent = p.features - p.corners - p.plus
    if p.corners < 4:
        raise BadOption(f"λ is known for 4 corners or more, not for {p.name}")
    if p.corners > 4 and silent and p.plus:
        raise BadOption(
            f"{p.name} is a saddle, it has no learning coefficient: + and - columns mix only with 4 corners"
        )
    return (3 * p.features - 1 - silent * (3 if p.corners > 4 else 1)) / 2


@law(predicts="llc", ref="arXiv:2310.06301", free_parameters=0)
def superposition_llc(*, corners: int, plus: int = 0, features: int = 6, rtol: float = 0.04) -> Prediction:
    """The local learning coefficient λ at a k-gon with so many + columns (`coefficient`); the multiplicity is 1.

    Args: `corners` k, `plus` columns left over with b > 0, `features` c, `rtol` relative to the value.
    Regime: at the polygon, two hidden dimensions, one active feature; nβ large: within 2% at 1e5 for c = 6, measured.
    Where it fails: at nβ of hundreds, where directions of curvature 0.01 count as flat; without localisation, for a
    "-" column whose bias comes to 0 falls to the + level.
    Ref: Chen et al., arXiv:2310.06301, table of critical points; the count of free directions is ours.

    >>> superposition_llc(corners=5, plus=1).value
    8.5
    """
    if not rtol > 0:
        raise BadOption(f"rtol must be positive, got {rtol}")
    p = polygon(corners, plus, features=features)
    value = coefficient(p)
    return Prediction(
        of=f"llc at the {p.name} polygon",
        value=value,
        tol=rtol * value,
        when="at this polygon; one active feature, two hidden dimensions; nβ >= 1e5, held by the localisation",
        law="strobe.laws.superposition_phases:superposition_llc",
        knobs={"corners": corners, "plus": plus, "features": features, "rtol": rtol},
        ref="arXiv:2310.06301",
    )


@law(predicts="ln n", ref="arXiv:2310.06301", free_parameters=0)
def superposition_phase_change(
    *, first: tuple[int, int], second: tuple[int, int], features: int = 6, factor: float = 2.0
) -> Prediction:
    """ln n at which the posterior e^{−nL} goes over from one polygon to another of lower loss and larger λ.

        n L₁ + λ₁ ln n = n L₂ + λ₂ ln n   ⟺   n / ln n = (λ₂ − λ₁) / (L₁ − L₂),   the larger root

    Args: `first` and `second` as (corners, plus); `factor` by which n may be off: terms of order 1 in the free energy
    (prior, volume, number of copies) are left out. The ½ in L sets the unit of n.
    Where it fails: where those terms are large. With a normal prior of variance 1 and c = 6 the posterior goes from 5- to 6
    at n = 450 to 500, not 1010 (measured by replica exchange), and below n = 130 it prefers 4-- to 5-, which this order never does.
    Raises `BadOption` where the second never wins: its loss is not lower; or always does: λ is not larger, or the ratio is
    below e.
    Ref: Watanabe 2009, Algebraic Geometry and Statistical Learning Theory, main formula II; Chen et al., arXiv:2310.06301.

    >>> round(2.718281828 ** superposition_phase_change(first=(5, 0), second=(6, 0)).value)
    1010
    """
    a, b = (polygon(k, plus, features=features) for k, plus in (first, second))
    phases = [(x.loss, coefficient(x)) for x in (a, b)]
    said = phase_change(first=phases[0], second=phases[1], names=(a.name, b.name), factor=factor)
    return replace(
        said,
        when="a posterior e^{−nL} with a smooth prior, both polygons in its support; terms of order 1 left out",
        law="strobe.laws.superposition_phases:superposition_phase_change",
        knobs={"first": list(first), "second": list(second), "features": features, "factor": factor},
        ref="arXiv:2310.06301",
    )
