"""How alike two sets of features of the same examples are: centred kernel alignment, and shared neighbours."""

import numpy as np


def unbiased_hsic(a: np.ndarray, b: np.ndarray) -> float:
    """The Hilbert-Schmidt independence criterion of two Gram matrices (n, n), without bias in n. n >= 4.

    Ref: Song and others 2012 (JMLR 13, 1393), equation 5.
    """
    n = len(a)
    a, b = a - np.diag(np.diag(a)), b - np.diag(np.diag(b))
    rows = a.sum(0) @ b.sum(0)
    total = (a * b).sum() + a.sum() * b.sum() / ((n - 1) * (n - 2)) - 2 * rows / (n - 2)
    return float(total / (n * (n - 3)))


def unbiased_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear CKA of features (n, p) and (n, q): 1 for the same up to rotation and scale, about 0 for independent ones; NaN for constants.

    >>> g = np.random.default_rng(0)
    >>> x = g.standard_normal((200, 50))
    >>> round(unbiased_cka(x, 3 * x[:, ::-1]), 6), abs(unbiased_cka(x, g.standard_normal((200, 50)))) < 0.02
    (1.0, True)
    """
    a, b = (z - z.mean(0) for z in (x, y))
    k, m = a @ a.T, b @ b.T
    size = unbiased_hsic(k, k) * unbiased_hsic(m, m)
    return unbiased_hsic(k, m) / size**0.5 if size > 0 else float("nan")


def neighbours(x: np.ndarray, k: int) -> np.ndarray:
    """The k nearest other examples of each, by cosine of centred features, (n, k)."""
    z = x - x.mean(0)
    z /= np.maximum(np.linalg.norm(z, axis=1, keepdims=True), 1e-300)
    near = z @ z.T
    np.fill_diagonal(near, -np.inf)
    return np.argpartition(-near, k - 1, axis=1)[:, :k]


def shared_neighbours(x: np.ndarray, y: np.ndarray, k: int) -> np.ndarray:
    """The share of the k nearest neighbours of each example that both features agree on, (n,)."""
    a, b = neighbours(x, k), neighbours(y, k)
    inside = np.zeros((len(x), len(x)), bool)
    np.put_along_axis(inside, a, True, 1)
    return np.take_along_axis(inside, b, 1).mean(1)
