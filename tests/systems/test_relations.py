"""Every sentence says what the facts say."""

import pytest
import torch

from strobe.core.errors import BadOption
from strobe.systems.relations import asked, recall, relations


def test_sentences_are_the_facts_and_batches_are_pure() -> None:
    world = relations(names=6, pairs=20)
    f, x = world.facts, world.batch(3, 7)
    assert x.equal(world.batch(3, 7))
    assert not x.equal(world.batch(3, 8))
    for s in x:
        at = f["subject"]
        i = int(((f["first"] == s[at - 1]) & (f["last"] == s[at])).nonzero())
        r = int((f["relation"] == s[at + 1]).nonzero())
        assert s[-1] == f["attribute"][r, f["answers"][r, i]]
    for r, key in enumerate(("first", "last")):
        for n in f[key].unique():
            assert len(f["answers"][r][f[key] == n].unique()) == 1
    assert any(len(f["answers"][2][f["first"] == n].unique()) > 1 for n in f["first"].unique())
    assert torch.isfinite(world.loss(world.build(0), x))


def test_what_is_asked_is_what_is_told_and_a_trained_network_recalls_it() -> None:
    world = relations(
        names=5, pairs=12, attributes=4, context=5, d_model=32, heads=2, layers=2, batch=32, steps=150, lr=5e-3
    )
    f, who = world.facts, torch.tensor([3, 0])
    x = asked(world, who, 2, 5)
    assert x.equal(asked(world, who, 2, 5))
    assert x[:, f["subject"] - 1 :].tolist() == [
        [int(f["first"][i]), int(f["last"][i]), int(f["relation"][2])] for i in who
    ]
    assert bool(torch.isin(x[:, : f["subject"] - 1], f["fillers"]).all())
    model = world.build(0)
    assert max(recall(world, model)) < 0.6
    optimizer = world.optimizer(model, world.lr)
    for step in range(150):
        optimizer.param_groups[0]["lr"] = world.lr * world.schedule(step)
        optimizer.zero_grad()
        world.loss(model, world.batch(0, step)).backward()
        optimizer.step()
    assert recall(world, model) == [1.0, 1.0, 1.0]


def test_filler_of_many_lengths_leaves_the_same_sentences() -> None:
    plain, varied = relations(names=6, pairs=20), relations(names=6, pairs=20, vary=True)
    seen = set()
    for step in range(40):
        x, y = plain.batch(1, step), varied.batch(1, step)
        assert y.equal(x[:, -y.shape[1] :])
        seen.add(y.shape[1] - 4)
    assert seen == {1, 2, 3, 4, 5}


def test_more_pairs_than_there_are() -> None:
    with pytest.raises(BadOption, match="pairs"):
        relations(names=3, pairs=10)
