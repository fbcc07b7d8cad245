import numpy as np
import pytest

from strobe.numerics.walsh import walsh


def slow(values: np.ndarray) -> np.ndarray:
    n = len(values)
    signs = np.array([[(-1) ** bin(s & x).count("1") for x in range(n)] for s in range(n)])
    return signs @ values / n


@pytest.mark.parametrize("bits", [0, 1, 3, 6])
def test_it_is_the_sum_over_all_inputs(bits: int) -> None:
    f = np.random.default_rng(bits).normal(size=(2, 2**bits))
    assert walsh(f) == pytest.approx(np.stack([slow(x) for x in f]))
    assert (walsh(f) ** 2).sum(-1) == pytest.approx((f**2).mean(-1))


def test_and_has_four_equal_parts() -> None:
    """(1 - a)(1 - b) / 4 in signs: O'Donnell, Analysis of Boolean Functions, section 1.2."""
    assert walsh(np.array([0.0, 0.0, 0.0, 1.0])).tolist() == [0.25, -0.25, -0.25, 0.25]


def test_a_length_that_is_no_power_of_two_is_refused() -> None:
    with pytest.raises(ValueError, match="got 6"):
        walsh(np.zeros(6))
