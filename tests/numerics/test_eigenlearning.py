"""The eigenframework: closed forms, conservation, regressions themselves, and the enumeration of Hermite modes by brute force."""

import itertools
import math

import numpy as np
import pytest

from strobe.numerics.eigenlearning import dual, eigenbasis, eigenlearning, hermite_coefficients, hermite_modes


def test_of_a_flat_spectrum_it_is_known() -> None:
    """Simon et al. 2023, section 3: M equal modes, n examples, no ridge: L = n/M and E₀ = 1/(1 − n/M)."""
    got = eigenlearning(np.full(200, 0.3), 50, 0.0)
    assert got.learnability == pytest.approx(np.full(200, 0.25))
    assert got.overfitting == pytest.approx(4 / 3)
    c = np.full(200, 0.1)
    assert got.test(c) == pytest.approx(4 / 3 * 0.75**2 * 2.0)
    assert got.train(c) == 0.0
    assert got.learned(c) == pytest.approx(0.25)


@pytest.mark.parametrize("ridge", [0.0, 1e-6, 1.0, 300.0])
def test_learnability_is_conserved(ridge: float) -> None:
    """Σ L_i = n − ridge/κ <= n."""
    got = eigenlearning(np.arange(1.0, 3001) ** -1.5, 40, ridge)
    assert got.learnability.sum() == pytest.approx(40 - ridge / got.kappa, rel=1e-9)
    assert (np.diff(got.learnability) < 0).all()


def test_against_regressions_on_gaussian_features() -> None:
    g, modes = np.random.default_rng(0), np.arange(1.0, 401)
    lam, c, ridge = modes**-1.5, np.stack([modes**-1.0, modes[::-1] ** -1.0], 1), 0.05
    found = []
    for _ in range(300):
        phi = g.standard_normal((60, 400))
        alpha, diagonal = dual((phi * lam) @ phi.T, y := phi @ c, ridge)
        learned = lam[:, None] * (phi.T @ alpha)
        assert np.allclose((phi * lam) @ (phi.T @ alpha) - y, -ridge * alpha)
        found.append(
            (
                np.square(c - learned).sum(),
                ridge**2 * np.square(alpha).sum(1).mean(),
                (c * learned).sum() / (c**2).sum(),
            )
        )
        assert (diagonal > 0).all()
    mean, err = np.mean(found, 0), np.std(found, 0) / 300**0.5
    got = eigenlearning(lam, 60, ridge)
    want = np.array([got.test(c), got.train(c), got.learned(c)])
    assert (np.abs(mean - want) < 0.02 * want + 3 * err).all()
    assert mean[0] > 1.1 * got.test(c) / got.overfitting  # the coefficient is seen


def test_the_basis_of_a_population_gives_its_kernel_and_targets_back() -> None:
    g = np.random.default_rng(1)
    z, y = g.standard_normal((30, 4)), g.standard_normal((30, 2))
    lam, c = eigenbasis(z @ z.T, y)
    assert lam.sum() == pytest.approx(np.square(z).sum() / 30)
    assert (lam[4:] < 1e-12).all()
    assert np.square(c).sum() == pytest.approx(np.square(y).sum() / 30)


def test_hermite_modes_against_all_of_low_degree() -> None:
    gamma, s = [0.2, 0.5, 0.1], 2.0
    every = {
        a: math.exp(-sum(gamma) / s**2) * math.prod(gamma[i] / s**2 for i in a)
        for degree in range(9)
        for a in itertools.combinations_with_replacement(range(3), degree)
    }
    want = dict(sorted(every.items(), key=lambda kv: -kv[1])[:80])
    got = hermite_modes(gamma, s, 80)
    assert list(got.values()) == pytest.approx(list(want.values()))
    assert set(list(got)[:60]) == set(list(want)[:60])
    assert all(every[k] == pytest.approx(v) for k, v in got.items())
    c = hermite_coefficients(got, {(1, 0): 2.0})
    assert c.sum() == c[list(got).index((0, 1))] == 2.0
    total = sum(hermite_modes(gamma, s, 20_000).values())
    assert total == pytest.approx(math.exp(-sum(gamma) / s**2) / math.prod(1 - v / s**2 for v in gamma), abs=1e-9)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="more than n modes"):
        eigenlearning(np.ones(10), 10, 0.0)
    with pytest.raises(ValueError, match="ask for more"):
        hermite_coefficients({(): 1.0}, {(3,): 1.0})
