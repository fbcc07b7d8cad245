"""Digits: a fixed split, known flips, pure batches; the mean loss of a training example betrays a wrong label."""

import numpy as np
import pytest
import torch

from strobe.core.errors import BadOption

pytest.importorskip("sklearn")
from strobe.systems.digits import digits


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """P(score of a positive > score of a negative), by ranks (Mann and Whitney 1947); no ties here."""
    ranks = np.empty(len(scores))
    ranks[scores.argsort()] = np.arange(1, len(scores) + 1)
    n = positive.sum()
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (~positive).sum()))


def test_the_mean_loss_finds_the_flipped_labels() -> None:
    # shared/specs/attrib.md, data debugging: the mean loss over training ranks wrong labels first
    world = digits()
    model, total, seen = world.build(0), np.zeros(1797), np.zeros(1797)
    optimizer = world.optimizer(model, world.lr)
    for step in range(800):
        ids, losses = world.example_loss(model, world.batch(0, step))  # type: ignore[misc]
        np.add.at(total, ids.numpy(), losses.detach().numpy())
        np.add.at(seen, ids.numpy(), 1)
        optimizer.zero_grad()
        losses.mean().backward()
        optimizer.step()
    drawn = np.flatnonzero(seen)
    wrong = np.isin(drawn, world.facts["flipped"])
    assert auc(total[drawn] / seen[drawn], wrong) > 0.99
    images, labels, _ = world.probe(0)
    assert float((model(images).argmax(1) == labels).float().mean()) > 0.93


def test_the_split_is_fixed_and_only_training_labels_are_flipped() -> None:
    world, clean = digits(flipped=0.1), digits(flipped=0.0)
    held = set(world.probe(0)[2].tolist())
    assert torch.equal(world.probe(0)[2], world.probe(5)[2])
    assert len(held) == world.facts["probe_rows"]
    wrong = set(world.facts["flipped"])
    assert len(wrong) == round(0.1 * world.facts["train_rows"])
    assert not wrong & held
    assert clean.facts["flipped"] == []
    changed = set()
    for step in range(60):
        images, labels, ids = world.batch(0, step)
        same_images, truth, same_ids = clean.batch(0, step)
        assert torch.equal(ids, same_ids)
        assert torch.equal(images, same_images)
        changed |= set(ids[labels != truth].tolist())
        assert not set(ids.tolist()) & held
        assert all(int(i) in wrong for i in ids[labels != truth])
    assert len(changed) > 0.8 * len(wrong)
    assert images.shape[1:] == world.facts["image"]
    assert 0 <= float(images.min()) < float(images.max()) == 1
    assert digits(flipped=0.1, split_seed=1).facts["flipped"] != world.facts["flipped"]


def test_batches_are_pure_and_the_untrained_loss_is_near_chance() -> None:
    world = digits(layers=0)
    assert all(torch.equal(a, b) for a, b in zip(world.batch(3, 9), world.batch(3, 9), strict=True))
    assert not torch.equal(world.batch(3, 9)[2], world.batch(4, 9)[2])
    model = world.build(0)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    assert world.loss(model, world.probe(0)).item() == pytest.approx(world.facts["chance"])


def test_bad_knobs_are_refused() -> None:
    for bad in ({"flipped": 1.0}, {"width": 0}, {"layers": -1}, {"batch": 0}, {"train_fraction": 1.0}, {"lr": 0.0}):
        with pytest.raises(BadOption):
            digits(**bad)  # type: ignore[arg-type]
