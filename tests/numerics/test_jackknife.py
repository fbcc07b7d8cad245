"""The jackknife: exact for variances, honest for the log of a mean."""

import numpy as np
import pytest

from strobe.numerics.jackknife import jackknife


def test_of_a_mean_it_is_the_standard_error() -> None:
    x = np.random.default_rng(0).normal(size=(30, 2))
    value, err = jackknife(x, lambda m: m)
    np.testing.assert_allclose(value, x.mean(0))
    np.testing.assert_allclose(err, x.std(0, ddof=1) / np.sqrt(30))


def test_the_bias_of_the_log_of_a_mean_is_taken_out_and_err_is_that_over_samples() -> None:
    """x is exponential with mean 1: E log x̄ = ψ(C) - log C = -1/2C + ..., whose spread is about 1/√C."""
    got = [jackknife(np.random.default_rng(s).exponential(size=12), np.log) for s in range(4000)]
    values, errs = np.array([float(v) for v, _ in got]), np.array([float(e) for _, e in got])
    assert abs(values.mean()) < 0.2 / 24 + 3 * values.std() / np.sqrt(4000)
    assert abs(np.mean([np.log(np.random.default_rng(s).exponential(size=12).mean()) for s in range(4000)])) > 0.03
    assert errs.mean() == pytest.approx(values.std(), rel=0.15)


def test_one_part_and_numbers_that_are_not_finite_are_refused() -> None:
    with pytest.raises(ValueError, match="two or more"):
        jackknife(np.ones((1, 3)), lambda m: m)
    with pytest.raises(ValueError, match="part 1 is not finite"):
        jackknife([1.0, np.nan], lambda m: m)
