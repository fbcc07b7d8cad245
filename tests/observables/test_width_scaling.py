from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from strobe.core.errors import BadOption
from strobe.observables.width_scaling import best_learning_rate, coordinate_check

X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
Y = X.sin().sum(1, keepdim=True)
RATES = [2.0**k for k in range(-8, 2)]


def build(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))


def loss(model: nn.Module, data: Any) -> torch.Tensor:
    return (model(data[0]) - data[1]).square().mean()


def batch(seed: int, step: int) -> Any:
    at = torch.randint(64, (16,), generator=torch.Generator().manual_seed(seed * 997 + step))
    return X[at], Y[at]


@pytest.mark.parametrize("kind", ["adam", "sgd"])
def test_every_copy_is_what_a_plain_loop_with_the_users_optimizer_gives(kind: str) -> None:
    table = {"0.weight": 0.5, "2.bias": 2.0}
    found = best_learning_rate(
        build, loss, batch, rates=RATES[:4], seeds=(3, 5), steps=20, last=5, optimizer=kind, multipliers=table
    )
    for i, lr in enumerate(RATES[:4]):
        for j, seed in enumerate((3, 5)):
            model, last = build(seed), []
            groups = [{"params": [p], "lr": lr * table.get(n, 1.0)} for n, p in model.named_parameters()]
            optimizer = torch.optim.Adam(groups) if kind == "adam" else torch.optim.SGD(groups)
            for t in range(20):
                value = loss(model, batch(seed, t))
                last.append(float(value.detach()))
                optimizer.zero_grad()
                value.backward()
                optimizer.step()
            assert found.how["losses"][i][j] == pytest.approx(np.mean(last[-5:]), rel=2e-4)


def test_the_best_rate_of_a_valley_is_where_its_closed_form_is_lowest() -> None:
    """Gradient descent on ½ h w² multiplies w by 1 − lr h each step: here of 40 curvatures."""

    class Valley(nn.Module):
        def __init__(self, seed: int) -> None:
            super().__init__()
            self.w = nn.Parameter(1 + 0.01 * torch.randn(40, generator=torch.Generator().manual_seed(seed)))

    h = torch.logspace(-1, 0, 40)
    rates = [2.0**k for k in range(-4, 4)]
    found = best_learning_rate(Valley, lambda m, d: (h * m.w.square()).sum() / 2, lambda s, t: torch.zeros(1), rates=rates,
                               steps=3, last=1, optimizer="sgd")  # fmt: skip
    fine = 2 ** np.linspace(-4, 2, 2001)
    value = [(h.numpy() * (1 - r * h.numpy()) ** 4).sum() for r in fine]
    assert abs(found.value - np.log2(fine[np.argmin(value)])) < 0.2  # a parabola through octaves
    assert found.err < 0.2


def test_a_best_rate_at_the_end_is_flagged_and_a_wild_one_refused() -> None:
    found = best_learning_rate(build, loss, batch, rates=[1e-6, 2e-6, 4e-6, 8e-6], steps=10, last=5)
    assert "lies outside" in found.how["flags"][0]
    with pytest.raises(BadOption, match="diverges"):
        best_learning_rate(build, loss, batch, rates=[1e20, 2e20, 4e20, 8e20], steps=10, last=5, optimizer="sgd")
    for bad in (
        {"rates": [1, 2]},
        {"rates": [4, 3, 2, 1]},
        {"seeds": [1]},
        {"last": 30, "steps": 20},
        {"optimizer": "sgdd"},
    ):
        with pytest.raises(BadOption):
            best_learning_rate(build, loss, batch, **({"rates": RATES, "steps": 10, "last": 5} | bad))
    with pytest.raises(BadOption, match="above zero"):
        best_learning_rate(build, lambda m, d: loss(m, d) - 5, batch, rates=RATES, steps=10, last=5)
    with pytest.raises(BadOption, match="multipliers name 'nowhere'"):
        best_learning_rate(build, loss, batch, rates=RATES, steps=10, last=5, multipliers={"nowhere": 2.0})


def test_its_error_is_the_spread_over_seeds() -> None:
    at = [
        best_learning_rate(build, loss, batch, rates=RATES, seeds=range(4 * k, 4 * k + 4), steps=40, last=20)
        for k in range(6)
    ]
    assert np.std([r.value for r in at], ddof=1) <= 2 * np.mean([r.err for r in at])


def start(width: int, seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 1, bias=False))
    return net, torch.optim.Adam(net.parameters(), lr=1e-4)


def test_one_step_of_adam_moves_a_readout_by_lr_times_the_sum_of_its_inputs() -> None:
    found = coordinate_check(start, loss, batch, widths=[64, 256, 1024], modules=["0", "2"], steps=1)
    assert found.value[0] == pytest.approx(0.0, abs=0.1)
    assert 0.85 < found.value[1] < 1.5


def test_a_module_that_is_not_there_is_named() -> None:
    for bad, said in (
        ({"modules": ["9"]}, "no module '9'"),
        ({"widths": [8]}, "2 different widths"),
        ({"seeds": [0]}, "2 seeds"),
    ):
        with pytest.raises(BadOption, match=said):
            coordinate_check(start, loss, batch, **({"widths": [8, 16], "modules": ["0"]} | bad))
