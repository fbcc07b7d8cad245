"""Adam on stacked copies: each as torch's own optimizer alone moves it."""

import pytest
import torch
from torch import nn

from strobe.core.errors import BadOption
from strobe.core.snapshot import Snapshot
from strobe.core.stacked import StackedLoss, stacked
from strobe.core.stacked_adam import StackedAdam

BETAS = (0.8, 0.99)


def net(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 1)).double()


def loss(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return (model(x) - x.sum(1, keepdim=True)).square().mean()


def drawn(seed: int, step: int) -> torch.Tensor:
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(100 * seed + step), dtype=torch.float64)


@pytest.mark.parametrize("rates", ["one", "each"])
def test_every_copy_moves_as_under_torchs_adam(rates: str) -> None:
    models = [net(s) for s in range(3)]
    w = stacked(models)
    lr = 0.02 if rates == "one" else torch.tensor([0.01, 0.02, 0.05], dtype=torch.float64)[:, None]
    adam = StackedAdam(StackedLoss(Snapshot(models[0], loss, drawn(0, 0))), w, lr, betas=BETAS)
    for t in range(12):
        seen = adam.step(torch.stack([drawn(s, t) for s in range(3)]))
    for s, model in enumerate(models):
        own = torch.optim.Adam(model.parameters(), lr=0.02 if rates == "one" else [0.01, 0.02, 0.05][s], betas=BETAS)
        for t in range(12):
            own.zero_grad()
            value = loss(model, drawn(s, t))
            value.backward()
            own.step()
        assert torch.allclose(w[s], stacked([model])[0], rtol=1e-9, atol=1e-12)
        assert float(seen[s]) == pytest.approx(value.item(), rel=1e-9)
        v = torch.cat([own.state[p]["exp_avg_sq"].reshape(-1) for p in model.parameters()])
        assert torch.allclose(adam.preconditioner()[s], (1 - 0.8**12) * ((v / (1 - 0.99**12)).sqrt() + 1e-8))


def test_bad_options_and_no_step_yet() -> None:
    f = StackedLoss(Snapshot(net(0), loss, drawn(0, 0)))
    for bad in ({"betas": (1.0, 0.9)}, {"betas": (0.9, -0.1)}, {"eps": -1.0}):
        with pytest.raises(BadOption, match="betas in"):
            StackedAdam(f, stacked([net(0)]), 0.1, **bad)  # type: ignore[arg-type]
    with pytest.raises(BadOption, match="before its first step"):
        StackedAdam(f, stacked([net(0)]), 0.1).preconditioner()
