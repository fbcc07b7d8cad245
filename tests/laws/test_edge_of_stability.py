"""The edge of stability: each threshold by bisection on a quadratic, a net that obeys, and one that must not."""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import nn

from strobe.core.errors import BadOption
from strobe.core.prediction import judge
from strobe.core.reading import pool
from strobe.core.snapshot import Snapshot
from strobe.laws.edge_of_stability import edge_of_stability
from strobe.observables.sharpness import SharpnessTracker, sharpness


def torch_sgd(**options: object) -> Callable[[float, float], bool]:
    """Does torch's own optimiser diverge on ½ a x²?"""

    def diverges(a: float, lr: float) -> bool:
        x = torch.ones((), dtype=torch.float64, requires_grad=True)
        opt = torch.optim.SGD([x], lr=lr, **options)  # type: ignore[arg-type]
        for _ in range(1500):
            x.grad = a * x.detach()
            opt.step()
            if abs(x.item()) > 1e6:
                return True
        return abs(x.item()) > 1

    return diverges


def moving_average(beta: float) -> Callable[[float, float], bool]:
    def diverges(a: float, lr: float) -> bool:
        x, b = 1.0, 0.0
        for _ in range(20000):
            b = beta * b + (1 - beta) * a * x
            x -= lr * b
            if abs(x) > 1e6:
                return True
        return abs(x) > 1

    return diverges


def adam_frozen(a: float, lr: float) -> bool:
    """Adam with its second moment held at 1: P = 1 − 0.9ᵗ. Its bias correction makes the first steps larger, so what
    counts is whether it still grows late."""
    x, m, sizes = 1.0, 0.0, []
    for t in range(1, 1000):
        m = 0.9 * m + 0.1 * a * x
        x -= lr * (m / (1 - 0.9**t))
        sizes.append(abs(x))
        if abs(x) > 1e200:
            return True
    return max(sizes[-100:]) > max(sizes[300:400])


@pytest.mark.parametrize(
    ("knobs", "diverges"),
    [
        ({}, torch_sgd()),
        ({"optimizer": "heavy_ball", "momentum": 0.9}, torch_sgd(momentum=0.9)),
        ({"optimizer": "heavy_ball", "momentum": 0.5}, torch_sgd(momentum=0.5)),
        ({"optimizer": "nesterov", "momentum": 0.9}, torch_sgd(momentum=0.9, nesterov=True)),
        ({"optimizer": "ema", "beta1": 0.9}, moving_average(0.9)),
        ({"optimizer": "adam", "beta1": 0.9}, adam_frozen),
    ],
)
def test_the_threshold_is_where_a_quadratic_stops_contracting(knobs: dict[str, object], diverges: object) -> None:
    """Bisection on the curvature, with torch's optimiser where there is one; momentum of SGD is no moving average."""
    lr, low, high = 0.1, 1.0, 1000.0
    for _ in range(18):
        mid = (low + high) / 2
        low, high = (low, mid) if diverges(mid, lr) else (mid, high)  # type: ignore[operator]
    assert edge_of_stability(lr=lr, **knobs).value == pytest.approx(low, rel=5e-3)  # type: ignore[arg-type]


def test_published_numbers() -> None:
    """38 / lr for Adam with β₁ = 0.9 (arXiv:2207.14484); 2 / lr for gradient descent (arXiv:2103.00065)."""
    assert edge_of_stability(lr=1e-3, optimizer="adam").value == pytest.approx(38000)
    assert edge_of_stability(lr=1e-3, optimizer="adam").of == "preconditioned_sharpness"
    assert edge_of_stability(lr=0.02).value == 100
    assert edge_of_stability(lr=0.02, optimizer="heavy_ball", momentum=0.9).value == pytest.approx(190)


def rings() -> tuple[torch.Tensor, torch.Tensor]:
    angle = torch.arange(32) * (2 * torch.pi / 32)
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    return torch.cat([circle, 2 * circle]), torch.cat([torch.ones(32), -torch.ones(32)])


