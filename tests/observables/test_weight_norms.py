"""Weight norms: known vectors, exactness against rationals, and modules that are not there."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import nn

from strobe.core.errors import BadOption, SiteNotFound
from strobe.core.snapshot import Snapshot
from strobe.observables.weight_norms import weight_norms


def nothing(model: nn.Module, data: object) -> torch.Tensor:
    raise AssertionError("weight_norms needs no loss")


def test_a_three_four_five_triangle() -> None:
    net = nn.Sequential(nn.Linear(2, 1, bias=False), nn.ReLU(), nn.Linear(1, 1))
    with torch.no_grad():
        net[0].weight.copy_(torch.tensor([[3.0, 4.0]]))
        net[2].weight.fill_(5.0)
        net[2].bias.fill_(12.0)
    got = weight_norms(Snapshot(net, nothing, None))
    assert got.value.tolist() == [5.0, 13.0]
    assert got.how == {"modules": ["0", "2"], "parameters": [2, 2]}
    assert weight_norms(Snapshot(net, nothing, None), modules=["", "2"]).value.tolist() == [np.sqrt(194.0), 13.0]


def test_the_error_bounds_the_distance_to_exact_arithmetic() -> None:
    net = nn.Linear(300, 7, bias=False)
    exact = sum(Fraction(float(x)) ** 2 for x in net.weight.detach().reshape(-1))
    got = weight_norms(Snapshot(net, nothing, None))
    square = Fraction(float(got.value[0])) ** 2
    assert abs(square - exact) / exact <= 2 * got.err[0] / got.value[0]
    assert got.err[0] < 1e-11


def test_tied_frozen_and_half_precision_parameters() -> None:
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False), nn.Linear(4, 4)).bfloat16()
    net[1].weight = net[0].weight
    net[2].requires_grad_(False)
    got = weight_norms(Snapshot(net, nothing, None))
    assert got.how["modules"] == ["0"]
    assert got.value[0] == pytest.approx(float(net[0].weight.detach().double().norm()), rel=1e-14)


def test_it_refuses_what_is_not_there() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with pytest.raises(SiteNotFound, match=r"no module '0\.weigth'"):
        weight_norms(Snapshot(net, nothing, None), modules=["0.weigth"])
    with pytest.raises(BadOption, match="holds no trainable"):
        weight_norms(Snapshot(net, nothing, None), modules=["1"])
    with pytest.raises(BadOption, match="no trainable parameter"):
        weight_norms(Snapshot(nn.ReLU(), nothing, None))
