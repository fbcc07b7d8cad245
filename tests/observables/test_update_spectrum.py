import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from strobe.core.errors import BadOption, Diverged
from strobe.core.snapshot import Snapshot
from strobe.observables.update_spectrum import update_spectrum


def net(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 4))


def started(model: nn.Module) -> dict[str, torch.Tensor]:
    return copy.deepcopy(dict(model.state_dict()))


@pytest.mark.parametrize("width", [16, 64])
def test_the_condition_of_feature_learning_reads_one_at_every_width(width: int) -> None:
    """arXiv:2310.17813, condition 1: an update of norm √(fan_out / fan_in) has action 1; here of rank one and of rank three."""
    model = net(width)
    start = started(model)
    u, _ = torch.linalg.qr(torch.randn(width, 3))
    v, _ = torch.linalg.qr(torch.randn(6, 3))
    with torch.no_grad():
        model[0].weight += (width / 6) ** 0.5 * u @ v.T
        model[2].weight += (4 / width) ** 0.5 * torch.outer(torch.tensor([1.0, 0, 0, 0]), u[:, 0])
    got = update_spectrum(Snapshot(model, None, None), start=start)  # type: ignore[arg-type]
    assert got.how["labels"] == ["0.weight", "2.weight"]
    assert np.allclose(got.value, [[1.0, 3.0], [1.0, 1.0]], atol=1e-4)


def test_a_step_of_signs_acts_lr_times_the_inputs_and_an_untouched_matrix_not_at_all() -> None:
    """Adam's first step moves every entry by lr: of one example, a matrix of rank one and norm lr √(fan_in fan_out)."""
    model = net(32)
    start = started(model)
    optimizer = torch.optim.Adam([model[0].weight], lr=0.01, eps=0.0)
    model(torch.rand(1, 6) + 0.1).square().sum().backward()
    live = int((model[0].weight.grad.abs().sum(1) > 0).sum())
    model[0].weight.grad[model[0].weight.grad == 0] = 1e-12
    optimizer.step()
    got = update_spectrum(Snapshot(model, None, None), start=start)  # type: ignore[arg-type]
    assert 0 < live <= 32
    assert got.value[0, 0] <= 0.01 * 6 * (1 + 1e-4)
    assert got.value[0, 0] >= 0.01 * 6 * 0.7
    assert got.value[1].tolist() == [0.0, 0.0]


def test_what_is_no_matrix_or_not_there_is_refused() -> None:
    model = net(8)
    snap, start = Snapshot(model, None, None), started(model)  # type: ignore[arg-type]
    cases: list[tuple[dict[str, Any], str]] = [
        ({"start": start, "matrices": ["0.bias"]}, "no trainable matrix"),
        ({"start": start, "matrices": []}, "name some"),
        ({"start": {}}, "start has no '0.weight'"),
        ({"start": started(net(9))}, "start has no '0.weight' of shape"),
    ]
    for bad, said in cases:
        with pytest.raises(BadOption, match=said):
            update_spectrum(snap, **bad)
    model[0].weight.data[0, 0] = float("nan")
    with pytest.raises(Diverged):
        update_spectrum(snap, start=start)
