"""How strongly tokens at a distance depend on each other, without the noise that a finite text adds."""

from collections.abc import Sequence

import numpy as np


def token_correlations(
    tokens: np.ndarray, vocab: int, distances: Sequence[int], *, norm: str = "operator", blocks: int = 8
) -> tuple[np.ndarray, np.ndarray]:
    """Norm of the covariance of one-hot tokens n apart, and its standard error, for each n.

        C_n(a, b) = P(x_t = a, x_{t+n} = b) − P(a) P(b)
        operator    mean over blocks k of uᵀ C_n^(k) v, u and v the leading singular vectors of the other blocks' mean
        frobenius   √ of the mean over pairs of blocks j ≠ k of Σ_ab C_n^(j) C_n^(k)

    What noise a block has is independent of the others', so it adds nothing on average: there is no floor to subtract, and where
    there is no correlation both are 0 within their error (a negative mean gives −√ for the frobenius norm). The operator norm is a
    lower bound where the singular vectors are themselves noisy. P(a) is that of the whole text: a text of unlike parts (topics, files)
    then has a correlation that does not decay, which is true of it.
    Args: tokens, ids in [0, vocab), a stream (T,) or windows (B, T) (pairs stay inside a window); blocks, contiguous parts.
    Err: spread over blocks (operator), jackknife over blocks (frobenius).
    Raises `ValueError` for ids outside, another norm, fewer than 2 blocks (frobenius: 3), a distance that a part does not reach.
    Ref: the definition, Cagnetta and others, arXiv:2602.07488, section 3; the cross-validated estimate is ours.

    >>> value, err = token_correlations(np.arange(4000) % 2, 2, [1, 2])  # C = ±[[1, −1], [−1, 1]] / 4
    >>> value.round(2).tolist()
    [0.5, 0.5]
    """
    ids = np.asarray(tokens, np.int64)
    least = 3 if norm == "frobenius" else 2
    if norm not in ("operator", "frobenius") or blocks < least:
        raise ValueError(f"norm is 'operator' (2 blocks or more) or 'frobenius' (3 or more), got {norm!r} and {blocks}")
    if ids.ndim not in (1, 2) or not ids.size or ids.min() < 0 or ids.max() >= vocab:
        raise ValueError(f"tokens are ids in [0, {vocab}), a stream (T,) or windows (B, T)")
    parts = np.array_split(ids, blocks)
    reach = ids.shape[1] if ids.ndim == 2 else min(map(len, parts))
    if not len(distances) or min(distances) < 1 or max(distances) >= reach or min(map(len, parts)) < 1:
        raise ValueError(f"distances are between 1 and {reach - 1} in parts of {reach} tokens, got {list(distances)}")
    p = np.bincount(ids.ravel(), minlength=vocab) / ids.size
    found = [_norm(np.stack([_pairs(part, n, vocab) for part in parts]) - np.outer(p, p), norm) for n in distances]
    return np.array([f[0] for f in found]), np.array([f[1] for f in found])


def _pairs(part: np.ndarray, n: int, vocab: int) -> np.ndarray:
    pairs = (part[..., :-n] * vocab + part[..., n:]).ravel()
    return np.bincount(pairs, minlength=vocab * vocab).reshape(vocab, vocab) / len(pairs)


def _norm(c: np.ndarray, norm: str) -> tuple[float, float]:
    k, total = len(c), c.sum(0)
    if norm == "operator":
        each = []
        for part in c:
            u, _, v = np.linalg.svd((total - part) / (k - 1))
            each.append(u[:, 0] @ part @ v[0])
        return float(np.mean(each)), float(np.std(each, ddof=1) / k**0.5)
    gram = np.einsum("iab,jab->ij", c, c)

    def root(keep: np.ndarray) -> float:
        part = gram[np.ix_(keep, keep)]
        mean = (part.sum() - np.trace(part)) / (len(keep) * (len(keep) - 1))
        return float(np.sign(mean) * abs(mean) ** 0.5)

    without = np.array([root(np.delete(np.arange(k), i)) for i in range(k)])
    return root(np.arange(k)), float(np.sqrt((k - 1) * np.mean((without - without.mean()) ** 2)))
