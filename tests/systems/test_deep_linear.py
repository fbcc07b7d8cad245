"""Deep linear world: the loss is the matrix loss, the start is balanced, and bad knobs are refused."""

import pytest
import torch

from strobe.core.errors import BadOption
from strobe.systems.deep_linear import deep_linear


def test_the_loss_is_half_the_squared_distance_of_the_matrices() -> None:
    world = deep_linear(depth=3, start=0.3)
    model = world.build(1)
    product = torch.linalg.multi_dot([w.detach() for w in reversed(list(model.parameters()))])
    teacher = world.facts["left"] @ torch.diag(torch.tensor(world.facts["singular_values"])) @ world.facts["right"].T
    by_hand = (teacher - product).square().sum() / 2
    assert world.loss(model, world.batch(0, 0)).item() == pytest.approx(by_hand.item(), rel=1e-5)
    ids, losses = world.example_loss(model, world.batch(0, 0))  # type: ignore[misc]
    assert len(ids) == 8
    assert losses.sum().item() == pytest.approx(by_hand.item(), rel=1e-5)


def test_a_balanced_start_is_balanced_and_aligned_and_an_imbalance_is_not() -> None:
    for imbalance, balanced in ((1.0, True), (2.0, False)):
        world = deep_linear(start=0.25, imbalance=imbalance)
        first, second = (p.detach() for p in world.build(0).parameters())
        gap = (first @ first.T - second.T @ second).norm()
        assert bool(gap < 1e-5) is balanced
        modes = world.facts["left"].T @ second @ first @ world.facts["right"]
        assert torch.allclose(modes, 0.25 * torch.eye(4), atol=1e-6)


def test_it_rebuilds_from_its_knobs_and_seeds_differ() -> None:
    world = deep_linear(init="random", depth=3)
    again = deep_linear(**world.knobs)
    for a, b in zip(world.build(3).parameters(), again.build(3).parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(next(world.build(3).parameters()), next(world.build(4).parameters()))


def test_bad_knobs_are_refused() -> None:
    for bad in (
        {"depth": 1}, {"singular_values": ()}, {"singular_values": (1.0, 1.0)}, {"init": "?"}, {"start": 0.0},
        {"init": "random", "imbalance": 2.0}, {"singular_values": tuple(range(1, 10))},
    ):  # fmt: skip
        with pytest.raises(BadOption):
            deep_linear(**bad)  # type: ignore[arg-type]
