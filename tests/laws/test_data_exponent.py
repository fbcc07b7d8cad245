import pytest

from strobe.core.prediction import judge
from strobe.core.reading import Reading
from strobe.laws.data_exponent import data_exponent


def test_a_linear_long_memory_has_the_rate_of_shibata() -> None:
    """Order selection on AR(∞) with coefficients n^−β: excess risk D^−(1 − 1/2β) (Shibata 1980); γ = 2β − 1 gives the same."""
    for beta in (1.25, 1.5, 2.0):
        assert data_exponent(gamma=2 * beta - 1, beta=beta).value == pytest.approx(1 - 1 / (2 * beta))


def test_the_errors_of_both_exponents_widen_what_it_says() -> None:
    sure, unsure = data_exponent(gamma=1.0, beta=1.0), data_exponent(gamma=1.0, beta=1.0, gamma_err=0.3, beta_err=0.4)
    assert sure.tol == 0.05
    assert unsure.tol == pytest.approx(0.05 + 2 * 0.5 * 0.5)
    assert judge(sure, Reading(0.7, 0.01)).word == "fails"
    assert judge(unsure, Reading(0.7, 0.01)).word == "holds"
