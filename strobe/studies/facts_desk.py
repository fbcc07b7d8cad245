"""What the study of facts measures on one network: where an attribute can be read, whether an affine map finds it, what puts one there."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from strobe.core.capture import capture
from strobe.core.system import System
from strobe.features.attribute_edit import attribute_edits
from strobe.features.linear_relation import best, fit_beta, linear_relation
from strobe.features.questions import Questions
from strobe.numerics.probes import ridge_path
from strobe.systems.relations import asked

LOOKED_UP = 2  # the relation that the pair of names tells, and neither alone
PENALTY = 1e-3  # of the ridge probes, on standardised features
Hits = list[np.ndarray]  # of each fold, one number a held-out subject


@dataclass(frozen=True, eq=False)
class Desk:
    """One network and its subjects, dealt into folds: what is fitted, is fitted on the others."""

    world: System
    model: nn.Module
    fold: Tensor
    seed: int

    @classmethod
    def of(cls, world: System, model: nn.Module, folds: int, seed: int) -> "Desk":
        n = len(world.facts["first"])
        deal = np.random.default_rng((seed, 53)).permutation(n) % folds
        return cls(world, model, torch.from_numpy(deal), seed)

    @property
    def everyone(self) -> Tensor:
        return torch.arange(len(self.fold))

    def splits(self) -> list[tuple[Tensor, Tensor]]:
        """(fitted on, held out) of each fold."""
        return [(self.everyone[self.fold != f], self.everyone[self.fold == f]) for f in self.fold.unique()]

    def ask(self, subjects: Tensor, relation: int, seed: int = 0) -> Questions:
        text = asked(self.world, subjects, relation, 1000 * self.seed + seed)
        return Questions(self.model, text, subject=self.world.facts["subject"])

    def words(self, relation: int) -> Tensor:
        """The tokens of a relation's attributes."""
        found: Tensor = self.world.facts["attribute"][relation]
        return found

    def answers(self, relation: int) -> Tensor:
        """The attribute of each subject, as a number."""
        found: Tensor = self.world.facts["answers"][relation]
        return found


def places(layers: int) -> dict[str, str]:
    """Sites along the residual stream by what they are after."""
    found = {"embedding": "blocks.0:in"}
    for i in range(layers):
        found |= {f"attention {i}": f"blocks.{i}.norms.1:in", f"MLP {i}": f"blocks.{i}"}
    return found


def readable(desk: Desk, labels: Sequence[Tensor], layers: int) -> dict[str, list[Hits]]:
    """By place and labelling: is the attribute read from the last name, by ridge, of subjects that the probe has not seen?"""
    text = desk.ask(desk.everyone, 0).inputs[:, :-1]  # up to the last name
    acts = capture(desk.model, text, list(places(layers).values()), positions=-1, batch=512)
    found = {}
    for name, site in places(layers).items():
        found[name] = [[_probed(acts[site].double(), y, *split) for split in desk.splits()] for y in labels]
    return found


def _probed(Z: Tensor, y: Tensor, train: Tensor, hold: Tensor) -> np.ndarray:
    Z = (Z - Z[train].mean(0)) / (Z[train].std(0) + 1e-6)
    signs = 2 * one_hot(y, int(y.max()) + 1).double().T - 1
    v = ridge_path(Z[train], signs[:, train], [PENALTY])[0]
    said = (Z[hold] @ v.T + signs[:, train].mean(1)).argmax(1)  # the rows fitted on have mean 0
    return _right(said, y[hold])


def related(desk: Desk, source: str, target: str, relation: int, *, examples: int, rank: int) -> dict[str, Hits]:
    """LRE, LRC and the causal swap of one relation, on held-out subjects.

    W and b from `examples` subjects, beta from twice as many others, mean objects from all that are not held out; the swap asks for the
    attribute three further on.
    """
    y, words = desk.answers(relation), desk.words(relation)
    found: dict[str, Hits] = {"LRE": [], "LRC": [], "swap": []}
    asked_all = desk.ask(desk.everyone, relation)
    objects = asked_all.read(target, asked_all.answer)
    for train, hold in desk.splits():
        order = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(desk.seed))]
        first, rest, q = order[:examples], order[examples : 3 * examples], asked_all.part(hold)
        map_ = linear_relation(asked_all.part(first), source, target)
        map_, _ = fit_beta(map_, asked_all.part(rest), words[y[rest]], among=words)
        means = torch.stack([_mean(objects, train[y[train] == a]) for a in range(len(words))])
        r = min(rank, int((map_.sigma > 1e-6 * map_.sigma[0]).sum()))
        other = (y[hold] + 3) % len(words)
        found["LRE"].append(_right(best(map_.answered(q), words), words[y[hold]]))
        found["LRC"].append(_right((q.read(source).double() @ map_.concepts(means, r).T).argmax(1), y[hold]))
        found["swap"].append(_right(best(map_.swapped(q, means[other], r), words), words[other]))
    return found


def edited(desk: Desk, site: str, *, steps: int, prefixes: int = 4) -> dict[str, Hits]:
    """Learned attribute vectors of the looked-up relation, beside moving by class means, once and twice, and random vectors as long.

    Of each held-out subject: the share of all attributes that the model gives when pushed to each; "kept": of its answers to the other
    relations, pushed to the attribute three further on.
    """
    r, words, y = LOOKED_UP, desk.words(LOOKED_UP), desk.answers(LOOKED_UP)
    k = len(words)
    found: dict[str, Hits] = {}
    for f, (train, hold) in enumerate(desk.splits()):
        many = desk.ask(train.repeat(prefixes), r, seed=1)
        learned = attribute_edits(many, site, words, steps=steps, seed=desk.seed).vectors
        s = desk.ask(desk.everyone, r).read(site)
        means = torch.stack([_mean(s, train[y[train] == a]) for a in range(k)])
        gen = torch.Generator().manual_seed(1000 * desk.seed + f)
        noise = torch.randn(learned.shape, generator=gen)
        noise = noise * learned.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
        wish = torch.arange(k).repeat(len(hold), 1)  # of every held-out subject, every attribute
        push = {"learned": learned[wish], "random": noise[wish]}
        for times in (1, 2):
            push[f"means x{times}"] = times * (means[wish] - means[y[hold], None])
        for name, e in push.items():
            q = desk.ask(hold.repeat_interleave(k), r, seed=2)
            said = q.answered({site: (q.subject, e.flatten(0, 1).add)}).argmax(1)
            found.setdefault(name, []).append(_right(said, words[wish.flatten()]).reshape(-1, k).mean(1))
            one = e[torch.arange(len(hold)), (y[hold] + 3) % k]  # one of them, beside the other relations
            kept = [_right(q.answered({site: (q.subject, one.add)}).argmax(1), desk.words(o)[desk.answers(o)[hold]])
                    for o in range(3) if o != r for q in [desk.ask(hold, o, seed=2)]]  # fmt: skip
            found.setdefault(f"{name}, kept", []).append(np.mean(kept, 0))
        found.setdefault("length", []).append((learned.norm(dim=1) / s.norm(dim=1).mean()).double().numpy())
    return found


def _mean(x: Tensor, index: Tensor) -> Tensor:
    """Of the rows named; of all where there are none."""
    return x[index].mean(0) if len(index) else x.mean(0)


def _right(said: Tensor, wanted: Tensor) -> np.ndarray:
    return np.asarray((said == wanted).double().numpy())
