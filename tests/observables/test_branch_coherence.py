import copy

import numpy as np
import pytest
import torch
from torch import nn

from strobe.core.errors import BadOption
from strobe.core.snapshot import Snapshot
from strobe.observables.branch_coherence import branch_coherence


class Stack(nn.Module):
    def __init__(self, depth: int, width: int = 32) -> None:
        super().__init__()
        self.down = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return sum((b(h) for b in self.down), h)


def loss(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return model(x).square().mean()


def made(depth: int) -> tuple[Stack, Snapshot, list[str]]:
    torch.manual_seed(depth)
    model = Stack(depth)
    return model, Snapshot(model, loss, torch.randn(400, 32)), [f"down.{i}" for i in range(depth)]


@pytest.mark.parametrize("depth", [4, 16])
def test_random_branches_are_orthogonal_and_what_is_added_to_all_alike_is_one_vector(depth: int) -> None:
    model, snap, sites = made(depth)
    start = copy.deepcopy(dict(model.named_parameters()))
    random = branch_coherence(snap, branches=sites)
    assert abs(random.value[0] - 1) < 0.2
    assert abs(random.value[1]) < 0.1
    push = 0.1 * torch.randn(32, 32)
    with torch.no_grad():
        for b in model.down:
            b.weight += push
    learned = branch_coherence(snap, branches=sites, start=start)
    assert learned.value[:2] == pytest.approx([depth, 1.0], rel=1e-4)
    typical = depth * float((snap.data @ push.T).square().mean().sqrt())
    assert learned.value[2] == pytest.approx(typical, rel=1e-2)
    assert all(torch.equal(p, start[n] + push) for n, p in model.named_parameters())


def test_its_error_is_the_spread_over_data() -> None:
    model, _, sites = made(6)
    found = [branch_coherence(Snapshot(model, loss, torch.randn(200, 32)), branches=sites) for _ in range(60)]
    spread = np.std([r.value for r in found], axis=0, ddof=1)
    claimed = np.mean([r.err for r in found], axis=0)
    assert ((claimed / spread > 0.6) & (claimed / spread < 1.6)).all()


def test_what_is_no_stack_of_branches_is_refused() -> None:
    model, snap, sites = made(3)
    for bad, said in (
        ({"branches": ["down.0"]}, "at least two"),
        ({"branches": ["down.0:param.weight", "down.1"]}, "is a parameter"),
        ({"branches": sites, "start": {}}, "start has no"),
    ):
        with pytest.raises(BadOption, match=said):
            branch_coherence(snap, **bad)  # type: ignore[arg-type]
    with pytest.raises(BadOption, match="rows"):
        branch_coherence(Snapshot(model, loss, torch.randn(8, 32)), branches=sites)
