"""Conserved charges: by hand, along real descent, and where the symmetry is missing."""

import numpy as np
import pytest
import torch
from torch import nn

from strobe.core.errors import BadOption, SiteNotFound
from strobe.core.snapshot import Snapshot
from strobe.observables.conserved_charges import balancedness, rescale_charges


def net(between: nn.Module) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5), between, nn.Linear(5, 2)).double()


def drift(model: nn.Module, measure: object, lr: float, steps: int = 200) -> float:
    x = torch.randn(20, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    y = x[:, :2].sin()
    before = measure(Snapshot(model, None, None)).value  # type: ignore[operator]
    opt = torch.optim.SGD(model.parameters(), lr=lr)
    for _ in range(steps):
        opt.zero_grad()
        (model(x) - y).square().mean().backward()
        opt.step()
    return float(np.abs(measure(Snapshot(model, None, None)).value - before).max())  # type: ignore[operator]


def test_by_hand() -> None:
    model = net(nn.ReLU())
    w, b, out = model[0].weight, model[0].bias, model[2].weight
    by_hand = (w**2).sum(1) + b**2 - (out**2).sum(0)
    np.testing.assert_allclose(rescale_charges(Snapshot(model, None, None), layers=["0", "2"]).value, by_hand.detach())
    q = (w @ w.T + torch.outer(b, b) - out.T @ out).detach()
    snap = Snapshot(model, None, None)
    np.testing.assert_allclose(balancedness(snap, layers=["0", "2"], whole=True).value, q)
    np.testing.assert_allclose(balancedness(snap, layers=["0", "2"]).value, [q.norm()])


def test_a_small_rate_keeps_what_the_symmetry_keeps_and_only_that() -> None:
    def charge(s: Snapshot) -> object:
        return rescale_charges(s, layers=["0", "2"])

    def balance(s: Snapshot) -> object:
        return balancedness(s, layers=["0", "2"], whole=True)

    assert drift(net(nn.ReLU()), charge, 1e-4) < 1e-6
    assert drift(net(nn.Identity()), balance, 1e-4) < 2e-6  # lr² Σ g² is of this order
    assert drift(net(nn.Tanh()), charge, 1e-4) > 1e-5, "tanh is not homogeneous"
    assert drift(net(nn.ReLU()), balance, 1e-4) > 1e-5, "rectified layers keep the diagonal only"


def test_a_convolution_has_charges() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    got = rescale_charges(Snapshot(model, None, None), layers=["0", "2"])
    want = (model[0].weight ** 2).sum((1, 2, 3)) + model[0].bias ** 2 - (model[2].weight ** 2).sum((0, 2, 3))
    np.testing.assert_allclose(got.value, want.detach(), rtol=1e-5)


def test_what_does_not_fit_is_refused() -> None:
    snap = Snapshot(net(nn.ReLU()), None, None)
    with pytest.raises(SiteNotFound, match="no module '3'"):
        balancedness(snap, layers=["0", "3"])
    with pytest.raises(BadOption, match="do not follow"):
        balancedness(snap, layers=["2", "2"])
    with pytest.raises(BadOption, match="is a ReLU"):
        rescale_charges(snap, layers=["0", "1"])
