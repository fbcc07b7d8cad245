"""λ from the variance of the loss: exact on quadratics, right beside a minimum, flagged where γ holds what the loss does not."""

import pytest
import torch
from torch import nn

from strobe.core.errors import BadOption
from strobe.core.snapshot import Snapshot
from strobe.observables.llc import llc
from strobe.observables.posterior_variance import posterior_variance


def quadratic(curvatures: list[float], n: int = 64, noise: float = 0.0) -> Snapshot:
    """½ (w - 1)ᵀ H (w - 1) on n examples (whitened), at its minimum."""
    g = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(n, len(curvatures), generator=g))[0] * n**0.5
    x = q * torch.tensor(curvatures).sqrt()
    net = nn.Linear(len(curvatures), 1, bias=False)
    y = x.sum(1, keepdim=True) + noise * torch.randn(n, 1, generator=g)
    with torch.no_grad():
        net.weight.copy_(torch.linalg.lstsq(x, y).solution.T)
    return Snapshot(net, lambda m, d: (m(d[0]) - d[1]).square().mean() / 2, (x, y))


@pytest.mark.parametrize("gamma", [1.0, 50.0])
def test_a_quadratic_is_exact_at_the_temperature_used(gamma: float) -> None:
    h = [2.0, 1.0, 0.1, 0.001]
    got = posterior_variance(quadratic(h), nbeta=145, gamma=gamma, budget=4000)
    assert abs(got.value - sum((145 * x / (145 * x + gamma)) ** 2 / 2 for x in h)) < 3 * got.err < 0.4


def test_it_needs_no_minimum() -> None:
    """w* moved by 3 standard deviations of the posterior: the mean is off by 4.5, with the sign of a search; the variance is not."""
    snap = quadratic([1.0, 1.0, 1.0])
    with torch.no_grad():
        snap.model.weight[0, 0] += 3 / 1000**0.5
    got, mean = posterior_variance(snap, nbeta=1000, gamma=1e-2, budget=3000), llc(snap, nbeta=1000, gamma=1e-2)
    assert mean.value == pytest.approx(1.5 - 4.5, abs=0.2)
    assert got.value == pytest.approx(1.5, abs=3 * got.err)
    assert any("not near a local minimum" in f for f in got.how["flags"])


def test_minibatches_count_the_loss_of_all() -> None:
    """That of the batches themselves varies by their noise, and would give far more."""
    snap = quadratic([1.0, 0.5, 0.2], n=1000, noise=1.0)
    got = posterior_variance(snap, nbeta=300, gamma=5.0, batch=50, chains=32, budget=3000)
    true = sum((300 * h / (300 * h + 5)) ** 2 / 2 for h in (1.0, 0.5, 0.2))
    assert abs(got.value - true) < 3 * got.err < 0.6


def test_directions_that_only_gamma_holds_are_flagged_and_those_that_the_loss_holds_are_not() -> None:
    """N h = γ: a direction gives ½ · ½ to the mean and ½ · ¼ to the variance."""
    got = posterior_variance(quadratic([0.01] * 4), nbeta=100, gamma=1.0, budget=3000)
    assert got.value == pytest.approx(0.5, abs=3 * got.err)
    assert got.how["mean"] == pytest.approx(1.0, abs=0.05)
    assert any("gamma, not the loss" in f for f in got.how["flags"])
    assert posterior_variance(quadratic([1.0] * 4), nbeta=1000, gamma=1.0, budget=2000).how["flags"] == []


def test_two_chains_have_no_error() -> None:
    with pytest.raises(BadOption, match="needs four of them"):
        posterior_variance(quadratic([1.0]), chains=2)
