"""Principal-component scores from Gram matrices: rows are moments, columns may be many."""

import numpy as np
from torch import Tensor


def gram(x: Tensor) -> np.ndarray:
    """X Xᵀ (T, T) in double precision of rows (T, ...), a part of the columns at a time.

    >>> import torch
    >>> gram(torch.tensor([[1.0, 2.0], [0.0, 1.0]])).tolist()
    [[5.0, 2.0], [2.0, 1.0]]
    """
    flat = x.reshape(len(x), -1)
    total = np.zeros((len(x), len(x)))
    for part in flat.split(1 << 18, dim=1):
        d = part.double()
        total += (d @ d.T).numpy()
    return total


def principal(gram: np.ndarray, count: int, k: int) -> tuple[np.ndarray, list[float]]:
    """(scores (T, k), shares of the variance) of centred rows from their Gram matrix; `count` entries a row.

    Scores are an r.m.s. over entries, with signs such that the last row's are positive.
    """
    values, vectors = np.linalg.eigh(gram)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    scores = vectors[:, :k] * np.sqrt(values[:k] / count)
    scores *= np.where(scores[-1] < 0, -1.0, 1.0)
    return scores, [float(v) for v in values[:k] / max(values.sum(), 1e-300)]


def jackknifed(grams: list[np.ndarray], counts: list[int], k: int) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """(scores, err, shares) of blocks of columns taken together; err by leaving out one block after the other.

    Scores with a block left out are turned onto the others first (by an orthogonal matrix): what the axes are called is
    no error.
    """
    total, size, n = sum(grams[1:], grams[0]), sum(counts), len(grams)
    scores, share = principal(total, size, k)
    left = []
    for g, c in zip(grams, counts, strict=True):
        other = principal(total - g, size - c, k)[0]
        u, _, vt = np.linalg.svd(other.T @ scores)
        left.append(other @ (u @ vt))
    err = np.sqrt((n - 1) / n * np.square(np.stack(left) - np.mean(left, 0)).sum(0))
    return scores, err, share
