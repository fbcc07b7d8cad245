"""Top eigenpairs: spectra known in closed form, double and clustered ones, and an operator they must refuse."""

import math

import pytest
import torch
from reference.dense import dense_top
from torch import Tensor

from strobe.numerics.eigen import Eigenpairs, top_eigenpairs

BULK = {"isolated": [10.0, 8, 6, 5, 4, 3.5, 3, 2], "double": [10.0, 10, 6, 6, 6, 3.5, 3, 2], "fivefold": [5.0] * 5 + [2, 1],
        "near": [10.0, 9.99, 6, 5.999, 5.99, 5.98, 3, 2]}  # fmt: skip


def spectrum(name: str, seed: int, n: int = 1500) -> Tensor:
    bulk = torch.rand(n - len(BULK[name]), generator=torch.Generator().manual_seed(seed)) * 0.4 - 0.1
    return torch.cat([torch.tensor(BULK[name]), bulk]).sort(descending=True).values


def solve(d: Tensor, k: int, seed: int = 0, **options: object) -> Eigenpairs:
    g = torch.Generator().manual_seed(1000 + seed)
    return top_eigenpairs(lambda v: d.to(v) * v, len(d), k, generator=g, **options)  # type: ignore[arg-type]


def test_the_discrete_laplacian_has_its_textbook_spectrum() -> None:
    n = 40

    def laplacian(v: Tensor) -> Tensor:
        padded = torch.nn.functional.pad(v, (1, 1))
        return 2 * v - padded[2:] - padded[:-2]

    got = top_eigenpairs(laplacian, n, 3, tol=1e-8, dtype=torch.float64)
    known = [2 - 2 * math.cos(math.pi * j / (n + 1)) for j in (n, n - 1, n - 2)]
    assert got.converged.all()
    assert torch.allclose(got.values, torch.tensor(known, dtype=torch.float64), rtol=1e-8)
    product = torch.stack([laplacian(v) for v in got.vectors.T], 1)
    assert torch.allclose(product, got.vectors * got.values, atol=1e-3)
    assert torch.allclose((product - got.vectors * got.values).norm(dim=0), got.residuals, atol=1e-9)


def test_agrees_with_lapack_on_a_random_matrix() -> None:
    a = torch.randn(60, 60, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    a = a + a.T
    got = top_eigenpairs(lambda v: a @ v, 60, 5, tol=1e-9, dtype=torch.float64)
    assert torch.allclose(got.values, dense_top(a, 5), rtol=1e-9)
    assert top_eigenpairs(lambda v: a @ v, 60, 60, dtype=torch.float64).converged.all()  # the whole space is exact


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("name", BULK)
def test_every_eigenvalue_is_inside_its_bound_also_of_multiple_ones(name: str, k: int) -> None:
    for seed in range(12):
        d = spectrum(name, seed)
        got = solve(d, k, seed)
        off = (d[:k].double() - got.values).abs()
        assert got.converged.all()
        assert (off <= 1e-3 * d[:k]).all(), (name, seed, off)
        assert (off <= got.errors).all(), (name, seed, off / got.errors)
        assert got.missed <= 1e-3
        assert got.matvecs <= 45


def test_one_chain_without_a_probe_would_miss_a_copy() -> None:
    """The trap the probe is for: on trust alone a double eigenvalue is passed over."""
    d = spectrum("double", 0)
    blind = solve(d, 2, tol=1e-3, trust=0.05)
    assert blind.values[1] < 9.0
    assert blind.missed == 1.0
    assert torch.allclose(solve(d, 2).values, d[:2].double(), rtol=1e-3)


def test_the_promised_probability_holds() -> None:
    """400 worst cases (an exact double, so only the probe can see the second) at missed = 0.005: fewer than 0.005 slip."""
    d = torch.cat([torch.tensor([4.0, 4.0]), torch.rand(150, generator=torch.Generator().manual_seed(2))])
    slipped = sum(float(solve(d, 2, s, missed=0.005).values[1]) < 3.9 for s in range(400))
    assert slipped < 0.005 * 400


def test_it_says_so_when_products_run_out() -> None:
    d = torch.linspace(0, 1, 2000)  # no gap anywhere
    got = solve(d, 3, max_matvecs=25)
    assert got.matvecs == 25
    assert not got.converged.all()
    assert (d.flip(0)[:3].double() <= got.values + got.errors).all()  # the wide bound still holds
    assert (got.errors > 1e-3).any()


def test_a_warm_start_agrees_and_costs_less() -> None:
    d = spectrum("isolated", 0)
    cold = solve(d, 2, guard=2)
    turned = d * (1 + 0.01 * torch.rand(len(d), generator=torch.Generator().manual_seed(5)))
    warm = solve(turned, 2, start=cold.basis, trust=float(cold.ritz[4] / cold.values[0]))
    assert warm.matvecs < cold.matvecs / 2
    assert torch.allclose(warm.values, turned.sort(descending=True).values[:2].double(), rtol=1e-3)


def test_zero_identity_and_negative_operators() -> None:
    none = solve(torch.zeros(500), 2)
    assert torch.equal(none.values, torch.zeros(2, dtype=torch.float64))
    assert none.converged.all()
    assert none.matvecs < 10
    low = solve(torch.cat([torch.tensor([3.0]), torch.zeros(500)]), 3)  # a rank below k
    assert torch.allclose(low.values, torch.tensor([3.0, 0, 0], dtype=torch.float64), atol=1e-5)
    assert low.converged.all()
    assert low.matvecs < 20
    one = solve(torch.ones(30), 3)
    assert torch.allclose(one.values, torch.ones(3, dtype=torch.float64), atol=1e-5)
    down = -torch.arange(1.0, 31)
    assert torch.allclose(solve(down, 2).values, torch.tensor([-1.0, -2.0], dtype=torch.float64), rtol=1e-3)


def test_the_same_seed_gives_the_same_bits() -> None:
    d = spectrum("near", 3)
    assert torch.equal(solve(d, 3, 1).values, solve(d, 3, 1).values)


def test_it_refuses_what_it_can_not_do() -> None:
    with pytest.raises(ValueError, match="1 <= k <= dim"):
        solve(torch.ones(3), 4)
    with pytest.raises(FloatingPointError, match="product 1 is not finite"):
        solve(torch.full((3,), torch.nan), 1)
