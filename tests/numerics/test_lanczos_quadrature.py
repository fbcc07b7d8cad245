"""Moments that Lanczos quadrature has exactly, a spectrum it finds whole, and what it refuses."""

import numpy as np
import pytest
import torch

from strobe.numerics.lanczos_quadrature import lanczos_quadrature
from strobe.numerics.trace import diagonal, exchangeable_trace, orthonormal_image, signs, trace


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


def test_exchangeable_traces_are_unbiased_better_than_plain_and_their_errors_true() -> None:
    lam = torch.cat(
        [
            20 / torch.arange(1, 200).double(),
            0.02 * torch.randn(301, generator=torch.Generator().manual_seed(1)).double(),
        ]
    )
    q = torch.linalg.qr(torch.randn(500, 500, generator=torch.Generator().manual_seed(2), dtype=torch.float64))[0]
    a, like = (q * lam) @ q.T, torch.empty(0, dtype=torch.float64)
    off, errs, plain = [], [], []
    for seed in range(150):
        z = signs(500, 15, torch.Generator().manual_seed(seed), like)
        value, err = exchangeable_trace(lambda v: a @ v, z)
        off.append(value - float(lam.sum()))
        errs.append(err)
        plain.append(float((z * (a @ z)).sum() / 15 - lam.sum()))
    assert abs(np.mean(off)) < 4 * np.std(off) / 150**0.5
    assert np.std(off) < 0.5 * np.std(plain)
    assert 0.75 < np.std(off) / np.mean(errs) < 1.3
    low = (q[:, :3] * torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)) @ q[:, :3].T
    assert exchangeable_trace(lambda v: low @ v, z)[0] == pytest.approx(6)


def test_the_projection_left_out_is_the_one_of_the_other_columns() -> None:
    """t_i the slow way: a basis of A S without column i, for each i."""
    a = torch.diag(torch.arange(1.0, 41.0, dtype=torch.float64))
    z = signs(40, 5, torch.Generator().manual_seed(0), a)
    t = []
    for i in range(5):
        others = z[:, [j for j in range(5) if j != i]]
        Q = orthonormal_image(lambda v: a @ v, others)
        t.append(trace(lambda v: a @ v, Q, z[:, [i, i]])[0])
    assert exchangeable_trace(lambda v: a @ v, z)[0] == pytest.approx(float(np.mean(t)))
