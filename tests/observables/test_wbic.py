"""WBIC against the Gaussian integral of a regression of known noise, and between two solutions of different kinds."""

from math import log, pi
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from strobe.core.errors import BadOption
from strobe.core.snapshot import Snapshot
from strobe.observables.wbic import wbic


def nll(model: nn.Module, data: Any) -> Tensor:
    """Unit Gaussian noise, its constant and all."""
    return (model(data[0]) - data[1]).square().sum(1).mean() / 2 + log(2 * pi) / 2


def fitted(n: int, d: int = 4, seed: int = 0) -> Snapshot:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g)
    y = x.sum(1, keepdim=True) + torch.randn(n, 1, generator=g)
    net = nn.Linear(d, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.linalg.lstsq(x, y).solution.T)
    return Snapshot(net, nll, (x, y))


def exact(snap: Snapshot, gamma: float) -> tuple[float, float]:
    """n L(w*) + (n/2) tr H (N H + γ)⁻¹, N = n / log n; and -log ∫ e^{-n L} of the prior N(w*, 1/γ)."""
    x, y = (t.double() for t in snap.data)
    n = len(x)
    h = torch.linalg.eigvalsh(x.T @ x / n)
    w = torch.linalg.lstsq(x, y).solution
    least = float(n * ((x @ w - y).square().mean() / 2 + log(2 * pi) / 2))
    return least + float((n * h / (n / log(n) * h + gamma)).sum() / 2), least + float(
        torch.log1p(n * h / gamma).sum() / 2
    )


@pytest.mark.parametrize(("n", "gamma"), [(60, 1.0), (400, 1.0), (400, 20.0), (2000, 1.0)])
def test_a_regression_is_exact(n: int, gamma: float) -> None:
    snap = fitted(n)
    got, (true, _) = wbic(snap, gamma=gamma, budget=2000), exact(snap, gamma)
    assert abs(got.value - true) < 3 * got.err
    assert got.err < 0.05 * log(n)
    assert got.value == pytest.approx(got.how["loss_term"] + log(n) * got.how["llc"])
    assert got.how["flags"] == []


def test_it_tracks_the_free_energy_of_the_neighbourhood() -> None:
    """Both rise alike from n = 100 to 10,000 over n L(w*): by (d/2) log n, here 2 x 4.6 = 9.2."""
    rise = []
    for of in (0, 1):
        a, b = (exact(fitted(n), 1.0)[of] - exact(fitted(n), 1e9)[0] for n in (100, 10_000))
        rise.append(b - a)
    assert rise[0] == pytest.approx(rise[1], rel=0.05)


def test_at_equal_loss_the_degenerate_solution_is_preferred() -> None:
    """Two weights, of which the data see both (λ = 1) or one (λ = 1/2), the truth 0: half a log n between them."""
    x = torch.randn(500, 2, generator=torch.Generator().manual_seed(0))
    narrow, wide = nn.Linear(2, 1, bias=False), nn.Linear(2, 1, bias=False)
    for net in (narrow, wide):
        net.weight.data.zero_()
    data, hidden = (x, torch.zeros(500, 1)), torch.tensor([1.0, 0.0])
    a = wbic(Snapshot(narrow, nll, data), gamma=1.0)
    b = wbic(Snapshot(wide, lambda m, d: nll(m, (d[0] * hidden, d[1])), data), gamma=1.0)
    assert a.value - b.value == pytest.approx(0.5 * log(500), rel=0.1)


def test_too_few_examples_and_bad_options_are_said() -> None:
    with pytest.raises(BadOption, match="three examples or more"):
        wbic(fitted(60), n=2)
    with pytest.raises(BadOption, match="budget >= 200"):
        wbic(fitted(60), budget=3)
