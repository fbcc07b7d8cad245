"""Every sentence says what the facts say."""

import pytest
import torch

from strobe.core.errors import BadOption
from strobe.systems.relations import relations


def test_sentences_are_the_facts_and_batches_are_pure() -> None:
    world = relations(names=6, pairs=20)
    f, x = world.facts, world.batch(3, 7)
    assert x.equal(world.batch(3, 7))
    assert not x.equal(world.batch(3, 8))
    for s in x:
        at = f["subject"]
        i = int(((f["first"] == s[at - 1]) & (f["last"] == s[at])).nonzero())
        r = int((f["relation"] == s[at + 1]).nonzero())
        assert s[-1] == f["attribute"][f["answers"][r, i]]
    for r, key in enumerate(("first", "last")):
        for n in f[key].unique():
            assert len(f["answers"][r][f[key] == n].unique()) == 1
    assert any(len(f["answers"][2][f["first"] == n].unique()) > 1 for n in f["first"].unique())
    assert torch.isfinite(world.loss(world.build(0), x))


def test_more_pairs_than_there_are() -> None:
    with pytest.raises(BadOption, match="pairs"):
        relations(names=3, pairs=10)
