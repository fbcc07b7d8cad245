"""In-context score: a model that learns from its context scores the closed form; one without memory scores zero."""

from math import log

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from strobe.core.errors import BadOption
from strobe.core.snapshot import Snapshot
from strobe.observables.in_context_score import in_context_score


class Repeater(nn.Module):
    """Knows a token with probability 1/2 (of 8) once the first half of the context is past."""

    def __init__(self) -> None:
        super().__init__()
        self.bump = nn.Parameter(torch.tensor(log(7.0)))

    def forward(self, x: Tensor) -> Tensor:
        late = (torch.arange(x.shape[1]) >= x.shape[1] // 2).float()[:, None]
        return nn.functional.one_hot(x, 8) * self.bump * late


def test_the_score_is_the_difference_of_two_known_losses() -> None:
    data = torch.arange(8).repeat(2)[:, None].expand(16, 33).contiguous()
    got = in_context_score(_snap(Repeater(), data))
    assert got.value == pytest.approx(log(2) - log(8), rel=1e-5)
    assert got.how["early"] == [3, 5]
    assert got.how["late"] == [30, 32]
    long = torch.zeros(2, 513, dtype=torch.long)  # Olsson et al.: the 500th token less the 50th
    assert in_context_score(_snap(Repeater(), long), early=(49, 50), late=(499, 500)).value == pytest.approx(
        -log(4), rel=1e-5
    )


def test_a_model_without_memory_scores_zero_within_its_error_and_the_error_is_honest() -> None:
    torch.manual_seed(0)
    net = nn.Embedding(8, 8)
    draws = [torch.randint(8, (64, 33), generator=torch.Generator().manual_seed(s)) for s in range(40)]
    got = [in_context_score(_snap(net, d)) for d in draws]
    spread, said = np.std([r.value for r in got], ddof=1), np.mean([r.err for r in got])
    assert said / 1.5 < spread < 1.5 * said
    assert abs(np.mean([r.value for r in got])) < 2 * said


def test_bands_outside_the_context_or_out_of_order_are_refused() -> None:
    data = torch.zeros(4, 9, dtype=torch.long)
    for bad in ({"early": (0, 20)}, {"late": (5, 5)}, {"early": (4, 8), "late": (2, 4)}, {"late": (-1, 3)}):
        with pytest.raises(BadOption):
            in_context_score(_snap(nn.Embedding(8, 8), data), **bad)  # type: ignore[arg-type]


def _snap(net: nn.Module, data: Tensor) -> Snapshot:
    return Snapshot(net, None, data)  # type: ignore[arg-type]
