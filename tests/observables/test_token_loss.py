"""Loss per token: a model whose loss is known, by position too; and data it must refuse."""

from math import log

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from strobe.core.errors import BadOption
from strobe.core.snapshot import Snapshot
from strobe.observables.token_loss import loss_by_position, token_loss


class Knower(nn.Module):
    """Says the previous token again with probability 0.5 from position 4 on, and is uniform over 8 before that."""

    def __init__(self) -> None:
        super().__init__()
        self.bump = nn.Parameter(torch.tensor(log(7.0)))  # e^bump / (e^bump + 7) = 1/2

    def forward(self, x: Tensor) -> Tensor:
        late = (torch.arange(x.shape[1]) >= 4).float()[:, None]
        return nn.functional.one_hot(x, 8) * self.bump * late


def constant(seed: int = 0, n: int = 32) -> Tensor:
    return torch.randint(8, (n, 1), generator=torch.Generator().manual_seed(seed)).expand(n, 9).contiguous()


def test_the_loss_is_that_of_the_closed_form_everywhere() -> None:
    snap = Snapshot(Knower(), None, constant())  # type: ignore[arg-type]
    by_position = loss_by_position(snap)
    assert by_position.value == pytest.approx([log(8)] * 4 + [log(2)] * 4, rel=1e-5)
    assert token_loss(snap).value == pytest.approx((log(8) + log(2)) / 2, rel=1e-5)
    assert token_loss(Snapshot(Knower(), None, {"input_ids": constant()})).value == token_loss(snap).value  # type: ignore[arg-type]


def test_the_error_is_the_spread_over_fresh_windows() -> None:
    torch.manual_seed(0)
    net = nn.Embedding(8, 8)
    draws = [torch.randint(8, (64, 9), generator=torch.Generator().manual_seed(s)) for s in range(40)]
    got = [token_loss(Snapshot(net, None, d)) for d in draws]  # type: ignore[arg-type]
    spread, said = np.std([r.value for r in got], ddof=1), np.mean([r.err for r in got])
    assert said / 1.5 < spread < 1.5 * said


def test_it_takes_objects_with_logits_and_leaves_no_trace() -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Embedding(8, 8), nn.Dropout(0.5))

        def forward(self, x: Tensor) -> object:
            return type("Out", (), {"logits": self.net(x)})()

    model = Wrapped().train()
    state = torch.get_rng_state()
    first = token_loss(Snapshot(model, None, constant()))  # type: ignore[arg-type]
    assert first == token_loss(Snapshot(model, None, constant()))  # type: ignore[arg-type]
    assert torch.equal(state, torch.get_rng_state())
    assert model.training
    assert all(p.grad is None for p in model.parameters())


def test_unfit_data_and_models_are_refused() -> None:
    net = nn.Embedding(8, 8)
    padded = {"input_ids": constant(), "attention_mask": torch.zeros(32, 9)}
    for data in (constant().float(), constant()[:1], constant()[0], "text", padded, {"tokens": constant()}):
        with pytest.raises(BadOption):
            token_loss(Snapshot(net, None, data))  # type: ignore[arg-type]
    with pytest.raises(BadOption, match="logits"):
        token_loss(Snapshot(nn.Sequential(net, nn.Flatten()), None, constant()))  # type: ignore[arg-type]
