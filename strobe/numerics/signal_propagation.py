"""Lengths and angles of signals in a wide random network, layer by layer: the mean-field maps and their fixed point."""

from collections.abc import Callable
from functools import cache

import numpy as np
from scipy.special import erf, roots_hermitenorm

NODES = 101  # of Gauss-Hermite quadrature; for ReLU the maps are known in closed form
STEPS = 10_000
Function = Callable[[np.ndarray], np.ndarray]
ACTIVATIONS: dict[str, tuple[Function, Function]] = {  # φ and φ'
    "tanh": (np.tanh, lambda u: np.asarray(1 / np.cosh(u) ** 2)),
    "erf": (erf, lambda u: np.asarray(2 / np.pi**0.5 * np.exp(-(u**2)))),
    "relu": (lambda u: np.maximum(u, 0.0), lambda u: np.asarray((u > 0).astype(float))),
}


def length_map(q: float, *, activation: str, weight: float, bias: float) -> float:
    """The variance of a pre-activation one layer on: q' = weight E φ(√q z)² + bias, z normal.

    Ref: Poole et al., arXiv:1606.05340, equation 3.

    >>> round(length_map(1.0, activation="relu", weight=2.0, bias=0.0), 12)
    1.0
    """
    z, w = _nodes()
    return float(weight * w @ ACTIVATIONS[activation][0](q**0.5 * z) ** 2 + bias)


def slope(q: float, *, activation: str, weight: float) -> float:
    """χ₁ = weight E φ'(√q z)²: by how much a layer stretches a small difference, squared; below 1 order, above 1 chaos.

    Ref: Poole et al., arXiv:1606.05340, equation 5; Schoenholz et al., arXiv:1611.01232, equation 5.

    >>> round(slope(1.0, activation="relu", weight=2.0), 12)
    1.0
    """
    if activation == "relu":
        return weight / 2
    z, w = _nodes()
    return float(weight * w @ ACTIVATIONS[activation][1](q**0.5 * z) ** 2)


def correlation_map(c: float, q: float, *, activation: str, weight: float, bias: float) -> float:
    """The correlation of two inputs one layer on, both of variance q here: (weight E φ(u)φ(v) + bias) / q'.

        u = √q z₁,  v = √q (c z₁ + √(1 − c²) z₂),     q' the length map of q

    Ref: Poole et al., arXiv:1606.05340, equation 4.

    >>> round(correlation_map(0.0, 1.0, activation="relu", weight=2.0, bias=0.0), 6)
    0.31831
    """
    c = min(max(c, -1.0), 1.0)
    after = length_map(q, activation=activation, weight=weight, bias=bias)
    if activation == "relu":
        angle = np.arccos(c)
        return float((weight * q * (np.sin(angle) + (np.pi - angle) * c) / (2 * np.pi) + bias) / after)
    z, w = _nodes()
    phi = ACTIVATIONS[activation][0]
    other = phi(q**0.5 * (c * z[:, None] + (1 - c * c) ** 0.5 * z[None, :])) @ w
    return float((weight * (w * phi(q**0.5 * z)) @ other + bias) / after)


def fixed_length(*, activation: str, weight: float, bias: float, start: float = 1.0) -> float:
    """q*, where the length map leads from `start`. Raises `ValueError` where it grows without bound or has not settled.

    >>> round(fixed_length(activation="tanh", weight=1.5, bias=0.1), 4)
    0.5202
    """
    q = start
    for _ in range(STEPS):
        after = length_map(q, activation=activation, weight=weight, bias=bias)
        if not after < 1e12:
            raise ValueError(f"the lengths grow without bound for {activation}, weight {weight}, bias {bias}")
        if abs(after - q) <= 1e-12 * max(q, 1e-12) or after < 1e-14:
            return after
        q = after
    return q if abs(after - q) < 1e-3 else float("nan")


@cache
def _nodes() -> tuple[np.ndarray, np.ndarray]:
    z, w = roots_hermitenorm(NODES)
    return z, w / w.sum()
