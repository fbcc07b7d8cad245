"""Newton polyhedra: crossings and weighted sums again, simplices by integrals, and the cusp, which it must not be asked."""

import numpy as np
import pytest

from strobe.core.errors import BadOption
from strobe.core.prediction import judge
from strobe.core.reading import Reading
from strobe.laws.known_rlct import normal_crossing_rlct, weighted_rlct
from strobe.laws.newton_rlct import newton_rlct


def test_it_agrees_with_crossings_and_weights() -> None:
    for powers in ([2], [2, 2], [2, 4], [6, 2, 4]):
        assert newton_rlct(exponents=[powers]).value == pytest.approx(normal_crossing_rlct(exponents=powers).value)
        apart = np.diag(powers).tolist()
        assert newton_rlct(exponents=apart).value == pytest.approx(weighted_rlct(weights=[1 / p for p in powers]).value)
    assert newton_rlct(exponents=[[4, 0], [2, 2], [0, 4]]).value == newton_rlct(exponents=[[4, 0], [0, 4]]).value == 0.5


def test_a_corner_counts_every_choice_that_matters_half_under_squares_and_whole_under_a_linear_loss() -> None:
    """K = (x + 2y)² on the square: both count ½, though only one direction is steep; in the plane it would be ½ in all."""
    u = (np.arange(2000) + 0.5) / 2000
    x, y = np.meshgrid(u, u, indexing="ij")
    for power, rows, n in ((2, [[2, 0], [0, 2]], 2000), (1, [[1, 0], [0, 1]], 50)):
        K = (x + 2 * y) ** power
        weight = np.exp(-n * K)
        got = Reading(float(n * (K * weight).sum() / weight.sum()))
        assert judge(newton_rlct(exponents=rows, rtol=0.03), got).word == "holds"
        assert judge(newton_rlct(exponents=[[power, 0]], rtol=0.03), got).word == "fails"


def test_a_triangle_of_pairs_is_fractional() -> None:
    """xy + yz + zx: no single choice matters, any two do; λ = 3/2, by y = (½, ½, ½) and not by two of them."""
    assert newton_rlct(exponents=[[1, 1, 0], [0, 1, 1], [1, 0, 1]]).value == 1.5


def test_terms_that_cancel_are_another_matter() -> None:
    """(x² - y³)²: its Newton polyhedron says 5/12, which is right at 0 but not along the curve; the monomials of x - y squared
    say 1, and it is 1/2."""
    assert newton_rlct(exponents=[[4, 0], [0, 6]]).value == pytest.approx(5 / 12)
    assert newton_rlct(exponents=[[2, 0], [1, 1], [0, 2]]).value == 1.0


@pytest.mark.parametrize("bad", [[], [[]], [[1, 2], [1]], [[-1.0]], [[0, 0]], [[np.nan]]])
def test_what_is_no_table_of_exponents_is_refused(bad: list[list[float]]) -> None:
    with pytest.raises(BadOption):
        newton_rlct(exponents=bad)
