"""A dose moves along the direction and nowhere else, at the tokens it should, and not at all at zero or in the wrong mode."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from strobe.core.catalogue import load
from strobe.core.errors import BadOption, StateMismatch
from strobe.core.tap import patch
from strobe.edits.steer import clamp, holding, preventative, steer, steering
from strobe.features.concept import Concept

U = torch.tensor([0.6, 0.0, 0.8])


def test_along_the_direction_and_nowhere_else() -> None:
    x = torch.randn(4, 7, 3)
    y = steer(direction=[3.0, 0.0, 4.0], by=-2.0)(x)
    assert torch.allclose(y - x, (-2 * U).expand(4, 7, 3), atol=1e-6)
    assert steer(direction=[3.0, 0.0, 4.0], by=0.0)(x) is x
    held = clamp(direction=[3.0, 0.0, 4.0], value=1.5, mean=[1.0, 1.0, 1.0])(x)
    assert torch.allclose((held - 1) @ U, torch.full((4, 7), 1.5), atol=1e-5)
    assert torch.allclose(held[..., 1], x[..., 1])


def test_only_at_some_tokens_and_where_the_gate_is_open() -> None:
    x = torch.randn(4, 7, 3)
    for first, moved in ((2, [2, 3, 4, 5, 6]), (-1, [6])):
        y = steer(direction=[1.0, 0.0, 0.0], by=1.0, first=first)(x)
        assert sorted(set((y != x).nonzero()[:, 1].tolist())) == moved
    for first, tokens, moved in ((0, 1, [0]), (-3, 2, [4, 5]), (5, 9, [5, 6])):
        y = steer(direction=[1.0, 0.0, 0.0], by=1.0, first=first, tokens=tokens)(x)
        assert sorted(set((y != x).nonzero()[:, 1].tolist())) == moved
    with pytest.raises(BadOption, match="how many are moved"):
        steer(direction=[1.0], by=1.0, tokens=0)
    with pytest.raises(BadOption, match="needs tokens"):
        steer(direction=[1.0, 0.0, 0.0], by=1.0, tokens=1)(x[0])
    y = steer(direction=[1.0, 0.0, 0.0], by=1.0, gate=[0.0, 1.0, 0.0], above=0.5)(x)
    assert torch.equal((y != x).any(-1), x[..., 1] > 0.5)


def test_zero_dose_and_undoing_leave_every_bit_also_on_tied_weights() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    net[2].weight = net[0].weight
    x = torch.randn(5, 3)
    before, bits = net(x), net[0].weight.clone()
    with patch(net, {"0": steer(direction=[1.0, 2.0, 0.0], by=0.0)}):
        assert torch.equal(net(x), before)
    edit = {"0": steer(direction=[1.0, 2.0, 0.0], by=3.0), "0:param.weight": steer(direction=[1.0, 0.0, 0.0], by=1.0)}
    with pytest.raises(KeyError), patch(net, edit):
        assert not torch.equal(net(x), before)
        raise KeyError
    assert torch.equal(net(x), before)
    assert torch.equal(net[0].weight, bits)
    assert net[2].weight is net[0].weight


def test_preventative_steering_is_there_while_it_trains_and_gone_when_it_is_measured() -> None:
    concept = SimpleNamespace(site="0", direction=U, gap=2.0, norm=10.0)
    plain = preventative(concept, 1.5)
    assert plain["kwargs"]["by"] == 3.0
    assert plain["label"] == "while it trains, +1.5 gap at 0"
    net, x = nn.Sequential(nn.Identity()), torch.randn(2, 3)
    with patch(net, {plain["site"]: load(plain["edit"])(**plain["kwargs"])}):
        assert torch.allclose(net.train()(x), x + 3 * U)
        assert torch.equal(net.eval()(x), x)
    assert steering(concept, -0.5, unit="norm")["kwargs"]["by"] == -5.0


def test_a_concept_is_held_where_it_was_said() -> None:
    c = Concept("0", torch.tensor([[0.6, 0.8]]), torch.tensor([1.0, -2.0]), gap=3.0)
    x = torch.randn(20, 2)
    for dose, only in ((0.0, None), (0.5, "train")):
        made = holding(c, dose, only=only)
        y = load(made["edit"])(**made["kwargs"])(x)
        assert torch.allclose(c.score(y), torch.full((20,), dose * 3.0), atol=1e-5)
        across = torch.tensor([-0.8, 0.6])
        assert torch.allclose(y @ across, x @ across, atol=1e-5)
        assert load(made["edit"])(**made["kwargs"]).only == only
    assert holding(c, only="train")["label"] == "while it trains, held at 0"


def test_bad_options() -> None:
    for bad in (
        {"by": float("nan")},
        {"by": 1.0, "first": 0.5},
        {"by": 1.0, "only": "test"},
        {"by": 1.0, "gate": [1.0]},
        {"by": True},
    ):
        with pytest.raises(BadOption):
            steer(direction=[1.0, 0.0], **bad)
    with pytest.raises(BadOption, match="needs tokens"):
        steer(direction=[1.0, 0.0], by=1.0, first=1)(torch.ones(3, 2))
    with pytest.raises(StateMismatch, match="2 numbers"):
        clamp(direction=[1.0, 0.0], value=1.0)(torch.ones(3, 3))
    with pytest.raises(BadOption, match="in units of"):
        steering(SimpleNamespace(site="0", direction=U, gap=1.0, norm=1.0), 1.0, unit="sigma")
