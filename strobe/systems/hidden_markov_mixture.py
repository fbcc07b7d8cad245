"""Text of hidden Markov models that share their words: a mixture whose exact predictor is known, for learning in context."""

from math import log
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from strobe.core.cards import system
from strobe.core.errors import BadOption
from strobe.core.system import System
from strobe.systems.decoder import Decoder

Array = np.ndarray


class Mixture:
    """K hidden Markov models over states (value, slot); a state's word is the same in all; slot 0 of every value says the delimiter 0.

    start (K, S), turn (K, S, S): start and transition probabilities; word (S,); words: how many. `sample` draws, `predict` is exact.
    """

    def __init__(self, models: int, values: int, slots: int, words: int, stay: float, seed: int) -> None:
        g = np.random.default_rng(seed)

        def mixed(n: int) -> Array:
            weight = np.exp((g.random(n) - 0.5) / 0.1)
            return np.asarray(sum(w * np.eye(n)[g.permutation(n)] for w in weight / weight.sum()))

        table = g.integers(1, words + 1, (values, slots))
        table[:, 0] = 0
        self.word, self.words = table.reshape(-1), words + 1
        move = stay * np.eye(values) + (1 - stay) * mixed(values)
        self.turn = np.stack([np.kron(move, mixed(slots)) for _ in range(models)])
        raw = np.exp((g.random((models, values * slots)) - 0.5) / 10)
        self.start = raw / raw.sum(1, keepdims=True)
        self.said = np.eye(self.words)[self.word]  # (S, words): which word a state says

    def sample(self, rng: np.random.Generator, which: Array, length: int) -> Array:
        """Words (n, length) of the models `which` (n,)."""
        first, next_ = self.start.cumsum(1), self.turn.cumsum(2)
        z = (rng.random(len(which))[:, None] > first[which]).sum(1).clip(0, len(self.word) - 1)
        out = np.zeros((len(which), length), np.int64)
        for t in range(length):
            out[:, t] = self.word[z]
            z = (rng.random(len(which))[:, None] > next_[which, z]).sum(1).clip(0, len(self.word) - 1)
        return out

    def predict(self, x: Array, only: Array | None = None) -> tuple[Array, Array]:
        """(P(next word | words so far), (n, length, words); posterior of the models after all of it, (n, K)), by the forward algorithm.

        only (n,): told which model it is. Where a text is impossible under a model its state starts anew, at the floor of the likelihood.
        """
        n, length = x.shape
        a = np.repeat(self.start[None], n, 0)
        weight = np.zeros((n, len(self.turn)))
        if only is not None:
            weight = np.where(np.arange(len(self.turn)) == only[:, None], 0.0, -1e9)
        found = np.zeros((n, length, self.words))
        for t in range(length):
            a = a * self.said[:, x[:, t]].T[:, None]
            z = a.sum(2)
            weight = weight + np.log(z + 1e-12)
            a = np.where(z[:, :, None] > 0, a / np.maximum(z[:, :, None], 1e-300), self.start[None])
            a = np.einsum("nks,kst->nkt", a, self.turn)
            w = np.exp(weight - weight.max(1, keepdims=True))
            w /= w.sum(1, keepdims=True)
            found[:, t] = np.einsum("nk,nks,sv->nv", w, a, self.said, optimize=True)
        return found, w

    def prompts(self, rng: np.random.Generator, which: Array, examples: int, length: int = 3) -> Array:
        """Examples of `length` words without a delimiter, parted by delimiters, each from the start of one model: never so in training."""
        parts: list[Array] = []
        for i in range(examples + 1):
            got, bad = np.zeros((len(which), length), np.int64), np.ones(len(which), bool)
            while bad.any():
                got[bad] = self.sample(rng, which[bad], length)
                bad[bad] = (got[bad] == 0).any(1)
            parts += [got] if i == examples else [got, np.zeros((len(which), 1), np.int64)]
        return np.concatenate(parts, 1)


@system(
    what="A mixture of hidden Markov models over shared words, whose exact predictor is known", ref="arXiv:2111.02080"
)
def hidden_markov_mixture(
    *, models: int = 5, values: int = 6, slots: int = 6, words: int = 30, stay: float = 0.9, context: int = 64, d_model: int = 64,
    layers: int = 3, batch: int = 48, lr: float = 2e-3, probe_size: int = 64, world_seed: int = 0,
) -> System:  # fmt: skip
    """Mean cross-entropy, in nats, of the next word of texts that each come from one of `models` hidden Markov models.

    A state is (value, slot); the value moves with probability 1 − stay, slots by a mixture of permutations of each model's own; a state's
    word is drawn once for all models. A batch is LongTensor (batch, context), a function of (seed, step) alone; the probe fresh texts.
    Facts: `mixture` knobs, `entropy` of the exact predictor on the probe in nats (the floor), `delimiter` 0.
    `mixture_of(**facts["mixture"])` gives the exact predictor. Raises `BadOption`. Ref: Xie et al. 2022 (arXiv:2111.02080), GINC.

    >>> hidden_markov_mixture(context=8, probe_size=4, d_model=8, layers=1).batch(0, 3).shape
    torch.Size([48, 8])
    """
    if (
        min(models, values, slots, words, layers, batch, probe_size) < 1
        or slots < 2
        or context < 4
        or not 0 <= stay <= 1
        or d_model % 4
    ):
        raise BadOption(
            f"hidden_markov_mixture needs sizes >= 1, slots >= 2, context >= 4, stay in 0 to 1, d_model divisible by 4; got "
            f"models={models}, values={values}, slots={slots}, words={words}, context={context}, stay={stay}, d_model={d_model}"
        )
    told: dict[str, Any] = {
        "models": models,
        "values": values,
        "slots": slots,
        "words": words,
        "stay": stay,
        "seed": world_seed,
    }
    mixture = mixture_of(**told)
    rng = np.random.default_rng((world_seed, 1))
    held = mixture.sample(rng, rng.integers(0, models, probe_size), context)
    exact, _ = mixture.predict(held[:, :-1])
    floor = float(-np.log(np.take_along_axis(exact, held[:, 1:, None], 2) + 1e-12).mean())

    def build(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Decoder(words + 1, context, d_model, 4, layers)

    def draw(seed: int, step: int) -> Tensor:
        g = np.random.default_rng((seed, step, 7))
        return torch.from_numpy(mixture.sample(g, g.integers(0, models, batch), context))

    def loss(model: nn.Module, x: Tensor) -> Tensor:
        return cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())

    knobs: dict[str, Any] = {
        "models": models, "values": values, "slots": slots, "words": words, "stay": stay, "context": context, "d_model": d_model,
        "layers": layers, "batch": batch, "lr": lr, "probe_size": probe_size, "world_seed": world_seed,
    }  # fmt: skip
    return System(
        name="hidden_markov_mixture", path="strobe.systems.hidden_markov_mixture:hidden_markov_mixture", knobs=knobs, build=build,
        batch=draw, loss=loss, probe=lambda seed: torch.from_numpy(held),
        optimizer=lambda model, rate: torch.optim.AdamW(model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01), lr=lr,
        floor=floor, facts={"mixture": told, "entropy": floor, "delimiter": 0, "chance": log(words + 1)},
    )  # fmt: skip


def mixture_of(*, models: int, values: int, slots: int, words: int, stay: float, seed: int) -> Mixture:
    """The mixture of a system's knobs."""
    return Mixture(models, values, slots, words, stay, seed)
