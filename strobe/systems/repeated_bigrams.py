"""A language that is known to the last number: a bigram table, a few fixed phrases, and windows that say all twice."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy as nats

from strobe.core.cards import system
from strobe.core.errors import BadOption
from strobe.core.system import System
from strobe.numerics.ngrams import ngrams
from strobe.systems.attention_language import AttentionOnly, head_parts

SAMPLE = 1 << 19  # tokens of plain text that the facts' tables are fitted to


@system(what="Bigrams, phrases and windows said twice, for an attention-only transformer", ref="arXiv:2402.02364")
def repeated_bigrams(
    *,
    vocab: int = 64,
    context: int = 32,
    spread: float = 2.0,
    phrases: int = 32,
    phrase_length: int = 4,
    phrase_rate: float = 0.08,
    repeated: float = 0.5,
    d_model: int = 64,
    heads: int = 8,
    layers: int = 2,
    positions: Literal["relative", "rotary", "shortformer"] = "relative",
    placed: int = 1,
    smear: bool = False,
    batch: int = 16,
    lr: float = 5e-3,
    weight_decay: float = 0.01,
    seed_language: int = 0,
    probe_size: int = 512,
) -> System:
    """Mean next-token cross-entropy, in nats, of an attention-only transformer on text without end from a known source.

    The source is a Markov chain, P(b|a) = softmax of `spread` · N(0, 1) in each row; before each token, with
    probability `phrase_rate`, one of `phrases` fixed sequences of `phrase_length` random tokens begins instead. Of the
    windows a share `repeated` says one piece again and again, x = r r r ..., of a length between context / 4 and context / 2,
    so that no fixed distance helps. A batch is a LongTensor (batch, context + 1),
    a function of (seed, step) alone, fresh at each step: there is no training set, train and held-out loss are one.

    Args: model as in `attention_language` (`positions`, `placed`, `smear`); AdamW (0.9, 0.98), constant `lr`;
    `seed_language` draws table and phrases, so that runs of all seeds learn one language.
    Facts, known before training: `table` (V, V) the chain's log P, `phrases` (phrases, length), `unigram` (V,) and
    `bigram` (V, V) log-probabilities fitted to 524,288 tokens of text that is not repeated, `plain` and `twice`: probes
    (probe_size, context + 1) without and with repetition only; `pattern_sites`, `head_sites`, and `head_parts`: the
    parameters of each head, {"layer.head": sites}.
    Ref: the stages as in Hoogland et al., arXiv:2402.02364; random tokens said twice as in Olsson et al., arXiv:2209.11895.

    >>> windows = repeated_bigrams(repeated=1.0, context=8, probe_size=64).probe(0)
    >>> all(any(w[:-n].equal(w[n:]) for n in (2, 3, 4)) for w in windows)
    True
    """
    _check(vocab, context, phrases, phrase_length, phrase_rate, repeated, d_model, heads, layers, batch, lr, probe_size)
    rng = np.random.default_rng((seed_language, 77))
    logits = torch.from_numpy(spread * rng.standard_normal((vocab, vocab)))
    table = logits.log_softmax(-1).numpy()
    known = rng.integers(vocab, size=(phrases, phrase_length))
    source = _Source(np.exp(table).cumsum(1), known, phrase_rate)

    def windows(rng: np.random.Generator, count: int, share: float) -> Tensor:
        text = source.text(rng, count, context + 1)
        length = rng.integers(context // 4, context // 2 + 1, size=(count, 1))
        said = rng.random((count, 1)) < share
        again = np.take_along_axis(text, np.arange(context + 1) % length, 1)
        return torch.from_numpy(np.where(said, again, text))

    def build(seed: int) -> nn.Module:
        model = AttentionOnly(vocab, context, d_model, heads, layers, positions, placed, smear)
        g = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, w in model.named_parameters():
                if w.ndim == 2 and not name.endswith("distance"):
                    w.copy_(
                        torch.randn(w.shape, generator=g) * (0.02 if name.endswith("place") else w.shape[1] ** -0.5)
                    )
        return model

    def held(seed: int, share: float, what: int) -> Tensor:
        return windows(np.random.default_rng((seed, 2**31, what)), probe_size, share)

    sample = source.text(np.random.default_rng((seed_language, 78)), max(SAMPLE // 512, 1), 512)
    tables = ngrams(sample.reshape(-1), vocab)
    return System(
        name="repeated_bigrams",
        path="strobe.systems.repeated_bigrams:repeated_bigrams",
        knobs={
            "vocab": vocab, "context": context, "spread": spread, "phrases": phrases, "phrase_length": phrase_length,
            "phrase_rate": phrase_rate, "repeated": repeated, "d_model": d_model, "heads": heads, "layers": layers,
            "positions": positions, "placed": placed, "smear": smear, "batch": batch, "lr": lr,
            "weight_decay": weight_decay, "seed_language": seed_language, "probe_size": probe_size,
        },
        build=build,
        batch=lambda seed, step: windows(np.random.default_rng((seed, step)), batch, repeated),
        loss=_loss,
        probe=lambda seed: held(seed, repeated, 0),
        optimizer=lambda model, rate: torch.optim.AdamW(
            model.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=weight_decay
        ),
        lr=lr,
        facts={
            "table": torch.from_numpy(table).float(), "phrases": torch.from_numpy(known),
            "unigram": torch.from_numpy(tables.unigram).float(), "bigram": torch.from_numpy(tables.bigram).float(),
            "plain": held(0, 0.0, 1), "twice": held(0, 1.0, 2), "heads": heads, "layers": layers, "context": context,
            "pattern_sites": [f"blocks.{i}.attn.pattern" for i in range(layers)],
            "head_sites": [[f"blocks.{i}.attn.z@1[{h}]" for h in range(heads)] for i in range(layers)],
            "head_parts": {f"{i}.{h}": head_parts(i, h, heads) for i in range(layers) for h in range(heads)},
        },
    )  # fmt: skip


class _Source:
    """Text of a Markov chain into which phrases fall."""

    def __init__(self, ladder: np.ndarray, phrases: np.ndarray, rate: float) -> None:
        self.ladder, self.phrases, self.rate = ladder, phrases, rate if len(phrases) else 0.0

    def text(self, rng: np.random.Generator, count: int, length: int) -> np.ndarray:
        """Tokens (count, length); the first one is uniform."""
        out = np.empty((count, length), np.int64)
        out[:, 0] = rng.integers(len(self.ladder), size=count)
        within = np.zeros(count, int)  # tokens of the phrase that are still to come
        which = np.zeros(count, int)
        for t in range(1, length):
            begins = (within == 0) & (rng.random(count) < self.rate)
            which = np.where(begins, rng.integers(max(len(self.phrases), 1), size=count), which)
            within = np.where(begins, self.phrases.shape[1], within)
            u = rng.random((count, 1)) * self.ladder[out[:, t - 1], -1:]
            chain = (self.ladder[out[:, t - 1]] < u).sum(1)
            inside = within > 0
            if inside.any():
                place = self.phrases.shape[1] - within
                chain = np.where(inside, self.phrases[which, np.minimum(place, self.phrases.shape[1] - 1)], chain)
            within = np.maximum(within - 1, 0)
            out[:, t] = chain
        return out


def _loss(model: nn.Module, tokens: Tensor) -> Tensor:
    logits = model(tokens[:, :-1])
    return nats(logits.flatten(0, 1), tokens[:, 1:].flatten())


def _check(vocab: int, context: int, phrases: int, length: int, rate: float, repeated: float, d_model: int, heads: int,
           layers: int, batch: int, lr: float, probe: int) -> None:  # fmt: skip
    if vocab < 2 or context < 4 or phrases < 0 or length < 2 or heads < 1 or layers < 0 or batch < 1 or probe < 2:
        raise BadOption(
            "repeated_bigrams needs vocab >= 2, context >= 4, phrase_length >= 2, probe_size >= 2, heads and batch >= 1, "
            f"got {vocab}, {context}, {length}, {probe}, {heads}, {batch}"
        )
    if not (0 <= rate < 1 and 0 <= repeated <= 1):
        raise BadOption(f"phrase_rate is a probability below 1 and repeated one, got {rate} and {repeated}")
    if d_model % heads:
        raise BadOption(f"d_model must be a multiple of heads, got {d_model} and {heads}")
    if not lr > 0:
        raise BadOption(f"lr must be positive, got {lr}")
