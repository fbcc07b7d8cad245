"""Gradient noise scale: a closed form, the per-sample reference, unbiasedness, any batch structure, and lost gradients."""

from collections import namedtuple

import numpy as np
import pytest
import torch
from reference.per_sample import noise_scale
from torch import Tensor, nn

from strobe.core.errors import BadOption, Diverged
from strobe.core.snapshot import Snapshot
from strobe.observables.gradient_noise import gradient_noise

Pair = namedtuple("Pair", "x y")


class Point(nn.Module):
    """loss = mean ½ ‖θ − x‖²: the gradient of an example is θ − x, whose law is that of the data."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.full((d,), 1.0))


def distance(model: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(model, Point)
    return 0.5 * (model.theta - x).square().sum(1).mean()


def mse(model: nn.Module, data: Pair | tuple[Tensor, Tensor]) -> Tensor:
    return (model(data[0]) - data[1]).square().mean()


def draw(n: int, d: int, sigma: float, seed: int) -> Snapshot:
    x = sigma * torch.randn(n, d, generator=torch.Generator().manual_seed(seed))
    return Snapshot(Point(d), distance, x)


def test_gaussian_data_have_a_known_scale() -> None:
    """x ~ N(0, σ² I_d), θ = 1: tr Σ = σ² d, |G|² = d, B = σ²."""
    got = gradient_noise(draw(4096, 20, 3.0, 0), chunks=64)
    assert got.value == pytest.approx(9.0, abs=3 * got.err)
    assert got.err < 0.9
    assert got.unit == "examples"


def test_the_error_is_honest_over_draws_and_the_moments_unbiased() -> None:
    readings = [gradient_noise(draw(512, 10, 2.0, s), chunks=32) for s in range(60)]
    values, errs = np.array([r.value for r in readings]), np.array([r.err for r in readings])
    assert 0.6 < values.std() / errs.mean() < 1.5
    for part, known in (("trace", 40.0), ("signal", 10.0)):
        x = np.array([r.how[part] for r in readings])
        assert abs(x.mean() - known) < 3.5 * x.std() / np.sqrt(len(x))
    spread = np.std([gradient_noise(draw(512, 10, 2.0, 0), chunks=32, seed=s).value for s in range(8)])
    assert spread <= 2 * errs.min()


def test_agrees_with_the_per_sample_gradients_of_a_network() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
    x = torch.randn(600, 4)
    snap = Snapshot(net, mse, (x, x.sum(1, keepdim=True) + torch.randn(600, 1)))
    exact = noise_scale(snap)
    every = gradient_noise(snap, chunks=600)
    assert every.value == pytest.approx(exact, rel=1e-5)  # a chunk an example: the same sums
    some = gradient_noise(snap, chunks=40)
    assert abs(some.value - exact) <= 3 * some.err
    assert abs(some.value / exact - 1) < 0.25


def test_any_structure_of_data_gives_the_same_number() -> None:
    net, x = nn.Linear(3, 1), torch.randn(40, 3)
    y = x.sum(1, keepdim=True) + 0.5
    plain = gradient_noise(Snapshot(net, mse, (x, y)), chunks=8)
    assert gradient_noise(Snapshot(net, mse, Pair(x, y)), chunks=8) == plain
    assert gradient_noise(Snapshot(net, mse, [x, y]), chunks=8) == plain
    named = Snapshot(net, lambda m, d: mse(m, (d["a"]["x"], d["y"])), {"a": {"x": x}, "y": y})
    assert gradient_noise(named, chunks=8) == plain
    rows = [(x[i], y[i]) for i in range(40)]

    def split(data: list[tuple[Tensor, Tensor]], indices: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.stack(z) for z in zip(*(data[i] for i in indices.tolist()), strict=True))

    assert gradient_noise(Snapshot(net, mse, rows), chunks=8, split=split).value == pytest.approx(plain.value)


def test_it_leaves_no_trace_and_repeats() -> None:
    snap = draw(64, 3, 1.0, 0)
    random = torch.random.get_rng_state()
    assert gradient_noise(snap, chunks=8) == gradient_noise(snap, chunks=8)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert snap.model.theta.grad is None


def test_a_lost_gradient_is_refused_not_reported() -> None:
    """At the mean of the data the gradient is zero: |G|² comes out at or below zero, and B has no value."""
    snap = draw(64, 3, 1.0, 0)
    assert isinstance(snap.model, Point)
    with torch.no_grad():
        snap.model.theta.copy_(snap.data.mean(0))
    with pytest.raises(Diverged, match="lost in the noise"):
        gradient_noise(snap, chunks=16)


def test_bad_options() -> None:
    with pytest.raises(BadOption, match="4 <= chunks <= 10"):
        gradient_noise(draw(10, 2, 1.0, 0), chunks=11)
    with pytest.raises(BadOption, match="give split="):
        gradient_noise(Snapshot(Point(2), distance, "text"))
    with pytest.raises(BadOption, match=r"\[3, 4\] examples"):
        gradient_noise(Snapshot(Point(2), mse, (torch.ones(3, 2), torch.ones(4, 2))))
    with pytest.raises(BadOption, match="requires_grad"):
        gradient_noise(Snapshot(Point(2).requires_grad_(False), distance, torch.ones(40, 2)))
