"""A concept is readable where it was put, by a line or only by a kernel; a line of one moment reads another as far as they are alike."""

import numpy as np
import pytest
import torch
from torch import nn

from strobe.core.capture import Activations
from strobe.core.errors import BadOption
from strobe.core.snapshot import Snapshot
from strobe.observables.readability import readability, transfer


def snap(x: torch.Tensor, y: torch.Tensor, weight: torch.Tensor | None = None) -> Snapshot:
    net = nn.Sequential(nn.Linear(x.shape[1], x.shape[1], bias=False))
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(x.shape[1]) if weight is None else weight)
    return Snapshot(net, lambda m, d: m(d[0]).sum(), (x, y))


def test_a_line_a_bend_and_nothing() -> None:
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
    line, kernel = readability(snap(x, (x[:, 0] > 0).int()), site="0").value
    assert line > 0.97
    assert kernel > 0.9
    got = readability(snap(x, (x[:, 0] * x[:, 1] > 0).int()), site="0")
    assert got.value[0] < 0.6 < 0.75 < got.value[1]
    got = readability(snap(x, torch.randint(2, (300,), generator=torch.Generator().manual_seed(1))), site="0")
    assert (np.abs(got.value - 0.5) < 4 * got.err + 0.03).all()
    gone = torch.eye(6)
    gone[0, 0] = 0  # the network has dropped it
    assert abs(readability(snap(x, (x[:, 0] > 0).int(), gone), site="0").value[0] - 0.5) < 0.12


def test_a_line_reads_another_moment_as_far_as_they_are_alike() -> None:
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(200, 8, generator=gen)
    y = (x[:, 0] > 0).int()
    turned = x.clone()
    turned[:, 0] = -x[:, 0]
    moments = [Activations({"a": m}, torch.arange(200), torch.full((200,), -1), 200) for m in (x, x + 0.1, turned)]
    area, cos = transfer(moments, y, "a")
    assert area[0, 0] > 0.97
    assert area[0, 1] == pytest.approx(area[0, 0], abs=0.01)
    assert area[0, 2] < 0.05
    assert cos[0, 1] == pytest.approx(1, abs=1e-3)
    assert cos[0, 2] < -0.9


def test_a_direction_is_compared_with_that_of_another_moment() -> None:
    gen = torch.Generator().manual_seed(0)
    x = torch.randn(300, 4, generator=gen)
    y = (x[:, 0] > 0).int()
    angle = torch.tensor(1.0)
    turn = torch.eye(4)
    turn[:2, :2] = torch.stack([torch.stack([angle.cos(), -angle.sin()]), torch.stack([angle.sin(), angle.cos()])])
    first = readability(snap(x, y), site="0").how["direction"]
    for weight, want in ((None, 1.0), (turn, float(angle.cos())), (-torch.eye(4), -1.0)):
        got = readability(snap(x, y, weight), site="0", reference=first)
        assert got.how["labels"] == ["line", "kernel", "direction (cosine)"]
        assert got.value[2] == pytest.approx(want, abs=0.1 if weight is turn else 1e-5)
        assert 0 < got.err[2] < 0.1
    fewer = [
        readability(snap(x[i::5], y[i::5]), site="0", reference=[1.0, 0, 0, 0]) for i in range(5)
    ]  # independent draws: their spread is what the error says
    spread = np.std([r.value[2] for r in fewer], ddof=1)
    assert 0.3 < np.mean([r.err[2] for r in fewer]) / spread < 3


def test_bad_input() -> None:
    x = torch.randn(40, 3)
    for bad in ([1.0, 0.0], [0.0, 0.0, 0.0]):
        with pytest.raises(BadOption, match="reference is a direction of 3"):
            readability(snap(x, (torch.arange(40) % 2)), site="0", reference=bad)
    with pytest.raises(BadOption, match="or neither"):
        readability(snap(x, x[:, 0]), site="0", labels=[0, 1])
    with pytest.raises(BadOption, match="of two kinds"):
        readability(snap(x, torch.arange(40)), site="0")
    with pytest.raises(BadOption, match="4 inputs with the concept"):
        readability(snap(x, (torch.arange(40) < 4).int()), site="0")
