"""A collapsed classifier has four zeros, a scattered one the numbers worked out the slow way."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from strobe.core.errors import BadOption, SiteNotFound
from strobe.core.snapshot import Snapshot
from strobe.observables.neural_collapse import neural_collapse


def loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
    return cross_entropy(model(data[0]), data[1])


def test_a_simplex_is_fully_collapsed_and_each_number_sees_its_own_defect() -> None:
    e = torch.eye(4) - 0.25
    net = nn.Sequential(nn.Identity(), nn.Linear(4, 4, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(3 * e)
    y = torch.arange(4).repeat(12)
    whole = neural_collapse(Snapshot(net, loss, (e[y] + 5.0, y)), classifier="1")  # another global mean changes nothing
    assert (np.abs(whole.value) < 1e-6).all()
    assert (whole.err < 1e-6).all()
    noise = torch.randn(48, 4, generator=torch.Generator().manual_seed(0))
    scattered = neural_collapse(Snapshot(net, loss, (e[y] + 0.3 * noise, y)), classifier="1")
    assert scattered.value[0] > 0.1
    long = e.clone()
    long[0] *= 2
    assert neural_collapse(Snapshot(net, loss, (long[y], y)), classifier="1").value[2] > 0.1
    with torch.no_grad():
        net[1].weight.copy_(torch.randn(4, 4, generator=torch.Generator().manual_seed(1)))
    assert neural_collapse(Snapshot(net, loss, (e[y], y)), classifier="1").value[3] > 0.5


def test_it_is_the_textbook_formula() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3)).double()
    x, y = torch.randn(90, 6, dtype=torch.float64), torch.arange(90) % 3
    got = neural_collapse(Snapshot(net, loss, (x, y)), classifier="2").value
    h = net[:2](x).detach().numpy()
    means = np.stack([h[y == c].mean(0) for c in range(3)])
    m = means - means.mean(0)
    within = (h - means[y]).T @ (h - means[y]) / 90
    between = m.T @ m / 3
    assert got[0] == pytest.approx(np.trace(within @ np.linalg.pinv(between, rcond=1e-10)) / 3)
    w = net[2].weight.detach().numpy()
    assert got[3] == pytest.approx(np.linalg.norm(w / np.linalg.norm(w) - m / np.linalg.norm(m)))
    assert np.allclose(neural_collapse(Snapshot(net, loss, (x, y)), classifier="2", layer="1").value, got)


def test_it_refuses_what_is_no_classifier() -> None:
    net = nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 3))
    x, y = torch.randn(60, 6), torch.arange(60) % 3
    with pytest.raises(SiteNotFound):
        neural_collapse(Snapshot(net, loss, (x, y)), classifier="head")
    with pytest.raises(BadOption, match="at least 10 times"):
        neural_collapse(Snapshot(net, loss, (x[:20], y[:20])), classifier="2")
    with pytest.raises(BadOption, match="has a weight of shape"):
        neural_collapse(Snapshot(net, loss, (x, y)), classifier="2", layer="0:in")
    with pytest.raises(BadOption, match="labels="):
        neural_collapse(Snapshot(net, lambda m, d: m(d).sum(), x), classifier="2")
    with pytest.raises(BadOption, match="labels for|for 30 labels"):
        neural_collapse(Snapshot(net, loss, (x, y)), classifier="2", labels=lambda d: d[1][:30])
