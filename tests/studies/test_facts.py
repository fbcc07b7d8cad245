"""At "tiny" no network has learned its facts: what is tested is that the measures are right, on a network that was built to know them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from strobe.core.report import Report
from strobe.core.system import System
from strobe.studies.facts import _edits, facts
from strobe.studies.facts_desk import Desk, edited, readable, related
from strobe.studies.facts_rewritten import KEPT, NAMESAKES, OTHER, SAID, Editor, many_blocks, one_weight
from strobe.systems.relations import recall, relations


class Block(nn.Module):
    def __init__(self, keys: int, d: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.Identity(), nn.Identity()])
        self.mlp = nn.ModuleDict({"down": nn.Linear(keys, d, bias=False)})
        nn.init.zeros_(self.mlp["down"].weight)

    def forward(self, x: Tensor, key: Tensor) -> Tensor:
        return self.norms[1](self.norms[0](x)) + self.mlp["down"](key)


class Knows(nn.Module):
    """Each pair of names is a key of its own; block 0 writes its attributes at the last name, the last token takes the one asked for."""

    def __init__(self, world: System) -> None:
        super().__init__()
        f, self.at = world.facts, world.facts["subject"]
        pairs, (_, k) = len(f["first"]), f["attribute"].shape
        self.key = torch.zeros(int(f["fillers"].max()) + 1, int(f["fillers"].max()) + 1, pairs)
        self.key[f["first"], f["last"]] = torch.eye(pairs)
        self.seen = torch.zeros(int(f["fillers"].max()) + 1, 3 * k)
        for r in range(3):
            self.seen[f["relation"][r], r * k : (r + 1) * k] = 1
        self.blocks = nn.ModuleList(Block(pairs, 3 * k) for _ in range(4))
        self.unembed = nn.Linear(3 * k, int(f["fillers"].max()) + 1, bias=False)
        with torch.no_grad():
            self.unembed.weight.zero_()
            self.unembed.weight[f["attribute"].flatten()] = 5 * torch.eye(3 * k)
            for r in range(3):
                self.blocks[0].mlp["down"].weight[r * k + f["answers"][r], torch.arange(pairs)] = 1.0

    def forward(self, tokens: Tensor) -> Tensor:
        key = torch.zeros(*tokens.shape, self.key.shape[-1])
        key[:, self.at] = self.key[tokens[:, self.at - 1], tokens[:, self.at]]
        x = torch.zeros(*tokens.shape, self.seen.shape[1])
        for block in self.blocks[:3]:
            x = block(x, key)
        if tokens.shape[1] > self.at + 1:
            x = torch.cat([x[:, :-1], (x[:, self.at] * self.seen[tokens[:, -1]])[:, None]], 1)
        return self.unembed(self.blocks[3](x, 0 * key))


@pytest.fixture(scope="module")
def desk() -> Desk:
    world = relations(names=8, pairs=60, attributes=3, context=5, d_model=16, heads=2)
    return Desk.of(world, Knows(world).eval(), 5, 0)


def test_a_network_that_knows_is_read_from_the_block_that_writes_and_its_relation_is_affine(desk: Desk) -> None:
    assert recall(desk.world, desk.model) == [1.0, 1.0, 1.0]
    hits = readable(desk, [desk.answers(2), desk.answers(1)], 4)
    assert {k: np.concatenate(v[0]).mean() > 0.99 for k, v in hits.items()} == {
        "embedding": False, "attention 0": False, **dict.fromkeys([f"{w} {i}" for i in (1, 2, 3) for w in ("attention", "MLP")], True),
        "MLP 0": True,
    }  # fmt: skip
    for r in range(3):
        got = related(desk, "blocks.1", "blocks.3", r, examples=6, rank=3)
        assert {k: float(np.concatenate(v).mean()) for k, v in got.items()} == {"LRE": 1.0, "LRC": 1.0, "swap": 1.0}
    assert sum(len(v) for v in got["LRE"]) == 60  # each subject is held out once
    lost = Desk(desk.world, desk.world.build(0).eval(), desk.fold, 0)
    assert np.concatenate(related(lost, "blocks.1", "blocks.3", 2, examples=6, rank=3)["LRE"]).mean() < 0.8


def test_learned_vectors_and_twice_the_means_change_it_and_random_ones_do_not(desk: Desk) -> None:
    got = {k: float(np.concatenate(v).mean()) for k, v in edited(desk, "blocks.1", steps=60).items()}
    assert got["learned"] > 0.95
    assert got["means x2"] > 0.95
    assert got["random"] < 0.7
    assert got["learned, kept"] > 0.95


def test_a_key_of_its_own_is_rewritten_at_no_price_and_the_weight_is_put_back(desk: Desk) -> None:
    bits = {k: v.clone() for k, v in desk.model.state_dict().items()}
    editor = Editor(desk, 5, 80)
    found, worst = one_weight(editor, 0)
    assert worst < 1e-12
    for form in found.values():
        assert {m: float(np.nanmean(v)) for m, v in form.items()} == {SAID: 1.0, KEPT: 1.0, NAMESAKES: 1.0, OTHER: 1.0}
    write = many_blocks(editor, [0, 1])
    assert write(torch.arange(5)) == {SAID: 1.0, KEPT: 1.0, NAMESAKES: 1.0, OTHER: 1.0}
    nothing = editor.judged(torch.tensor([0]), [])
    assert (nothing[SAID], nothing[KEPT], nothing[OTHER]) == (0.0, 1.0, 1.0)
    layer = "blocks.0.mlp.down"
    ruin = editor.judged(torch.tensor([0]), [(layer, torch.full((9,), 50.0) * torch.arange(9), torch.ones(60))])
    assert ruin[KEPT] < 0.6  # what is broken is seen
    assert all(torch.equal(v, bits[k]) for k, v in desk.model.state_dict().items())


def test_it_says_what_was_not_learned(tiny: Callable[[Any], Report]) -> None:
    report = tiny(facts)
    words = {v.predicted.of: v.word for v in report.verdicts}
    assert words["C15 largest relative error at the key, in double"] == "holds"
    assert words["C9 attribute of the last name read at its embedding"] in ("holds", "undecided")
    assert (
        words["C8 share given by learned vectors − 1.5 × that of class means (x1 or x2, the better), block 0"]
        != "holds"
    )
    assert {r["after"] for r in report.tables["probes"]} >= {"embedding", "attention 0", "MLP 3"}
    assert {r["written"] for r in report.tables["rewritten"]} >= {
        "block 0, covariance",
        "block 0, blind",
        "blocks 0 and 1, all at once",
    }


def test_errors_over_edits_and_networks() -> None:
    assert _edits([np.array([0.0, 1.0, np.nan, 1.0, 0.0])]).err == pytest.approx(1 / 12**0.5)
    assert _edits([np.zeros(50), np.ones(50)]).err == pytest.approx(0.5)
