"""Smoothed unigram and bigram tables of a token sequence, and their cross-entropy on another one."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Ngrams:
    """Log-probabilities in nats: `unigram` (V,), `bigram` (V, V) with the earlier token in rows; `strength` is α."""

    unigram: np.ndarray
    bigram: np.ndarray
    strength: float


def ngrams(tokens: np.ndarray, vocab: int) -> Ngrams:
    """Fit both tables to one sequence of ids in [0, vocab).

        P(b)   = (c(b) + 1) / (n + V)
        P(b|a) = (c(a,b) + α P(b)) / (c(a) + α)      α: the best of 2⁰…2¹² by leave-one-out likelihood on `tokens`

    Ref: MacKay and Peto 1995, "A hierarchical Dirichlet language model" (the same form; there α is fitted by evidence).

    >>> table = ngrams(np.array([0, 1, 0, 1, 0, 1, 2]), 3)
    >>> bool(np.allclose(np.exp(table.bigram).sum(1), 1)), int(table.bigram[0].argmax())
    (True, 1)
    """
    ids = np.asarray(tokens, np.int64)
    if len(ids) < 2 or ids.min() < 0 or ids.max() >= vocab:
        raise ValueError(f"ngrams needs at least two ids in [0, {vocab}), got {len(ids)} ids")
    p = (np.bincount(ids, minlength=vocab) + 1.0) / (len(ids) + vocab)
    pairs = np.bincount(ids[:-1] * vocab + ids[1:], minlength=vocab * vocab).reshape(vocab, vocab).astype(float)
    rows = pairs.sum(1, keepdims=True)
    strength = max((2.0**k for k in range(13)), key=lambda a: _left_out(pairs, rows, p, a))
    return Ngrams(np.log(p), np.log((pairs + strength * p) / (rows + strength)), strength)


def cross_entropy(log_probs: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """−log P of each token after the first, in nats, under a unigram (V,) or bigram (V, V) table."""
    ids = np.asarray(tokens, np.int64)
    return -(log_probs[ids[..., 1:]] if log_probs.ndim == 1 else log_probs[ids[..., :-1], ids[..., 1:]])


def plug_in_entropy(tokens: np.ndarray, vocab: int, order: int) -> float:
    """Entropy of the token (order 1), or of it given the one before (order 2), at the sequence's own frequencies.

    No predictor of that order has a lower cross-entropy on these very tokens: a proven floor, and for few tokens a
    loose one.

    >>> plug_in_entropy(np.array([0, 1, 0, 1, 0]), 2, order=2)
    0.0
    """
    ids = np.asarray(tokens, np.int64)
    before = ids[:-1] if order == 2 else np.zeros_like(ids[:-1])
    counts = np.bincount(before * vocab + ids[1:], minlength=vocab * vocab).reshape(vocab, vocab).astype(float)
    a, b = np.nonzero(counts)
    n = counts[a, b]
    return float((n * np.log(counts.sum(1)[a] / n)).sum() / n.sum()) + 0.0


def clustered_mean(values: np.ndarray, starts: np.ndarray) -> tuple[float, float]:
    """Mean of all values and its standard error, with the groups that begin at `starts` as the independent units.

    r = Σ S_g / Σ n_g       err² = G/(G−1) Σ (S_g − r n_g)² / N²
    """
    sums = np.add.reduceat(values, starts)
    sizes = np.diff(np.append(starts, len(values)))
    mean = sums.sum() / len(values)
    if len(starts) < 2:
        return float(mean), float(values.std() / len(values) ** 0.5)
    spread = ((sums - mean * sizes) ** 2).sum() * len(starts) / (len(starts) - 1)
    return float(mean), float(spread**0.5 / len(values))


def _left_out(pairs: np.ndarray, rows: np.ndarray, p: np.ndarray, strength: float) -> float:
    """Σ log P(b|a) with the pair itself taken out of its own counts."""
    a, b = np.nonzero(pairs)
    seen = pairs[a, b]
    return float((seen * np.log((seen - 1 + strength * p[b]) / (rows[a, 0] - 1 + strength))).sum())
