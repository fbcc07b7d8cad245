import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from strobe.core.errors import BadOption, StateMismatch
from strobe.runs.state import capture, differences, restore
from strobe.runs.tree import flatten, unflatten


class Loose(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(2, 2)
        self.register_buffer("count", torch.zeros(3), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(x)


def objects() -> dict[str, Any]:
    model = Loose()
    opt = torch.optim.Adam(model.parameters(), lr=0.1)
    model(torch.ones(1, 2)).sum().backward()
    opt.step()
    return {
        "model": model, "optimizer": opt, "scheduler": torch.optim.lr_scheduler.StepLR(opt, 2),
        "generator": torch.Generator().manual_seed(3), "numpy": np.random.default_rng(1), "python": random.Random(4),
    }  # fmt: skip


def test_everything_comes_back_bit_for_bit() -> None:
    have = objects()
    have["model"].count += 2
    have["model"].a.eval()
    have["model"].a.bias.requires_grad_(False)
    skeleton, tensors = flatten(capture(have), "s")
    stored = unflatten(copy.deepcopy(skeleton), {k: t.clone() for k, t in tensors.items()})
    draws = [random.random(), np.random.rand(), torch.rand(1), have["numpy"].random(), have["python"].random()]
    other = objects()
    restore(other, stored)
    assert differences(capture(other), stored) == []
    again = [random.random(), np.random.rand(), torch.rand(1), other["numpy"].random(), other["python"].random()]
    assert draws == again
    assert not other["model"].a.training
    assert not other["model"].a.bias.requires_grad
    assert other["model"].count.tolist() == [2, 2, 2]


def test_differences_see_one_bit() -> None:
    have = objects()
    before = copy.deepcopy(capture(have))
    have["model"].a.weight.data.view(torch.int32)[0, 0] ^= 1
    (found,) = differences(before, capture(have))
    assert "model.state.a.weight: 1 of 4 entries differ" in found


def test_minus_zero_is_a_difference() -> None:
    assert differences({"x": torch.zeros(1)}, {"x": -torch.zeros(1)})


def test_shapes_are_checked_before_anything_is_changed() -> None:
    have = objects()
    stored = copy.deepcopy(capture(have))
    stored["objects"]["model"]["state"]["a.weight"] = torch.zeros(2, 3)
    before = copy.deepcopy(capture(have))
    with pytest.raises(StateMismatch, match=r"model.a.weight has shape \(2, 3\).*\(2, 2\) in this model"):
        restore(have, stored)
    assert differences(before, capture(have)) == []


def test_missing_objects_are_named() -> None:
    have = objects()
    stored = capture(have)
    del have["scheduler"]
    with pytest.raises(StateMismatch, match="missing in the loop: scheduler"):
        restore(have, stored)


def test_an_object_without_a_state_is_refused() -> None:
    with pytest.raises(BadOption, match="ema is a float without state_dict"):
        capture({"ema": 0.5})
