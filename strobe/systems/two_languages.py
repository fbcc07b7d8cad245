"""Two languages that say the same things in other words: topics, a mood, and what a text tells of them, exactly."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from strobe.core.cards import system
from strobe.core.errors import BadOption
from strobe.core.system import System
from strobe.systems.decoder import Decoder, cosine

BEGIN, MARK = 0, 1  # tokens: the begin, then a mark for each language, then the words of one and of the other
FIRST = 3
LEFT_OUT = -100  # a target that the loss leaves out


@system(what="Two isomorphic languages with topics and a mood, for a decoder: planted concepts", ref="arXiv:2502.03708")
def two_languages(
    *,
    switched: float = 0.5,
    topics: int = 6,
    words: int = 40,
    moods: int = 8,
    mood_rate: float = 0.15,
    context: int = 40,
    d_model: int = 96,
    heads: int = 4,
    layers: int = 4,
    batch: int = 32,
    lr: float = 3e-3,
    weight_decay: float = 0.01,
    steps: int = 800,
    tune_from: int | None = None,
    tune_steps: int = 150,
    tune_lr: float = 3e-4,
    masked: bool = False,
    seed_language: int = 0,
    probe_size: int = 256,
) -> System:
    """Mean next-token cross-entropy, in nats, of a decoder on documents in one of two languages, or in both.

    A document: begin, mark of its language, then words. A word is with probability `mood_rate` one of the moods/2 words of the document's
    mood (− or +), else a content word w after the last word v of either kind: P(w|v, topic) ∝ exp(1.3 t(topic, w) + 0.8 b(v, w)), t and b
    standard normal, the same for both languages. A share `switched` changes the language once: the mark of the other stands between two
    words. Topic (of `topics`; one more is never seen), mood and language are uniform. A batch is (tokens, targets), LongTensors
    (batch, context − 1), a function of (seed, step); fresh at each step, so train and held-out loss are one.

    From step `tune_from` on the documents are of the held-out topic, all of mood +, none switched: fine-tuning with a trait in the data.
    masked leaves the mood words out of its loss.
    Args: AdamW (0.9, 0.98); the rate rises over 50 steps, falls as a cosine to 5% at `steps`, and starts anew from `tune_lr` for
    `tune_steps`; `seed_language` draws t and b.
    Facts: `language` (`Language`: documents, and the exact judge), `sites` of the blocks.

    >>> tokens, targets = two_languages(context=8, probe_size=4).probe(0)
    >>> tokens.shape, bool((tokens[:, 1:] == targets[:, :-1]).all())
    (torch.Size([4, 7]), True)
    """
    _check(switched, topics, words, moods, mood_rate, context, d_model, heads, layers, batch, lr, tune_lr, probe_size)
    if steps < 1 or tune_steps < 1 or (tune_from is not None and tune_from < 1):
        raise BadOption(f"steps, tune_steps and tune_from are at least 1, got {steps}, {tune_steps}, {tune_from}")
    g = np.random.default_rng((seed_language, 31))
    tilt, after = 1.3 * g.standard_normal((topics + 1, words)), 0.8 * g.standard_normal((words + moods, words))
    P = np.exp(tilt[:, None] + after)
    language = Language(P / P.sum(-1, keepdims=True), moods, mood_rate)

    def pair(tokens: Tensor, mask: bool = False) -> tuple[Tensor, Tensor]:
        targets = tokens[:, 1:].clone()
        if mask:
            targets[language.kind(targets) > 0] = LEFT_OUT
        return tokens[:, :-1], targets

    def batch_at(seed: int, step: int) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((seed, step))
        if tune_from is None or step < tune_from:
            return pair(language.documents(rng, batch, context, switched=switched)[0])
        told = language.documents(rng, batch, context, topic=topics, mood=1)[0]
        return pair(told, masked)

    def build(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return Decoder(language.vocab, context, d_model, heads, layers)

    def rate(step: int) -> float:
        if tune_from is not None and step >= tune_from:
            return tune_lr / lr * cosine(step - tune_from, tune_steps)
        return cosine(step, steps)

    return System(
        name="two_languages",
        path="strobe.systems.two_languages:two_languages",
        knobs={
            "switched": switched, "topics": topics, "words": words, "moods": moods, "mood_rate": mood_rate, "context": context,
            "d_model": d_model, "heads": heads, "layers": layers, "batch": batch, "lr": lr, "weight_decay": weight_decay,
            "steps": steps, "tune_from": tune_from, "tune_steps": tune_steps, "tune_lr": tune_lr, "masked": masked,
            "seed_language": seed_language, "probe_size": probe_size,
        },
        build=build,
        batch=batch_at,
        loss=next_token_loss,
        probe=lambda seed: pair(
            language.documents(np.random.default_rng((seed, 2**31)), probe_size, context, switched=switched)[0]
        ),
        optimizer=lambda model, lr: torch.optim.AdamW(
            model.parameters(), lr=lr, betas=(0.9, 0.98), weight_decay=weight_decay
        ),
        lr=lr,
        facts={"language": language, "sites": [f"blocks.{i}" for i in range(layers)], "new_topic": topics},
        schedule=rate,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Language:
    """The planted languages: `P` (topics, words + moods, words) are the chances of a content word after a word."""

    P: np.ndarray
    moods: int
    mood_rate: float

    @property
    def words(self) -> int:
        """Content words of a language."""
        return int(self.P.shape[2])

    @property
    def size(self) -> int:
        """Words of a language, content and mood."""
        return self.words + self.moods

    @property
    def vocab(self) -> int:
        return FIRST + 2 * self.size

    def of(self, language: int) -> Tensor:
        """The tokens that are words of language 0 or 1."""
        return torch.arange(self.size) + FIRST + language * self.size

    def kind(self, tokens: Tensor) -> Tensor:
        """0 for a content word, a mark or the begin, 1 for a word of mood −, 2 of mood +; the shape stays."""
        w = (tokens - FIRST) % self.size - self.words
        return torch.where((tokens >= FIRST) & (w >= 0), 1 + (w >= self.moods // 2).long(), 0)

    def documents(
        self, rng: np.random.Generator, n: int, length: int, *, switched: float = 0.0, topic: int | np.ndarray | None = None,
        mood: int | np.ndarray | None = None, language: int | None = None, mood_rate: float | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        """(tokens (n, length), topics (n,), moods (n,)); what is not given is drawn, a topic of all but the last."""
        k = rng.integers(len(self.P) - 1, size=n) if topic is None else np.broadcast_to(topic, n)
        m = rng.integers(2, size=n) if mood is None else np.broadcast_to(mood, n)
        tongue = rng.integers(2, size=n) if language is None else np.full(n, language)
        at = np.where(
            rng.random(n) < switched, rng.integers(2 + length // 8, max(length - length // 8, 3 + length // 8), n), -1
        )
        share = self.mood_rate if mood_rate is None else mood_rate
        ladder, last, half = self.P.cumsum(-1), rng.integers(self.words, size=n), self.moods // 2
        out = np.zeros((n, length), np.int64)
        out[:, 1] = MARK + tongue
        for t in range(2, length):
            content = (rng.random((n, 1)) > ladder[k, last]).sum(1).clip(max=self.words - 1)
            feels = self.words + m * half + rng.integers(half, size=n)
            word = np.where(rng.random(n) < share, feels, content)
            turns = at == t
            tongue = np.where(turns, 1 - tongue, tongue)
            out[:, t] = np.where(turns, MARK + tongue, FIRST + tongue * self.size + word)
            last = np.where(turns, last, word)
        return torch.from_numpy(out), torch.from_numpy(np.array(k)), torch.from_numpy(np.array(m))

    def topic_scores(self, tokens: Tensor, start: int = 2) -> np.ndarray:
        """log p of the words from `start` on, given those before, for each topic: (n, topics), up to what all topics share.

        Mood words and marks are as likely in every topic; the word before the first is uniform over the content words.
        """
        logs, first = np.log(self.P), np.log(self.P[:, : self.words].mean(1))
        x = tokens.numpy()
        w, is_word = (x - FIRST) % self.size, x >= FIRST
        out, last = np.zeros((len(x), len(self.P))), np.full(len(x), -1)
        for t in range(x.shape[1]):
            if t >= start:
                content = is_word[:, t] & (w[:, t] < self.words)
                to = np.where(content, w[:, t], 0)
                known = np.where(last[:, None] >= 0, logs[:, last, to].T, first[:, to].T)
                out += np.where(content[:, None], known, 0.0)
            last = np.where(is_word[:, t], w[:, t], last)
        return out

    def topic_log_odds(self, tokens: Tensor, topic: int, start: int = 2) -> np.ndarray:
        """log p(topic | text) − log p(another of the trained topics | text), (n,): no reader of the text ranks better."""
        s = self.topic_scores(tokens, start)[:, :-1]
        return np.asarray(s[:, topic] - np.logaddexp.reduce(np.delete(s, topic, 1), axis=1))

    def mood_scores(self, tokens: Tensor, start: int = 2) -> np.ndarray:
        """Words of mood + less words of mood −, (n,). A text of this language has one kind only: one such word tells all."""
        kind = self.kind(tokens[:, start:])
        return np.asarray(((kind == 2).sum(1) - (kind == 1).sum(1)).double().numpy())


def next_token_loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
    """Mean over the targets that are not left out."""
    return cross_entropy(model(data[0]).flatten(0, 1), data[1].flatten(), ignore_index=LEFT_OUT)


def _check(switched: float, topics: int, words: int, moods: int, rate: float, context: int, d_model: int, heads: int, layers: int,
           batch: int, lr: float, tune_lr: float, probe: int) -> None:  # fmt: skip
    if topics < 2 or words < 2 or moods < 2 or moods % 2 or context < 8 or layers < 1 or batch < 1 or probe < 2:
        raise BadOption(
            "two_languages needs topics, words and moods >= 2, moods even, context >= 8, probe_size >= 2, layers and batch >= 1, got "
            f"{topics}, {words}, {moods}, {context}, {probe}, {layers}, {batch}"
        )
    if not (0 <= switched <= 1 and 0 < rate < 1):
        raise BadOption(f"switched is a share and mood_rate one between 0 and 1, got {switched} and {rate}")
    if heads < 1 or d_model % heads:
        raise BadOption(f"d_model = {d_model} is not a multiple of heads = {heads}")
    if not (lr > 0 and tune_lr > 0):
        raise BadOption(f"lr and tune_lr must be positive, got {lr} and {tune_lr}")
