"""What the study of facts measures when a fact is written into one weight: does the model say it, and what else does it say differently?"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor

from strobe.core.site import Site
from strobe.core.tap import patch
from strobe.edits.rewrite import add_outer, key_covariance, rank_one, rewriting, spread
from strobe.features.attribute_edit import attribute_edits
from strobe.features.questions import Questions
from strobe.studies.facts_desk import LOOKED_UP, Desk

SAID, KEPT, NAMESAKES, OTHER = "efficacy", "others kept", "same last name kept", "other relations kept"
PREFIXES = 8  # that a value is learned on, and as many others that it is tested on
Change = tuple[str, Tensor, Tensor]  # site, left, right


class Editor:
    """New answers to the looked-up relation for some subjects, and everything that one write of one of them is judged by."""

    def __init__(self, desk: Desk, edits: int, steps: int) -> None:
        self.desk, self.steps = desk, steps
        rng = np.random.default_rng((desk.seed, 59))
        self.who = torch.from_numpy(rng.permutation(len(desk.fold))[:edits])
        y, words = desk.answers(LOOKED_UP), desk.words(LOOKED_UP)
        self.word = words[
            (y[self.who] + torch.from_numpy(1 + rng.integers(len(words) - 1, size=len(self.who)))) % len(words)
        ]
        self.own = torch.arange(len(self.who)).repeat_interleave(PREFIXES)
        self.told, self.fresh = (desk.ask(self.who[self.own], LOOKED_UP, seed=s) for s in (3, 4))
        self.all_ = [desk.ask(desk.everyone, r, seed=5) for r in range(3)]
        self.before = torch.stack([q.answered().argmax(1) for q in self.all_])

    def values(self, site: str) -> Tensor:
        """(edits, d): what, added at the site at the subject, makes the model say the new word."""
        return attribute_edits(self.told, site, self.word, own=self.own, steps=self.steps, seed=self.desk.seed).vectors

    def mean(self, site: str) -> Tensor:
        """(edits, d): what a site carries at each subject, over the prefixes."""
        return self.told.read(site).double().unflatten(0, (len(self.who), PREFIXES)).mean(1)

    def covariance(self, layer: str) -> Tensor:
        return key_covariance(self.desk.model, layer, torch.cat([q.inputs for q in self.all_]), batch=512)

    def judged(self, which: Tensor, changes: list[Change]) -> dict[str, float]:
        """Efficacy on prefixes not learned on, and shares of answers that stay, after the changes for these subjects are written."""
        names, who = self.desk.world.facts["last"], self.who[which]
        with written(self.desk, changes):
            said = self._fresh(which).answered().argmax(1)
            kept = (self.all_[LOOKED_UP].answered().argmax(1) == self.before[LOOKED_UP]).double()
            others = [
                self.all_[r].part(who).answered().argmax(1) == self.before[r, who] for r in range(3) if r != LOOKED_UP
            ]
        mine = torch.isin(self.desk.everyone, who)
        same = torch.isin(names, names[who]) & ~mine
        wanted = self.word[which].repeat_interleave(PREFIXES)
        return {SAID: float((said == wanted).double().mean()), KEPT: float(kept[~mine].mean()),
                NAMESAKES: float(kept[same].mean()) if bool(same.any()) else float("nan"),
                OTHER: float(torch.stack(others).double().mean())}  # fmt: skip

    def _fresh(self, which: Tensor) -> Questions:
        return self.fresh.part(torch.cat([torch.nonzero(self.own == i)[:, 0] for i in which]))


def one_weight(editor: Editor, block: int) -> tuple[dict[str, dict[str, np.ndarray]], float]:
    """(by form and measure, one number an edit; the largest relative error at the keys in double) of rank-one writes, one at a time."""
    layer = f"blocks.{block}.mlp.down"
    keys, extra, C = editor.mean(f"{layer}:in"), editor.values(layer), editor.covariance(layer)
    W = _weight(editor.desk, layer)
    values = keys @ W.T + extra.double()
    rows: dict[str, list[dict[str, float]]] = {"covariance": [], "blind": []}
    worst = 0.0
    for i in range(len(keys)):
        for form, cov in (("covariance", C), ("blind", None)):
            left, right = rank_one(W, keys[i], values[i], cov)
            got = (W + torch.outer(left, right)) @ keys[i]
            worst = max(worst, float((got - values[i]).norm() / values[i].norm()))
            rows[form].append(editor.judged(torch.tensor([i]), [(layer, left, right)]))
    return {form: {m: np.array([r[m] for r in got]) for m in got[0]} for form, got in rows.items()}, worst


def many_blocks(editor: Editor, blocks: list[int]) -> Callable[[Tensor], dict[str, float]]:
    """A function that writes these subjects over the blocks, each block its share of what is left at the last, and judges.

    What is wanted is a vector learned after the last block; blocks are written in order, keys read anew after each.
    """
    end = f"blocks.{blocks[-1]}"
    wanted = editor.mean(end) + editor.values(end).double()
    covariances = {b: editor.covariance(f"blocks.{b}.mlp.down") for b in blocks}

    def write(which: Tensor) -> dict[str, float]:
        changes: list[Change] = []
        for left_over, b in zip(range(len(blocks), 0, -1), blocks, strict=True):
            layer = f"blocks.{b}.mlp.down"
            with written(editor.desk, changes):
                keys, rest = editor.mean(f"{layer}:in")[which], (wanted - editor.mean(end))[which] / left_over
            W = _weight(editor.desk, layer)
            right, left = spread(W, keys, keys @ W.T + rest, covariances[b], exact=True)
            changes.append((layer, left, right))
        return editor.judged(which, changes)

    return write


@contextmanager
def written(desk: Desk, changes: list[Change]) -> Iterator[None]:
    """The changes in the weights, as plain edits, and out again."""
    with ExitStack() as stack:
        for layer, left, right in changes:
            for u, v in zip(left.reshape(len(left), -1).T, right.reshape(-1, right.shape[-1]), strict=True):
                plain = rewriting(f"{layer}:param.weight", u, v)
                stack.enter_context(patch(desk.model, {plain["site"]: add_outer(**plain["kwargs"])}))
        yield


def _weight(desk: Desk, layer: str) -> Tensor:
    return Site.parse(f"{layer}:param.weight").parameter(desk.model).detach().double()
