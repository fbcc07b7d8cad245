"""Facts about names of two tokens: told by the first name, by the last, or only by the pair."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy as nats

from strobe.core.cards import system
from strobe.core.errors import BadOption
from strobe.core.system import System
from strobe.systems.decoder import Decoder


@system(what="Three relations of two-token names, one of them told by the pair alone", ref="arXiv:2308.09124")
def relations(
    *, names: int = 40, pairs: int = 320, attributes: int = 8, fillers: int = 16, context: int = 8, d_model: int = 96,
    heads: int = 4, layers: int = 4, batch: int = 256, lr: float = 2e-3, weight_decay: float = 0.01,
    seed_facts: int = 0, probe_size: int = 512,
) -> System:  # fmt: skip
    """Cross-entropy, in nats, of the attribute after: filler tokens, first name, last name, relation.

    A batch is a LongTensor (batch, context + 1); the last token is the attribute, the only one with a loss.
    Facts: `first`, `last` (pairs,) tokens, `answers` (3, pairs) attribute numbers, `relation` (3,) and `attribute` (attributes,) tokens,
    `fillers`, `subject` the position of the last name. Relation 0 is a function of the first name, 1 of the last, 2 random per pair.
    Raises `BadOption`.
    """
    if (
        min(names, attributes, fillers, batch, probe_size, heads, layers) < 1
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
    attribute = relation[-1] + 1 + np.arange(attributes)
    filler = attribute[-1] + 1 + np.arange(fillers)

    def draw(rng: np.random.Generator, count: int) -> Tensor:
        i, r = rng.integers(pairs, size=count), rng.integers(3, size=count)
        told = np.stack([first[i], names + last[i], relation[r], attribute[answers[r, i]]], 1)
        return torch.from_numpy(np.concatenate([rng.choice(filler, (count, context - 3)), told], 1))

    def build(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Decoder(int(filler[-1]) + 1, context, d_model, heads, layers)

    return System(
        name="relations",
        path="strobe.systems.relations:relations",
        knobs={
            "names": names, "pairs": pairs, "attributes": attributes, "fillers": fillers, "context": context, "d_model": d_model,
            "heads": heads, "layers": layers, "batch": batch, "lr": lr, "weight_decay": weight_decay, "seed_facts": seed_facts,
            "probe_size": probe_size,
        },
        build=build,
        batch=lambda seed, step: draw(np.random.default_rng((seed, step)), batch),
        loss=lambda model, x: nats(model(x[:, :-1])[:, -1], x[:, -1]),
        probe=lambda seed: draw(np.random.default_rng((seed, 2**31)), probe_size),
        optimizer=lambda model, rate: torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=weight_decay),
        lr=lr,
        facts={
            "first": torch.from_numpy(first), "last": torch.from_numpy(names + last), "answers": torch.from_numpy(answers),
            "relation": torch.from_numpy(relation), "attribute": torch.from_numpy(attribute), "fillers": torch.from_numpy(filler),
            "subject": context - 2,
        },
    )  # fmt: skip
