"""N-gram tables: a Markov chain of known entropy, and a case without structure."""

import numpy as np
import pytest

from strobe.numerics.ngrams import clustered_mean, cross_entropy, ngrams, plug_in_entropy

CHAIN = np.array([[0.9, 0.1, 0.0], [0.0, 0.5, 0.5], [0.3, 0.3, 0.4]])


def sample(n: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    x = [0]
    for _ in range(n):
        x.append(int(rng.choice(3, p=CHAIN[x[-1]])))
    return np.array(x)


def test_the_tables_reach_the_entropy_rate_of_a_markov_chain() -> None:
    values, vectors = np.linalg.eig(CHAIN.T)
    pi = np.real(vectors[:, np.argmax(values.real)])
    pi /= pi.sum()
    rate = float(-(pi[:, None] * CHAIN * np.log(CHAIN, where=CHAIN > 0, out=np.zeros_like(CHAIN))).sum())
    table, held = ngrams(sample(20_000, 0), 3), sample(20_000, 1)
    assert np.allclose(np.exp(table.bigram).sum(1), 1)
    assert np.exp(table.bigram) == pytest.approx(CHAIN, abs=0.02)
    assert np.exp(table.unigram) == pytest.approx(pi, abs=0.02)
    assert cross_entropy(table.bigram, held).mean() == pytest.approx(rate, abs=0.01)
    assert cross_entropy(table.unigram, held).mean() > rate + 0.1


def test_no_table_beats_the_plug_in_entropy_and_noise_earns_strong_smoothing() -> None:
    noise = np.random.default_rng(0).integers(50, size=2000)  # 2500 pairs, 2000 tokens: a raw table would overfit
    table, held = ngrams(noise, 50), np.random.default_rng(1).integers(50, size=2000)
    assert table.strength >= 512
    assert cross_entropy(table.bigram, held).mean() == pytest.approx(np.log(50), abs=0.03)
    assert plug_in_entropy(held, 50, order=2) < cross_entropy(table.bigram, held).mean() - 0.5  # 2500 cells, 2000 pairs
    with pytest.raises(ValueError, match="at least two ids"):
        ngrams(np.array([3]), 50)


def test_the_clustered_error_covers_groups_that_are_alike() -> None:
    rng = np.random.default_rng(0)
    means = []
    for _ in range(200):
        groups = rng.normal(size=20)
        values = np.repeat(groups, 50) + rng.normal(size=1000)
        means.append((*clustered_mean(values, np.arange(0, 1000, 50)), values.std() / 1000**0.5))
    spread = np.std([m[0] for m in means])
    assert np.mean([m[1] for m in means]) == pytest.approx(spread, rel=0.15)
    assert np.mean([m[2] for m in means]) < spread / 4  # what taking tokens as independent would have said