def mse(model: nn.Module, data: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return (model(data[0]).squeeze(-1) - data[1]).square().mean()


def train(lr: float, steps: int, batch: int = 64) -> tuple[Snapshot, list[float], list[Snapshot]]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
    data, opt, losses, track, late = rings(), torch.optim.SGD(net.parameters(), lr=lr), [], SharpnessTracker(), []
    for t in range(steps):
        pick = torch.randperm(64)[:batch]
        part = data if batch == 64 else (data[0][pick], data[1][pick])
        opt.zero_grad()
        loss = mse(net, part)
        loss.backward()
        opt.step()
        losses.append(mse(net, data).item() if batch < 64 else loss.item())
        if t >= steps - 100 and t % 20 == 0:
            late.append(track(Snapshot(net, mse, data, t)))
    return Snapshot(net, mse, data, steps), losses, late  # type: ignore[return-value]


def test_a_net_at_the_edge_obeys_and_the_regime_is_seen_in_the_loss() -> None:
    _, losses, late = train(lr=0.1, steps=500)
    rose = any(b > a for a, b in pairwise(losses))
    verdict = judge(edge_of_stability(lr=0.1), pool(late), applies=rose)  # type: ignore[arg-type]
    assert verdict.word == "holds", str(verdict)


def test_it_is_outside_where_the_loss_never_rose() -> None:
    snap, losses, _ = train(lr=0.002, steps=60)
    rose = any(b > a for a, b in pairwise(losses))
    assert judge(edge_of_stability(lr=0.002), sharpness(snap), applies=rose).word == "outside"


def test_it_fails_on_small_batches_although_the_loss_rose() -> None:
    """The refuting case: with batches of 4 the full-batch sharpness stays well below 2 / lr."""
    _, losses, late = train(lr=0.1, steps=500, batch=4)
    assert any(b > a for a, b in pairwise(losses))
    verdict = judge(edge_of_stability(lr=0.1), pool(late))  # type: ignore[arg-type]
    assert verdict.word == "fails", str(verdict)
    assert verdict.measured.value < 0.9 * 20


def test_wrong_convention_fails() -> None:
    """Heavy ball judged as a moving average is wrong by 1 / (1 − m): the trap the law names."""
    torch_convention = edge_of_stability(lr=0.1, optimizer="heavy_ball", momentum=0.9).value
    assert edge_of_stability(lr=0.1, optimizer="ema", beta1=0.9).value == pytest.approx(10 * torch_convention)


@pytest.mark.parametrize(
    ("knobs", "says"),
    [
        ({"lr": 0.0}, "lr > 0"), ({"lr": -1.0}, "lr > 0"), ({"lr": float("nan")}, "lr > 0"),
        ({"lr": 0.1, "rtol": 0.0}, "rtol > 0"),
        ({"lr": 0.1, "optimizer": "nestrov"}, "did you mean nesterov"),
        ({"lr": 0.1, "momentum": 0.9}, "say 'heavy_ball'"),
        ({"lr": 0.1, "optimizer": "heavy_ball", "momentum": 1.0}, r"\[0, 1\)"),
        ({"lr": 0.1, "optimizer": "adam", "beta1": -0.1}, r"\[0, 1\)"),
    ],
)  # fmt: skip
def test_bad_knobs(knobs: dict[str, object], says: str) -> None:
    with pytest.raises(BadOption, match=says):
        edge_of_stability(**knobs)  # type: ignore[arg-type]


def test_a_prediction_says_where_it_came_from() -> None:
    for name in ("gd", "heavy_ball", "nesterov", "ema", "adam"):
        p = edge_of_stability(lr=0.1, optimizer=name)
        assert p.law == "strobe.laws.edge_of_stability:edge_of_stability"
        assert p.knobs["optimizer"] == name
        assert p.ref.startswith("arXiv:")
        assert "loss rose" in p.when
        assert p.fitted == 0
