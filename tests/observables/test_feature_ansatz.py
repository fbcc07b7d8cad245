from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, jacrev, vmap

from strobe.core.errors import BadOption
from strobe.core.snapshot import Snapshot
from strobe.observables.feature_ansatz import agop, feature_ansatz


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.Tanh(), nn.Linear(9, 7), nn.Tanh(), nn.Linear(7, 3))


X = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))


def look(net: nn.Module) -> Snapshot:
    return Snapshot(net, lambda m, x: m(x).square().mean(), X)


def test_every_layers_agop_is_that_of_the_jacobians_one_by_one() -> None:
    net = network()
    found = agop(look(net), X, ["0", "2", "4"])
    for k, path in ((0, "0"), (2, "2"), (4, "4")):
        head, tail = net[:k], net[k:]
        inner = {n: p.detach() for n, p in tail.named_parameters()}
        each = vmap(jacrev(lambda h, tail=tail, inner=inner: functional_call(tail, inner, (h[None],))[0]))(
            head(X).detach()
        )
        slow = torch.einsum("nki,nkj->ij", each, each) / len(X)
        assert torch.allclose(found[path], slow.double(), atol=1e-6)


def test_weights_that_are_what_the_network_is_sensitive_to_have_cosine_one() -> None:
    """A linear network with an orthogonal readout: its AGOP is WᵀW itself, and the cosine with the root is that of A with A^½."""
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.linalg.qr(torch.randn(4, 4)).Q)
    x = torch.randn(16, 4)
    got = feature_ansatz(Snapshot(net, lambda m, x: m(x).square().mean(), x), layers=["0"])
    a = np.linalg.eigvalsh((net[0].weight.T @ net[0].weight).detach().double().numpy())
    assert got.value[0, 0] == pytest.approx(1.0, abs=1e-6)
    assert got.value[0, 1] == pytest.approx((a**1.5).sum() / np.sqrt((a**2).sum() * a.sum()), abs=1e-5)


def test_random_weights_are_refused_the_cosine_of_trained_ones() -> None:
    assert feature_ansatz(look(network()), layers=["0"]).value[0, 0] < 0.95


def test_sequences_and_named_outputs() -> None:
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    x = torch.randn(12, 3, 6)
    got = feature_ansatz(Snapshot(net, lambda m, x: m(x).mean(), x), layers=["0", "2"], outputs="2", chunks=4)
    assert got.value.shape == (2, 2)


@pytest.mark.parametrize(
    ("options", "said"),
    [({"layers": ["9"]}, "no module '9'"), ({"layers": ["1"]}, "is a Tanh"), ({"layers": ["0"], "chunks": 2}, "4 <= chunks"),
     ({"layers": ["0"], "outputs": "nowhere"}, "no module 'nowhere'"), ({"layers": []}, "needs a layer")],
)  # fmt: skip
def test_bad_options_are_one_clear_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadOption, match=said):
        feature_ansatz(look(network()), **options)
