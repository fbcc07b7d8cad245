"""Errors of kernel ridge regression on average over the sample, from the kernel's spectrum: the eigenframework."""

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq


@dataclass(frozen=True, slots=True)
class Eigenlearning:
    """What n examples teach: κ, the learnability of each mode (modes,), and the overfitting coefficient."""

    n: int
    ridge: float
    kappa: float
    learnability: np.ndarray
    overfitting: float

    def test(self, coefficients: np.ndarray, noise: float = 0.0) -> float:
        """E₀ (Σ (1 − L_i)² c_i² + noise), the noise of new targets in it; coefficients (modes,) or (modes, outputs), summed over these."""
        return float(self.overfitting * (np.square(1 - self.learnability) @ _power(coefficients) + noise))

    def train(self, coefficients: np.ndarray, noise: float = 0.0) -> float:
        """(ridge / n κ)² of the test error."""
        return (self.ridge / (self.n * self.kappa)) ** 2 * self.test(coefficients, noise)

    def learned(self, coefficients: np.ndarray) -> float:
        """Σ L_i c_i² / Σ c_i²: the mean inner product of what is learned with the target, in units of the target's own."""
        power = _power(coefficients)
        return float(self.learnability @ power / power.sum())


def eigenlearning(spectrum: np.ndarray, n: int, ridge: float) -> Eigenlearning:
    """Of the regression f̂ = k(·, X)(K + ridge 1)⁻¹ y on n examples.

        Σ_i λ_i/(λ_i + κ) + ridge/κ = n,    L_i = λ_i/(λ_i + κ),    E₀ = n / (n − Σ L_i²)

    Args: spectrum, eigenvalues of the kernel's integral operator over the population (of M points: those of K/M); ridge, not divided by n.
    Raises `ValueError` where there is no κ > 0: no ridge and no more modes than examples.
    Ref: Simon et al., arXiv:2110.03922, equations 4 to 8.

    >>> got = eigenlearning(np.ones(100), 50, 0.0)
    >>> round(got.kappa, 6), round(got.overfitting, 6)
    (1.0, 2.0)
    """
    lam = np.asarray(spectrum, float)
    lam = lam[lam > 0]
    if n < 1 or ridge < 0 or not np.isfinite(lam).all() or (ridge == 0 and len(lam) <= n):
        raise ValueError(
            f"wanted n >= 1, ridge >= 0, and without a ridge more than n modes; got n {n}, ridge {ridge}, {len(lam)} modes"
        )
    excess = lambda log: float((lam / (lam + math.exp(log))).sum() + ridge * math.exp(-log) - n)  # noqa: E731
    kappa = math.exp(brentq(excess, math.log(lam.min()) - 80 if ridge == 0 else math.log(min(lam.min(), ridge / n)) - 5,
                            math.log(lam.sum() + ridge + 1e-300) + 5, xtol=1e-13))  # fmt: skip
    learned = np.asarray(spectrum, float) / (np.asarray(spectrum, float) + kappa)
    return Eigenlearning(n, ridge, kappa, learned, float(n / (n - np.square(learned).sum())))


def eigenbasis(kernel: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spectrum (M,) of a kernel (M, M) over a population of M points, descending, and the targets' coefficients, (M,) or (M, outputs).

        K/M = U diag(λ) Uᵀ,   φ_i = √M u_i,   c_i = Σ_x φ_i(x) y(x) / M

    >>> lam, c = eigenbasis(2 * np.eye(2), np.array([1.0, 3.0]))
    >>> lam.tolist(), round(float((c**2).sum()), 6)
    ([1.0, 1.0], 5.0)
    """
    lam, u = np.linalg.eigh(np.asarray(kernel, float))
    m = len(lam)
    return np.maximum(lam[::-1], 0) / m, u.T[::-1] @ np.asarray(targets, float) / m**0.5


def dual(kernel: np.ndarray, targets: np.ndarray, ridge: float) -> tuple[np.ndarray, np.ndarray]:
    """Dual coefficients α = G⁻¹ y, like the targets, and the diagonal of G⁻¹ (n,), G = K + ridge 1.

    >>> a, d = dual(np.eye(2), np.array([1.0, 2.0]), 1.0)
    >>> a.tolist(), d.tolist()
    ([0.5, 1.0], [0.5, 0.5])
    """
    inverse = np.linalg.inv(np.asarray(kernel, float) + ridge * np.eye(len(kernel)))
    return inverse @ np.asarray(targets, float), np.diag(inverse).copy()


def hermite_modes(variances: Sequence[float], width: float, most: int) -> dict[tuple[int, ...], float]:
    """The largest eigenvalues of the kernel exp(−|x − x'|²/2s²) on normal data of these variances, by mode.

        λ_α = exp(−r²/s²) Π_i γ_i^{α_i} / s^{2|α|},    r² = Σ γ_i

    A mode is the sorted tuple of its coordinates, () the constant, (0, 0) the second Hermite polynomial of coordinate 0.
    Ref: the Hermite eigenstructure ansatz, arXiv:2510.14878, with the coefficients of the Gaussian kernel.

    >>> {k: round(v, 4) for k, v in hermite_modes([0.5, 0.3], 1.0, 3).items()}
    {(): 0.4493, (0,): 0.2247, (1,): 0.1348}
    """
    gamma = [float(v) for v in variances]
    order = sorted(range(len(gamma)), key=lambda i: -gamma[i])
    first = math.exp(-sum(gamma) / width**2)
    heap: list[tuple[float, tuple[int, ...]]] = [(-first, ())]  # places in `order`, each mode reached once
    found: dict[tuple[int, ...], float] = {}
    while heap and len(found) < most:
        minus, places = heapq.heappop(heap)
        found[tuple(sorted(order[p] for p in places))] = -minus
        last = places[-1] if places else 0
        heapq.heappush(heap, (minus * gamma[order[last]] / width**2, (*places, last)))
        if places and last + 1 < len(order):  # the sibling: the last coordinate moved on by one
            heapq.heappush(heap, (minus * gamma[order[last + 1]] / gamma[order[last]], (*places[:-1], last + 1)))
    return found


def hermite_coefficients(modes: Mapping[tuple[int, ...], float], target: Mapping[tuple[int, ...], float]) -> np.ndarray:
    """The target's coefficients in the order of the modes. Raises `ValueError` for one that is not among them."""
    if missing := [k for k in target if tuple(sorted(k)) not in modes]:
        raise ValueError(f"mode {missing[0]} of the target is not among the {len(modes)} largest: ask for more")
    at = {k: i for i, k in enumerate(modes)}
    c = np.zeros(len(modes))
    for k, v in target.items():
        c[at[tuple(sorted(k))]] += v
    return c


def _power(coefficients: np.ndarray) -> np.ndarray:
    c = np.asarray(coefficients, float)
    return np.square(c) if c.ndim == 1 else np.square(c).sum(1)
