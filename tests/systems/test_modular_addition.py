"""Modular addition: it memorises, then generalises (grokking); on half a label-shuffled table it does not."""

import pytest
import torch

from strobe.core.errors import BadOption
from strobe.core.system import System
from strobe.systems.modular_addition import modular_addition


def accuracy_over(world: System, steps: int, labels: torch.Tensor | None = None) -> dict[str, list[float]]:
    model = world.build(0)
    opt = world.optimizer(model, world.lr)
    train, probe = world.batch(0, 0).clone(), world.probe(0)
    if labels is not None:
        train[:, 2] = labels
    seen: dict[str, list[float]] = {"train": [], "probe": []}
    for step in range(steps):
        if step % 25 == 0:
            for name, rows in (("train", train), ("probe", probe)):
                seen[name].append(float((model(rows).argmax(-1) == rows[:, 2]).float().mean()))
        opt.zero_grad()
        world.loss(model, train).backward()
        opt.step()
    return seen


def test_it_groks() -> None:
    # Power et al., arXiv:2201.02177: memorised long before it generalises; here about step 125, then about 575
    seen = accuracy_over(modular_addition(), 900)
    memorised = next(i for i, a in enumerate(seen["train"]) if a > 0.99)
    assert seen["probe"][memorised] < 0.5
    assert seen["probe"][-1] > 0.98
    assert next(i for i, a in enumerate(seen["probe"]) if a > 0.98) > 2 * memorised


def test_a_table_without_a_rule_is_memorised_and_nothing_more() -> None:
    world = modular_addition()
    shuffled = torch.randint(53, (world.facts["train_rows"],), generator=torch.Generator().manual_seed(0))
    seen = accuracy_over(world, 300, shuffled)
    assert max(seen["train"]) > 0.9
    assert max(seen["probe"]) < 0.1


def test_halves_are_disjoint_batches_are_pure_and_ids_name_rows() -> None:
    world = modular_addition(p=11, batch=16)
    ids = {int(i) for i in world.example_loss(world.build(0), world.batch(0, 5))[0]}  # type: ignore[misc]
    held = {int(a * 11 + b) for a, b, _ in world.probe(0)}
    assert not ids & held
    assert torch.equal(world.batch(3, 9), world.batch(3, 9))
    assert not torch.equal(world.batch(3, 9), world.batch(3, 10))
    again = modular_addition(**world.knobs)
    assert torch.equal(again.build(2).unembed.weight, world.build(2).unembed.weight)
    start = modular_addition(init_scale=0.01)
    assert float(start.loss(start.build(0), start.probe(0)).detach()) == pytest.approx(start.facts["chance"], abs=1e-2)


def test_bad_knobs_are_refused() -> None:
    for bad in ({"p": 2}, {"train_fraction": 1.0}, {"activation": "tanh"}, {"batch": -1}, {"lr": 0.0}):
        with pytest.raises(BadOption):
            modular_addition(**bad)  # type: ignore[arg-type]
