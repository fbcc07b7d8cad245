import numpy as np
import pytest

from strobe.numerics.scaling_fit import fit

TRUTH = (1.69, 406.4, 410.7, 0.34, 0.28)


def runs(seed: int, noise: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    n, d = 10 ** rng.uniform(7.5, 10.2, 120), 10 ** rng.uniform(8.5, 11.2, 120)
    e, a, b, alpha, beta = TRUTH
    return n, d, (e + a * n**-alpha + b * d**-beta) * np.exp(noise * rng.standard_normal(120))


def test_exponents_and_their_errors_over_ten_seeds() -> None:
    found = [fit(*runs(s, 0.005), draws=30, seed=s) for s in range(10)]
    alpha, beta = np.array([f.alpha for f in found]), np.array([f.beta for f in found])
    assert abs(alpha.mean() - 0.34) < 0.01
    assert abs(beta.mean() - 0.28) < 0.01
    assert alpha.std(ddof=1) <= 2 * np.mean([f.err["alpha"] for f in found])
    assert beta.std(ddof=1) <= 2 * np.mean([f.err["beta"] for f in found])
    assert np.mean([f.err["alpha"] for f in found]) < 0.02


def test_a_surface_without_noise_is_found_again_and_extrapolated() -> None:
    found = fit(*runs(0, 0.0), draws=3)
    assert (found.floor, found.alpha, found.beta) == pytest.approx((1.69, 0.34, 0.28), rel=2e-3)
    value, err = found.loss(np.array([1e11]), np.array([1e12]))
    assert value[0] == pytest.approx(1.69 + 406.4 * 1e11**-0.34 + 410.7 * 1e12**-0.28, rel=1e-3)
    assert err[0] < 1e-2


def test_bad_runs_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 8 runs"):
        fit([1, 2], [1, 2], [1, 2])
    with pytest.raises(ValueError, match="positive"):
        fit(np.ones(9), np.ones(9), np.full(9, np.nan))


def test_exponents_that_the_runs_cannot_tell_are_not_told() -> None:
    """With one number of examples β is free: a fit gave 0.047 ± 0.003 for 0.28."""
    n, d, loss = runs(0, 0.005)
    with pytest.raises(ValueError, match="d spans a factor of 1"):
        fit(n, np.full_like(d, 1e9), loss)
    with pytest.raises(ValueError, match="grow together"):
        fit(n, 20 * n, loss)
    with pytest.raises(ValueError, match="at least 2 draws"):
        fit(n, d, loss, draws=1)
