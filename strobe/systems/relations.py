"""Facts about names of two tokens: told by the first name, by the last, or only by the pair."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy as nats

from strobe.core.cards import system
from strobe.core.errors import BadOption
from strobe.core.system import System
from strobe.systems.decoder import Decoder, cosine


@system(what="Three relations of two-token names, one of them told by the pair alone", ref="arXiv:2308.09124")
def relations(
    *, names: int = 40, pairs: int = 320, attributes: int = 8, fillers: int = 16, context: int = 8, d_model: int = 96,
    heads: int = 4, layers: int = 4, batch: int = 128, lr: float = 2e-3, weight_decay: float = 0.01,
    steps: int = 1000, vary: bool = False, seed_facts: int = 0, probe_size: int = 512,
) -> System:  # fmt: skip
    """Cross-entropy, in nats, of the attribute after: filler tokens, first name, last name, relation.

    A batch is a LongTensor (batch, context + 1); the last token is the attribute, the only one with a loss. With `vary` each batch has 1 to
    context − 3 filler tokens, a number of its own, and is that much shorter: names are then known by what they are, not by where.
    Facts: `first`, `last` (pairs,) tokens, `answers` (3, pairs) attribute numbers, `relation` (3,) and `attribute` (3, attributes) tokens,
    `fillers`, `subject` the position of the last name, `sites` after each block. Relation 0 is a function of the first name, 1 of the last,
    2 random per pair: it has to be looked up. AdamW (0.9, 0.98); the rate rises over 50 steps and falls as a cosine to 5% at `steps`:
    the defaults recall every fact of all three after about 800 steps. Raises `BadOption`. Ref: Hernandez et al. 2023, arXiv:2308.09124.
    """
    if (
        min(names, attributes, fillers, batch, probe_size, heads, layers, steps) < 1
        or not 1 <= pairs <= names**2
        or context < 4
    ):
        raise BadOption(
            f"relations needs 1 <= pairs <= names², context >= 4 and counts >= 1, got {pairs}, {names}, {context}"
        )
    if d_model % heads or not lr > 0:
        raise BadOption(f"d_model is a multiple of heads and lr positive, got {d_model}, {heads} and {lr}")
    rng = np.random.default_rng((seed_facts, 91))
    who = rng.permutation(names**2)[:pairs]
    first, last = who // names, who % names
    by = rng.integers(attributes, size=(2, names))
    answers = np.stack([by[0][first], by[1][last], rng.integers(attributes, size=pairs)])
    relation = 2 * names + np.arange(3)
    attribute = relation[-1] + 1 + np.arange(3 * attributes).reshape(3, attributes)
    filler = attribute[-1, -1] + 1 + np.arange(fillers)

    def draw(rng: np.random.Generator, count: int) -> Tensor:
        i, r = rng.integers(pairs, size=count), rng.integers(3, size=count)
        told = np.stack([first[i], names + last[i], relation[r], attribute[r, answers[r, i]]], 1)
        return torch.from_numpy(np.concatenate([rng.choice(filler, (count, context - 3)), told], 1))

    def batch_at(seed: int, step: int) -> Tensor:
        rng = np.random.default_rng((seed, step))
        x = draw(rng, batch)
        return x[:, int(rng.integers(context - 3)) :] if vary else x

    def build(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Decoder(int(filler[-1]) + 1, context, d_model, heads, layers)

    return System(
        name="relations",
        path="strobe.systems.relations:relations",
        knobs={
            "names": names, "pairs": pairs, "attributes": attributes, "fillers": fillers, "context": context, "d_model": d_model,
            "heads": heads, "layers": layers, "batch": batch, "lr": lr, "weight_decay": weight_decay, "steps": steps, "vary": vary,
            "seed_facts": seed_facts, "probe_size": probe_size,
        },
        build=build,
        batch=batch_at,
        loss=lambda model, x: nats(model(x[:, :-1])[:, -1], x[:, -1]),
        probe=lambda seed: draw(np.random.default_rng((seed, 2**31)), probe_size),
        optimizer=lambda model, rate: torch.optim.AdamW(
            model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=weight_decay
        ),
        lr=lr,
        facts={
            "first": torch.from_numpy(first), "last": torch.from_numpy(names + last), "answers": torch.from_numpy(answers),
            "relation": torch.from_numpy(relation), "attribute": torch.from_numpy(attribute), "fillers": torch.from_numpy(filler),
            "subject": context - 2, "sites": [f"blocks.{i}" for i in range(layers)],
        },
        schedule=lambda step: cosine(step, steps),
    )  # fmt: skip


def asked(world: System, subjects: Tensor, relation: int, seed: int) -> Tensor:
    """Sentences (n, context) about subjects (n,) up to the relation, after filler drawn with the seed: the attribute comes next.

    >>> asked(relations(names=3, pairs=4, context=5, d_model=4, heads=1), torch.tensor([0, 2]), 1, 0).shape
    torch.Size([2, 5])
    """
    f, n = world.facts, len(subjects)
    drawn = np.random.default_rng((seed, 97)).integers(len(f["fillers"]), size=(n, world.knobs["context"] - 3))
    who = [f["first"][subjects], f["last"][subjects], f["relation"][relation].expand(n)]
    return torch.cat([f["fillers"][torch.from_numpy(drawn)], torch.stack(who, 1)], 1)


def recall(world: System, model: nn.Module, *, seed: int = 0) -> list[float]:
    """Share of subjects whose attribute the model names first, of all its words, in each relation."""
    f, found = world.facts, []
    for r, answers in enumerate(f["answers"]):
        with torch.no_grad():
            said = model(asked(world, torch.arange(len(answers)), r, seed))[:, -1].argmax(1)
        found.append(float((said == f["attribute"][r, answers]).double().mean()))
    return found
