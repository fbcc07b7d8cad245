"""Closed forms of wide networks: against published values, quadrature by Monte Carlo, and differentiation of the recursion."""

import numpy as np
import pytest

from strobe.numerics.wide_kernels import MOMENTS, wide_kernels

PHI = {
    "relu": (lambda u: np.maximum(u, 0), lambda u: (u > 0).astype(float)),
    "erf": (None, lambda u: 2 / np.pi**0.5 * np.exp(-(u**2))),
}


@pytest.mark.parametrize("activation", list(MOMENTS))
@pytest.mark.parametrize(("own", "other", "cross"), [(1.0, 1.0, 0.3), (2.0, 0.5, -0.9), (1.5, 1.5, 1.5)])
def test_moments_against_two_million_normal_pairs(activation: str, own: float, other: float, cross: float) -> None:
    from scipy.special import erf

    g = np.random.default_rng(0)
    a, b = g.standard_normal((2, 2_000_000))
    u = own**0.5 * a
    v = cross / own**0.5 * a + max(other - cross**2 / own, 0.0) ** 0.5 * b
    phi, slope = PHI[activation]
    phi = phi or erf
    got = MOMENTS[activation](*(np.array(q) for q in (own, other, cross)))
    for value, draws in zip(got, (phi(u) * phi(v), slope(u) * slope(v)), strict=True):
        assert float(value) == pytest.approx(draws.mean(), abs=5 * draws.std() / len(draws) ** 0.5)


def test_one_hidden_relu_layer_is_the_arc_cosine_kernel() -> None:
    """Cho and Saul 2009: k_1(x, y) = |x||y| (sin θ + (π − θ) cos θ) / π, and k_0 = 1 − θ/π, at θ = 60°."""
    x = np.array([[1.0, 0.0], [0.5, 0.75**0.5]])
    nngp, ntk = wide_kernels(x, depth=1)
    k1 = (0.75**0.5 + np.pi / 3) / np.pi
    assert nngp[0, 1] == pytest.approx(k1)  # weight / d = 1
    assert ntk[0, 1] == pytest.approx(k1 + (2 / 3) * 0.5)  # Σ + k_0 x·y


@pytest.mark.parametrize("depth", [0, 1, 5])
def test_he_variance_keeps_the_length_and_the_tangent_grows_by_one_a_layer(depth: int) -> None:
    """With weight 2 and no bias Σ(x, x) = 2|x|²/d at every depth, so Θ(x, x) = (depth + 1) Σ(x, x)."""
    x = np.random.default_rng(1).standard_normal((3, 7))
    nngp, ntk = wide_kernels(x, depth=depth)
    assert np.diag(nngp) == pytest.approx(2 * np.square(x).mean(1), rel=1e-13)
    assert np.diag(ntk) == pytest.approx((depth + 1) * np.diag(nngp), rel=1e-13)


@pytest.mark.parametrize("activation", list(MOMENTS))
def test_blocks_are_parts_of_the_whole_and_the_whole_is_positive(activation: str) -> None:
    x = np.random.default_rng(2).standard_normal((12, 4))
    for whole, block in zip(
        wide_kernels(x, depth=3, activation=activation, weight=1.5, bias=0.1),
        wide_kernels(x[:5], x[5:], depth=3, activation=activation, weight=1.5, bias=0.1), strict=True,
    ):  # fmt: skip
        assert np.allclose(whole[:5, 5:], block, atol=1e-14)
        assert np.linalg.eigvalsh(whole).min() > 0


def test_an_erf_layer_of_small_inputs_is_linear() -> None:
    """erf(u) ≈ 2u/√π, so Σ² → weight (4/π) Σ¹ as the inputs shrink."""
    x = 1e-4 * np.random.default_rng(3).standard_normal((3, 4))
    nngp, _ = wide_kernels(x, depth=1, activation="erf", weight=1.0)
    assert np.allclose(nngp, 4 / np.pi * x @ x.T / 4, rtol=1e-6)


@pytest.mark.parametrize(
    "bad", [{"depth": -1}, {"activation": "tanh"}, {"weight": 0.0}, {"bias": -1.0}, {"other": np.ones((2, 3))}]
)
def test_bad_input(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="wanted|rows of one length"):
        wide_kernels(np.ones((2, 2)), **({"depth": 1} | bad))  # type: ignore[arg-type]
