import numpy as np
import pytest

from strobe.numerics.local_polynomials import local_polynomials, log_widths, resampled


def test_quadratics_come_back_exactly_with_their_derivatives() -> None:
    x = np.sort(np.random.default_rng(0).uniform(0, 4, 25))
    at = np.linspace(0, 4, 9)
    found = local_polynomials(x, at, np.full(9, 0.3)) @ (1 - 2 * x + 0.5 * x**2)
    assert np.allclose(found, [1 - 2 * at + 0.5 * at**2, at - 2, np.ones(9)], atol=1e-6)


def test_against_a_plain_weighted_least_squares() -> None:
    rng = np.random.default_rng(1)
    x, y = np.linspace(0, 2, 20), rng.standard_normal(20)
    w = np.sqrt(np.exp(-0.5 * ((x - 1.1) / 0.4) ** 2))
    c = np.linalg.lstsq(np.stack([w, w * (x - 1.1), w * (x - 1.1) ** 2 / 2], 1), w * y, rcond=None)[0]
    assert np.allclose(local_polynomials(x, np.array([1.1]), np.array([0.4]))[:, 0] @ y, c)


def test_a_width_without_points_is_widened_and_widths_grow_with_log_time() -> None:
    found = local_polynomials(np.arange(8.0), np.array([3.5]), np.array([1e-3])) @ np.arange(8.0)
    assert np.allclose(found[:2, 0], [3.5, 1.0])
    widths = log_widths(np.array([0.0, 2.0, 4.0]), 0.5)
    assert np.allclose(np.diff(widths), 0.2)
    with pytest.raises(ValueError, match="increasing"):
        local_polynomials(np.array([0.0, 1, 1, 2]), np.array([0.0]), np.array([1.0]))


def test_resampled_curves_keep_the_size_of_what_was_left() -> None:
    rng = np.random.default_rng(0)
    x = np.linspace(0, 4, 120)
    y = x + 0.3 * rng.standard_normal(120)
    again = resampled(x, y, np.full(120, 0.15), 400, rng)
    assert again.shape == (400, 120)
    assert np.allclose(again.mean(0), x, atol=0.4)
    assert (again - again.mean(0)).std() == pytest.approx(0.3, rel=0.15)  # not what is left of it after smoothing
