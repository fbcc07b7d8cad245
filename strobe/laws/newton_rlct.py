"""Learning coefficients of losses that are sums of monomials with positive coefficients: read off by a linear programme."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from scipy.optimize import linprog

from strobe.core.cards import law
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction
from strobe.laws.known_rlct import known

_WATANABE = "Watanabe 2009, Algebraic Geometry and Statistical Learning Theory"


@law(predicts="llc", ref="Watanabe 2009, Algebraic Geometry and Statistical Learning Theory", free_parameters=0)
def newton_rlct(*, exponents: Sequence[Sequence[float]], rtol: float = 0.1) -> Prediction:
    """The learning coefficient of K(w) = Σ c_α w^α with all c_α > 0 on w >= 0, at w = 0: from its Newton polyhedron.

        λ = min Σ yᵢ   over y >= 0 with  α·y >= 1 for every monomial α

    for w = N^{-y} fills a part N^{-Σ y} of the orthant, and N K is of order 1 there where no monomial is larger. By
    duality it is 1/t for the t with (t, …, t) on the boundary of the polyhedron.

    Args: `exponents`, a row for each monomial and a column for each variable that K may depend on; `rtol`, of λ.
    Regime: 0 a corner of the parameters (a vertex of simplices: probabilities that are 0 there), or even exponents, where
    the orthants are alike; a density that is positive and bounded there. Coefficients do not matter, nor do monomials that
    others divide. Of an error probability e, with coefficients >= 0, e² has twice its exponents: half its λ.
    Where it fails: coefficients of both signs, whose terms may cancel: (x² - y³)² has λ = 5/12 at 0, in the interior
    elsewhere. The multiplicity is not said: at finite N λ̂ may be lower by (m - 1) / log N.
    Ref: Watanabe 2009 (toric resolution); Arnold, Gusein-Zade and Varchenko, Singularities of Differentiable Maps II.

    >>> newton_rlct(exponents=[[2, 2]]).value, round(newton_rlct(exponents=[[4, 0], [0, 6]]).value, 4)          # 1/4 + 1/6
    (0.5, 0.4167)
    """
    rows = (
        np.array([list(map(float, row)) for row in exponents], float) if len({len(r) for r in exponents}) == 1 else None
    )
    if rows is None or rows.ndim != 2 or not rows.size or not np.isfinite(rows).all() or rows.min() < 0:
        raise BadOption("exponents are rows of numbers >= 0, as many in each as there are variables")
    if not rows.any(1).all():
        raise BadOption("a monomial without a variable is a constant: K is not 0 there")
    found = linprog(np.ones(rows.shape[1]), A_ub=-rows, b_ub=-np.ones(len(rows)))
    if not found.success:
        raise BadOption(f"the linear programme of {rows.shape} exponents has no solution: {found.message}")
    value = round(float(found.fun), 9)
    place = "a corner, coefficients > 0"
    said = known("llc", "newton_rlct:newton_rlct", (value, 1), place, {"exponents": rows.tolist()}, _WATANABE, rtol)
    return replace(said, when=f"N → ∞ around {place}", knobs={"exponents": rows.tolist(), "rtol": rtol})
