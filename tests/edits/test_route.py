"""What a routed token teaches lies in the chosen units, and is gone with them; forward nothing changes."""

import pytest
import torch
from torch import nn

from strobe.core.catalogue import load
from strobe.core.errors import BadOption, StateMismatch
from strobe.core.tap import patch
from strobe.edits.route import route


def test_forward_stays_and_only_the_units_learn_from_open_tokens() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(3, 6), nn.Linear(6, 2)), torch.randn(40, 3)
    before = net(x)
    gate = [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    with patch(net, {"0": route(units=[1, 4], gate=gate)}):
        y = net(x)
        assert torch.equal(y, before)
        y.square().sum().backward()
    is_open = net[0](x)[:, 0] > 0
    assert 5 < int(is_open.sum()) < 35
    back = (2 * before @ net[1].weight).detach()
    back[is_open] *= torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0, 0.0])
    assert net[0].weight.grad is not None
    assert torch.allclose(net[0].weight.grad, back.T @ x, atol=1e-4)
    with patch(net, {"0": route(units=[1], gate=gate)}), torch.no_grad():
        assert torch.equal(net(x), before)


def test_taking_the_units_out_takes_what_was_routed_there() -> None:
    """Every token is of the kind that is routed: it is learned by units 8 to 15, and without these the network is what it was."""
    torch.manual_seed(0)
    x = torch.randn(300, 4)
    y = 2 * x[:, 1]

    def out(h: torch.Tensor) -> torch.Tensor:
        return h * (torch.arange(16) < 8)

    def learned(above: float) -> tuple[float, float]:
        torch.manual_seed(1)
        net = nn.Sequential(nn.Linear(4, 16), nn.Linear(16, 1, bias=False))
        edit = load("strobe.edits.route:route")(units=list(range(8, 16)), gate=[1.0] * 16, above=above)
        with patch(net, {"0": out}), torch.no_grad():
            start = net(x)
        optimizer = torch.optim.SGD(net[0].parameters(), lr=0.1)
        with patch(net, {"0": edit}):
            for _ in range(200):
                optimizer.zero_grad()
                (net(x)[:, 0] - y).square().mean().backward()
                optimizer.step()
        with torch.no_grad():
            whole = float((net(x)[:, 0] - y).square().mean())
            with patch(net, {"0": out}):
                return whole, float((net(x) - start).abs().max())

    whole, moved = learned(-1e6)  # open everywhere
    assert whole < 0.05
    assert moved == 0.0
    whole, moved = learned(1e6)  # shut: all learn
    assert whole < 0.05
    assert moved > 0.5


def test_bad_options() -> None:
    for bad in ({"units": []}, {"units": [-1]}, {"units": [True]}, {"above": float("inf")}, {"gate": [0.0, 0.0]}):
        with pytest.raises(BadOption):
            route(**{"units": [0], "gate": [1.0, 0.0], **bad})
    with pytest.raises(StateMismatch, match="unit 5"):
        route(units=[5], gate=[1.0, 0.0])(torch.ones(2, 2))
    with pytest.raises(StateMismatch, match="2 numbers"):
        route(units=[0], gate=[1.0, 0.0])(torch.ones(2, 3))


def test_a_concept_says_where_the_gate_opens() -> None:
    """Routed is what scores above the concept's threshold, wherever its mean lies."""
    from strobe.edits.route import routing
    from strobe.features.concept import Concept

    c = Concept("0", torch.tensor([[0.6, 0.8]]), torch.tensor([5.0, -3.0]), threshold=0.5)
    made = routing(c, [1])
    x = (torch.randn(50, 2) + c.mean).requires_grad_()
    load(made["edit"])(**made["kwargs"])(x).sum().backward()
    assert x.grad is not None
    assert made["site"] == "0"
    assert torch.equal(x.grad[:, 0] == 0, c.score(x.detach()) > c.threshold)
    assert 5 < int((x.grad[:, 0] == 0).sum()) < 45
    with pytest.raises(BadOption):
        routing(c, [])
