"""A source of tokens with long memory whose best prediction is known, and models linear in their context."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.linalg import solve_toeplitz

VOCAB, STRENGTH, FARTHEST = 8, 0.2, 2000  # tokens, correlation at lag 1, the longest lag
LAGS, TESTED = 96, 10_000  # the longest order of a model; tokens it is scored on


@dataclass(frozen=True)
class Chain:
    """Tokens that copy an earlier one, so that their correlation is a power law at every lag.

        P(x_t = v | past) = (1 − Σ w_r) / V + Σ_r w_r 1[x_{t−r} = v]        w from ρ(n) = strength · n^−beta by Yule and Walker

    The best prediction is the line above, and known. C_n = ρ(n) (I/V − 11ᵀ/V²), so β = beta exactly; and since lag n adds the square of
    its partial correlation, H_n − H_∞ falls as n^−(2 beta − 1) at large n: γ = 2 beta − 1. Weights are not negative for beta from
    1.25 to 2 at this strength.
    """

    beta: float

    @cached_property
    def weights(self) -> np.ndarray:
        rho = np.concatenate([[1.0], STRENGTH * np.arange(1, FARTHEST + 1) ** -self.beta])
        return solve_toeplitz(rho[:-1], rho[1:])

    def draw(self, count: int, seed: Sequence[int]) -> np.ndarray:
        """`count` tokens: each is followed back to the fresh one it is a copy of."""
        rng = np.random.default_rng(seed)
        at, w = np.arange(count), self.weights
        lag = rng.choice(FARTHEST, size=count, p=w / w.sum()) + 1
        back = np.where((rng.random(count) < w.sum()) & (lag <= at), at - lag, at)
        fresh = rng.integers(VOCAB, size=count)
        while (back != (further := back[back])).any():
            back = further
        return fresh[back]


class Scorer:
    """Expected loss of predictors linear in their context, on one stream whose true probabilities are known."""

    def __init__(self, chain: Chain, seed: Sequence[int]) -> None:
        x = chain.draw(TESTED + FARTHEST, seed)
        hot = (x == np.arange(VOCAB)[:, None]) - 1 / VOCAB  # (V, T)
        size = 1 << int(np.ceil(np.log2(hot.shape[1] + FARTHEST)))
        kernel = np.fft.rfft(np.concatenate([[0.0], chain.weights]), size)
        self.truth = 1 / VOCAB + np.fft.irfft(np.fft.rfft(hot, size) * kernel, size)[:, FARTHEST : hot.shape[1]]
        self.lags = np.stack([hot[:, FARTHEST - r : hot.shape[1] - r] for r in range(1, LAGS + 1)]).astype(np.float32)
        self.entropy = float(-(self.truth * np.log(self.truth)).sum(0).mean())

    def excess(self, weights: np.ndarray) -> float:
        """Loss above the entropy rate: mean KL from the truth to the model of these lag weights."""
        q = np.tensordot(weights.astype(np.float32), self.lags[: len(weights)], 1) + 1 / VOCAB
        q = np.clip(q, 1e-3, None)
        return float((self.truth * np.log(self.truth / (q / q.sum(0)))).sum(0).mean())


def lag_weights(tokens: np.ndarray, orders: Sequence[int]) -> list[np.ndarray]:
    """Least-squares lag weights of each order (Yule and Walker), from the autocorrelation of one-hot tokens."""
    size, rho = 1 << int(np.ceil(np.log2(len(tokens) + LAGS))), np.zeros(LAGS + 1)
    for v in range(VOCAB):
        rho += np.fft.irfft(np.abs(np.fft.rfft((tokens == v) - 1 / VOCAB, size)) ** 2, size)[: LAGS + 1]
    r = rho / (len(tokens) - np.arange(LAGS + 1))
    return [solve_toeplitz(r[:k], r[1 : k + 1]) for k in orders]
