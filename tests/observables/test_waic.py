"""WAIC and ν against a regression of known noise in closed form; ν below d/2 where a model is singular."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from strobe.core.errors import BadOption
from strobe.core.snapshot import Snapshot
from strobe.observables.waic import singular_fluctuation, waic


def nll(model: nn.Module, data: Any) -> Tensor:
    return (model(data[0]) - data[1]).square().sum(1).mean() / 2


def fitted(n: int, d: int = 4, seed: int = 0) -> Snapshot:
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=g)
    y = x.sum(1, keepdim=True) + torch.randn(n, 1, generator=g)
    net = nn.Linear(d, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.linalg.lstsq(x, y).solution.T)
    return Snapshot(net, nll, (x, y))


def exact(snap: Snapshot, gamma: float) -> tuple[float, float, float, int]:
    """With sᵢ = xᵢ (n H + γ)⁻¹ xᵢ: T = mean ½ log(1 + s) + r²/2(1 + s); Var ℓ = r² s + s²/2. (WAIC, ν, T, how many above 0.4)."""
    x, y = (t.double() for t in snap.data)
    r = (y - x @ torch.linalg.lstsq(x, y).solution)[:, 0]
    s = (x @ torch.linalg.inv(x.T @ x + gamma * torch.eye(x.shape[1])) * x).sum(1)
    t = (s.log1p() / 2 + r**2 / (1 + s) / 2).mean()
    each = r**2 * s + s**2 / 2
    v = each.sum()
    return float(t + v / len(x)), float(v / 2), float(t), int((each > 0.4).sum())


@pytest.mark.parametrize(("n", "d", "gamma"), [(50, 4, 1.0), (300, 4, 1.0), (300, 10, 30.0)])
def test_a_regression_is_exact(n: int, d: int, gamma: float) -> None:
    snap = fitted(n, d)
    got, (true, nu, training, wild) = waic(snap, gamma=gamma, budget=3000), exact(snap, gamma)
    assert abs(got.value - true) < 3 * got.err
    assert abs(got.how["nu"] - nu) < 3 * got.how["nu_err"]
    assert got.err < 0.1 * (true - training)
    assert got.how["training"] == pytest.approx(training, abs=3 * got.err)
    assert len(got.how["flags"]) == (wild > 0)  # a far example of 50 or with 10 weights is said
    again = singular_fluctuation(snap, gamma=gamma, budget=3000)
    assert (again.value, again.err) == (got.how["nu"], got.how["nu_err"])


def test_nu_tends_to_half_the_parameters_and_waic_to_the_loss_on_new_data() -> None:
    found, fresh = [], []
    for seed in range(6):
        snap = fitted(400, 6, seed)
        found.append(exact(snap, 1e-3)[1])
        gap = (snap.model.weight.detach() - 1).square().sum() / 2 + 0.5
        fresh.append(exact(snap, 1e-3)[0] - float(gap))
    assert np.mean(found) == pytest.approx(3.0, rel=0.1)  # d/2
    assert abs(np.mean(fresh)) < 3 * np.std(fresh) / np.sqrt(6)
    got = singular_fluctuation(fitted(400, 6), gamma=1e-3)
    assert got.value == pytest.approx(exact(fitted(400, 6), 1e-3)[1], abs=3 * got.err)


def test_directions_that_do_nothing_do_not_fluctuate() -> None:
    """Two weights of three see no data: ν is 1/2, not 3/2."""
    x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 0.0, 0.0])
    y = torch.randn(400, 1, generator=torch.Generator().manual_seed(1))
    net = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([[float((x[:, :1] * y).sum() / (x[:, 0] ** 2).sum()), 0.0, 0.0]]))
    got = singular_fluctuation(Snapshot(net, nll, (x, y)), gamma=1.0)
    true = float((x[:, 0] ** 2 * y[:, 0] ** 2).sum() / (x[:, 0] ** 2).sum() / 2)
    assert got.value == pytest.approx(true, abs=4 * got.err + 0.01)
    assert abs(got.value - 1.5) > 5 * got.err


def test_minibatches_give_what_all_the_data_give() -> None:
    snap = fitted(1024, 3)
    got, (true, nu, training, _) = waic(snap, gamma=10.0, batch=256, budget=4000, chains=32), exact(snap, 10.0)
    assert abs(got.value - true) < 3 * got.err < 0.3 * (true - training)
    assert abs(got.how["nu"] - nu) < 3 * got.how["nu_err"]


def test_examples_of_their_own_and_a_wild_one() -> None:
    snap = fitted(60, 3)
    x, y = snap.data
    few = waic(snap, gamma=1.0, examples=(x[:20], y[:20]), budget=2000)
    assert few.how["n"] == 60
    y = y.clone()
    y[0] += 30.0
    with torch.no_grad():
        snap.model.weight.copy_(torch.linalg.lstsq(x, y).solution.T)
    got = waic(Snapshot(snap.model, nll, (x, y)), gamma=1.0, budget=500)
    assert any("vary by more than 0.4" in f for f in got.how["flags"])


def test_what_is_no_mean_of_examples_or_too_few_chains_is_said() -> None:
    snap = fitted(60, 3)
    odd = Snapshot(snap.model, lambda m, d: nll(m, d) * (2 if len(d[0]) > 1 else 1), snap.data)
    assert "is not the mean of the examples'" in waic(odd, budget=300).how["flags"][-1]
    with pytest.raises(BadOption, match="needs four of them"):
        waic(snap, chains=2)
    with pytest.raises(BadOption, match="cannot be taken apart"):
        waic(snap, examples=(torch.ones(3, 3), torch.ones(2, 1)))
