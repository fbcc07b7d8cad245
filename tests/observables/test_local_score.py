"""What a denoiser looks at, and how near it is to the local score machine."""

import pytest
import torch
from torch import Tensor, nn

from strobe.core.errors import BadOption
from strobe.core.snapshot import Snapshot
from strobe.numerics.local_score import local_denoise
from strobe.observables.local_score import local_score_match, receptive_field


def images(n: int, seed: int, side: int = 8) -> Tensor:
    return torch.randn(n, 1, side, side, generator=torch.Generator().manual_seed(seed))


class Machine(nn.Module):
    """The local score machine itself, plus `off` times the ideal one's difference from it; returns what `output` says."""

    def __init__(self, data: Tensor, output: str = "image", off: float = 0.0) -> None:
        super().__init__()
        self.data, self.output, self.off = data, output, off

    def forward(self, y: Tensor, a: Tensor) -> Tensor:
        s = float(a)
        x = local_denoise(y, self.data, patch=3, signal=s)
        x = x + self.off * (local_denoise(y, self.data, patch=15, signal=s) - x)
        v = 1 - s**2
        return {"image": x, "noise": (y - s * x) / v**0.5, "score": (s * x - y) / v}[self.output]


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_k_layers_of_3_by_3_see_2k_plus_1_pixels_and_have_one_rule_inside(layers: int) -> None:
    torch.manual_seed(layers)
    body = [nn.Conv2d(1, 4, 3, padding=1), nn.Tanh()] + [nn.Conv2d(4, 4, 3, padding=1), nn.Tanh()] * (layers - 1)
    read = receptive_field(Snapshot(nn.Sequential(*body, nn.Conv2d(4, 1, 1)), None, images(4, 0, 10)))  # type: ignore[arg-type]
    assert read.value == 2 * layers + 1
    assert read.how["equivariance"] < 1e-5


def test_a_dense_layer_sees_everything_and_a_place_of_its_own_is_seen() -> None:
    torch.manual_seed(0)
    dense = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Unflatten(1, (1, 8, 8)))
    read = receptive_field(Snapshot(dense, None, images(4, 0)))  # type: ignore[arg-type]
    assert read.value == 15
    assert read.how["equivariance"] is None

    class Placed(nn.Module):
        def forward(self, y: Tensor) -> Tensor:
            return y * torch.linspace(0, 1, 8)

    read = receptive_field(Snapshot(Placed(), None, images(4, 0)))  # type: ignore[arg-type]
    assert read.value == 1
    assert read.how["equivariance"] > 0.05


@pytest.mark.parametrize("output", ["image", "noise", "score"])
def test_the_machine_matches_itself_in_every_parametrisation(output: str) -> None:
    data, y = images(30, 1).double(), images(10, 2).double()
    snap = Snapshot(Machine(data, output), None, (y, torch.tensor(0.7)))  # type: ignore[arg-type]
    read = local_score_match(snap, data=data, patch=3, signal=0.7, output=output)  # type: ignore[arg-type]
    assert read.value == pytest.approx(1, abs=1e-10)
    assert read.how["beyond"] == pytest.approx(1, abs=1e-10)


def test_it_tells_the_machine_from_memory_and_from_one_that_keeps_its_places() -> None:
    data, y = images(30, 1), images(40, 2)
    snap = Snapshot(Machine(data), None, (y, torch.tensor(0.7)))  # type: ignore[arg-type]
    assert local_score_match(snap, data=data, patch=15, signal=0.7).value < 0.5
    assert local_score_match(snap, data=data, patch=3, signal=0.7, shared=False).value < 0.7
    half = Snapshot(Machine(data, off=0.3), None, (y, torch.tensor(0.7)))  # type: ignore[arg-type]
    one, other = (local_score_match(half, data=data, patch=3, signal=0.7, seed=s) for s in (0, 1))
    assert 0.2 < one.value < 0.99
    assert one.err == pytest.approx(other.err, rel=0.5)


def test_bad_options_are_refused() -> None:
    net, y = nn.Conv2d(1, 1, 3, padding=1), images(4, 0)
    snap = Snapshot(net, None, y)  # type: ignore[arg-type]
    for bad in ({"patch": 2}, {"output": "velocity"}, {"draws": 1}, {"signal": 1.5}, {"data": images(3, 0, 6)}):
        with pytest.raises(BadOption):
            local_score_match(snap, **{"data": y, "patch": 3, "signal": 0.5} | bad)  # type: ignore[arg-type]
    with pytest.raises(BadOption):
        receptive_field(snap, places=0)
    with pytest.raises(BadOption, match="images"):
        receptive_field(Snapshot(net, None, torch.zeros(3)))  # type: ignore[arg-type]
    with pytest.raises(BadOption, match="shape"):
        receptive_field(Snapshot(nn.Conv2d(1, 2, 3, padding=1), None, y))  # type: ignore[arg-type]
