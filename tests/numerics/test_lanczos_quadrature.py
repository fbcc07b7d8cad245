"""Moments that Lanczos quadrature has exactly, a spectrum it finds whole, and what it refuses."""

import numpy as np
import pytest
import torch

from strobe.numerics.lanczos_quadrature import lanczos_quadrature
from strobe.numerics.trace import diagonal, orthonormal_image, signs, trace


def test_a_small_matrix_is_found_whole_and_without_error() -> None:
    g = torch.Generator().manual_seed(0)
    a = torch.randn(20, 20, generator=g, dtype=torch.float64)
    a = a + a.T
    q = lanczos_quadrature(lambda v: a @ v, 20, steps=30, dtype=torch.float64)
    assert np.allclose(np.sort(q.found), torch.linalg.eigvalsh(a).numpy())
    mean, err = q.mean(lambda x: x**3)
    assert mean == pytest.approx((a @ a @ a).trace().item() / 20)
    assert err < 1e-6 * abs(mean)
    assert q.matvecs == 20


def test_low_moments_of_each_chain_are_those_of_its_start() -> None:
    """m steps integrate polynomials of degree 2m − 1 exactly: Σ w x^p = gᵀ Aᵖ g / gᵀ g, here of a diagonal matrix."""
    d = torch.linspace(1, 2, 500, dtype=torch.float64)
    q = lanczos_quadrature(lambda v: d * v, 500, probes=4, steps=4, dtype=torch.float64)
    g = torch.randn(500, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for power in range(8):
        assert q.weights[0] @ q.nodes[0] ** power == pytest.approx(float((g**2 * d**power).sum() / (g**2).sum()))
    assert q.weights[0] @ q.nodes[0] ** 8 != pytest.approx(float((g**2 * d**8).sum() / (g**2).sum()), rel=1e-12)


def test_outliers_split_off_leave_the_moments_right_and_the_error_small() -> None:
    d = torch.cat([torch.linspace(0, 1, 1990), torch.linspace(20, 40, 10)]).double()
    truth = float((d**2).mean())
    q = lanczos_quadrature(lambda v: d * v, 2000, probes=4, steps=40, dtype=torch.float64)
    mean, err = q.mean(lambda x: x**2)
    assert len(q.found) >= 10
    assert abs(mean - truth) < 4 * err
    assert err < 0.01 * truth  # plain probes: about √(2/10)/2 of it


def test_a_matrix_of_two_values_closes_its_chain() -> None:
    d = torch.tensor([1.0] * 50 + [3.0] * 50)
    q = lanczos_quadrature(lambda v: d * v, 100, probes=6, steps=20)
    mean, err = q.mean(lambda x: (x > 2).astype(float))
    assert q.matvecs <= 6 * 4
    assert abs(mean - 0.5) < 4 * err + 1e-6


def test_it_refuses_and_says_what_is_not_finite() -> None:
    with pytest.raises(ValueError, match="probes >= 4"):
        lanczos_quadrature(lambda v: v, 10, probes=2)
    with pytest.raises(FloatingPointError, match="product 1"):
        lanczos_quadrature(lambda v: v * torch.nan, 10)


def test_trace_and_diagonal_are_unbiased_and_their_errors_true() -> None:
    g = torch.Generator().manual_seed(0)
    a = torch.randn(60, 60, generator=g, dtype=torch.float64)
    a = a @ a.T + torch.diag(torch.arange(60.0, dtype=torch.float64))
    like, z, zd = torch.empty(0, dtype=torch.float64), [], []
    for seed in range(60):
        gen = torch.Generator().manual_seed(seed)
        Q = orthonormal_image(lambda v: a @ v, signs(60, 5, gen, like))
        value, err, _ = trace(lambda v: a @ v, Q, signs(60, 12, gen, like))
        z.append((value - float(a.trace())) / err)
        got, errs, image = diagonal(lambda v: a @ v, Q, signs(60, 12, gen, like))
        zd.append(((got - a.diagonal()) / errs).numpy())
        assert torch.allclose(image, a @ Q)
    assert abs(np.mean(z)) < 4 / 60**0.5
    assert 0.7 < np.std(z) < 1.6
    assert 0.7 < np.std(zd) < 1.6
    halves = torch.zeros(2, 60, dtype=torch.float64)
    halves[0, :30] = halves[1, 30:] = 1
    got, errs, _ = diagonal(lambda v: a @ v, Q, signs(60, 50, gen, like), halves)
    assert (torch.abs(got - halves @ a.diagonal()) < 4 * errs).all()
