"""Kernels of infinitely wide fully connected networks, layer by layer: of the network at its start (NNGP), and of its training (NTK)."""

from collections.abc import Callable

import numpy as np

PAIRS = tuple[np.ndarray, np.ndarray]


def relu_moments(own: np.ndarray, other: np.ndarray, cross: np.ndarray) -> PAIRS:
    """E φ(u) φ(v) and E φ'(u) φ'(v) for φ = max(·, 0) and (u, v) normal with these variances and this covariance.

        √(q q') (sin θ + (π − θ) cos θ) / 2π   and   (π − θ) / 2π,    cos θ = cross / √(q q')

    Ref: Cho and Saul 2009, equations 1 to 6 (n = 1 and 0); arXiv:1711.00165, equation 11.

    >>> [float(m.round(4)) for m in relu_moments(np.array(2.0), np.array(2.0), np.array(2.0))]
    [1.0, 0.5]
    """
    size = np.sqrt(own * other)
    cos = np.clip(np.divide(cross, size, out=np.zeros_like(size + cross), where=size > 0), -1.0, 1.0)
    left = np.pi - np.arccos(cos)
    return size * (np.sqrt(1 - cos**2) + left * cos) / (2 * np.pi), left / (2 * np.pi)


def erf_moments(own: np.ndarray, other: np.ndarray, cross: np.ndarray) -> PAIRS:
    """The same for φ = erf.

        (2/π) arcsin(2 cross / √((1 + 2q)(1 + 2q')))   and   (4/π) / √((1 + 2q)(1 + 2q') − 4 cross²)

    Ref: Williams 1997, equation 11; arXiv:1902.06720, appendix C.

    >>> [float(m.round(4)) for m in erf_moments(np.array(1.0), np.array(1.0), np.array(0.0))]
    [0.0, 0.4244]
    """
    size = (1 + 2 * own) * (1 + 2 * other)
    value = 2 / np.pi * np.arcsin(np.clip(2 * cross / np.sqrt(size), -1.0, 1.0))
    return value, 4 / np.pi / np.sqrt(size - 4 * cross**2)


MOMENTS: dict[str, Callable[[np.ndarray, np.ndarray, np.ndarray], PAIRS]] = {"relu": relu_moments, "erf": erf_moments}


def wide_kernels(
    x: np.ndarray, other: np.ndarray | None = None, *, depth: int, activation: str = "relu", weight: float = 2.0, bias: float = 0.0
) -> PAIRS:  # fmt: skip
    """Σ and Θ between the rows of x (n, d) and of `other` (m, d), (n, m) each: of the output of `depth` hidden layers.

        z¹ = √(weight/d) W x + √bias b,   z^{l+1} = √(weight/width) W φ(z^l) + √bias b,   W and b standard normal
        Σ¹ = weight x·x'/d + bias,        Σ^{l+1} = weight E φ(u)φ(v) + bias,             (u, v) ~ N(0, Σ^l)
        Θ¹ = Σ¹,                          Θ^{l+1} = Σ^{l+1} + weight E φ'(u)φ'(v) Θ^l

    Args: weight and bias are variances; activation "relu" or "erf". Cost: depth x n x m. Raises `ValueError`.
    Ref: Lee et al., arXiv:1711.00165, equation 5; Jacot et al., arXiv:1806.07572, theorem 1; Lee et al., arXiv:1902.06720, appendix E.

    >>> nngp, ntk = wide_kernels(np.eye(2), depth=1)
    >>> nngp.round(4).tolist(), ntk.round(4).tolist()
    ([[1.0, 0.3183], [0.3183, 1.0]], [[2.0, 0.3183], [0.3183, 2.0]])
    """
    x = np.asarray(x, float)
    z = x if other is None else np.asarray(other, float)
    if x.ndim != 2 or z.ndim != 2 or x.shape[1] != z.shape[1] or not x.size or not z.size:
        raise ValueError(f"inputs are rows of one length, got shapes {x.shape} and {z.shape}")
    if activation not in MOMENTS or depth < 0 or not (weight > 0 and bias >= 0):
        got = (activation, depth, weight, bias)
        raise ValueError(f"wanted relu or erf, depth >= 0, weight > 0, bias >= 0; got {got}")
    moments = MOMENTS[activation]
    rows, cols = (weight * np.square(a).mean(1) + bias for a in (x, z))
    cross = weight * x @ z.T / x.shape[1] + bias
    tangent = cross
    for _ in range(depth):
        if other is None:
            np.fill_diagonal(cross, rows)  # an angle of rounding, 1e-8, is seen in the slopes
        value, slope = moments(rows[:, None], cols[None, :], cross)
        rows, cols = (weight * moments(q, q, q)[0] + bias for q in (rows, cols))
        cross = weight * value + bias
        tangent = cross + weight * slope * tangent
    return cross, tangent
