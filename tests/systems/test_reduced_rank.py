"""Reduced rank regression: its descent ends at the maximum a posteriori, its truth has the rank and loss it says."""

import pytest
import torch

from strobe.core.errors import BadOption
from strobe.core.snapshot import Snapshot
from strobe.systems.reduced_rank import reduced_rank


def test_descent_ends_where_the_posterior_is_largest() -> None:
    """There −∂(n L) = precision w; and the product of factors of least norm is the least squares fit, shrunk and cut in rank."""
    world = reduced_rank(samples=200)
    model = world.build(0)
    optimizer = world.optimizer(model, world.lr)
    for step in range(3000):
        optimizer.zero_grad()
        world.loss(model, world.batch(0, step)).backward()
        optimizer.step()
    for p in model.parameters():
        assert p.grad is not None
        assert float((200 * p.grad + p.detach()).abs().max()) < 1e-2
    W = (model[1].weight @ model[0].weight).detach()  # type: ignore[index]
    assert torch.linalg.svdvals(W)[2] < 1e-6
    assert float((W - world.facts["truth"]).abs().max()) < 0.3


def test_the_truth_leaves_the_noise_and_is_degenerate() -> None:
    world = reduced_rank()
    model = world.build(0)
    with torch.no_grad():
        model[0].weight.zero_()[0, 0] = 1.0  # type: ignore[index]
        model[1].weight.zero_()[0, 0] = 2.0  # type: ignore[index]
    snap = Snapshot(model, world.loss, world.probe(0))
    assert float(snap.loss_at(snap.params())) == pytest.approx(world.facts["floor_population"], rel=0.05)
    clean = (world.probe(0)[0], world.probe(0)[0] @ world.facts["truth"].T)
    with Snapshot(model, world.loss, clean).hvp_operator() as hvp:
        eigen = torch.linalg.eigvalsh(torch.stack([hvp(e) for e in torch.eye(12)]))
    assert (eigen > 1e-4).sum() == 5  # the dimension of matrices of rank 1; half of it is not λ = 3.5
    assert eigen.abs().min() < 1e-5


@pytest.mark.parametrize("bad", [{"rank": 3}, {"samples": 0}, {"strength": 0.0}, {"precision": -1.0}])
def test_bad_knobs_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(BadOption):
        reduced_rank(**bad)  # type: ignore[arg-type]
