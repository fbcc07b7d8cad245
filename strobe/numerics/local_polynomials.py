"""Smooth curves through noisy points with their first two derivatives: local quadratic fits, as matrices."""

import numpy as np


def local_polynomials(x: np.ndarray, at: np.ndarray, width: np.ndarray, *, least: float = 4.0) -> np.ndarray:
    """Matrices (3, m, n) that take values at x (n,) to value, slope and second derivative of their smooth curve at `at`.

        minimise over c:  Σ_i exp(−(x_i − a)² / 2w²) (y_i − c_0 − c_1 (x_i − a) − c_2 (x_i − a)²/2)²,    w = width(a)

    Args: x increasing, `at` (m,), `width` (m,) > 0 in units of x. A width under which fewer than `least` points would
    count is doubled until they do. Linear in the values, so that a thousand resampled curves cost one product.
    Raises `ValueError` for fewer than 4 points or shapes that do not match.

    >>> x = np.linspace(0, 1, 9)
    >>> value, slope, bend = local_polynomials(x, np.array([0.5]), np.array([0.2])) @ (3 * x**2)
    >>> np.round([value[0], slope[0], bend[0]], 9).tolist()
    [0.75, 3.0, 6.0]
    """
    x, at = np.asarray(x, float), np.asarray(at, float)
    width = np.broadcast_to(np.asarray(width, float), at.shape).copy()
    if x.ndim != 1 or len(x) < 4 or not (np.diff(x) > 0).all() or not (width > 0).all():
        raise ValueError(f"local_polynomials needs >= 4 increasing points and widths > 0, got x {x.shape}")
    out = np.empty((3, len(at), len(x)))
    least = min(least, len(x) - 0.5)
    for j, a in enumerate(at):
        d = x - a
        while (kernel := np.exp(-0.5 * (d / width[j]) ** 2)).sum() < least and width[j] < 1e3 * np.ptp(x):
            width[j] *= 1.25
        root = np.sqrt(kernel)[:, None]
        scale = width[j]  # so that the columns are of one size
        basis = np.stack([np.ones_like(d), d / scale, (d / scale) ** 2 / 2], 1)
        out[:, j] = np.linalg.pinv(basis * root) * root.T / np.array([1.0, scale, scale**2])[:, None]
    return out


def log_widths(x: np.ndarray, width: float) -> np.ndarray:
    """Widths that grow with log time: at x = log10 t, width · (1 + x) / (1 + last x); the last is `width` decades.

    >>> log_widths(np.array([0.0, 1.0, 3.0]), 0.2).tolist()
    [0.05, 0.1, 0.2]
    """
    x = np.asarray(x, float)
    return width * (1 + np.maximum(x, 0)) / (1 + max(float(x.max()), 0.0))


def resampled(x: np.ndarray, y: np.ndarray, width: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """Curves (draws, n, ...): the smooth curve through y (n, ...) plus moving blocks of its residuals, with random signs.

    A residual is divided by √(1 − 2 S_ii + Σ_j S_ij²) of the smoother S first: the curve takes a part of the noise with it.
    """
    smooth = local_polynomials(x, x, width)[0]
    left = 1 - 2 * np.diag(smooth) + np.square(smooth).sum(1)
    fit = smooth @ y
    rest = (y - fit) / np.sqrt(np.maximum(left, 0.05)).reshape(-1, *[1] * (y.ndim - 1))
    n = len(y)
    block = min(max(2, n // 12), n)
    starts = rng.integers(0, n - block + 1, size=(draws, n // block + 1))
    rows = (starts[:, :, None] + np.arange(block)).reshape(draws, -1)[:, :n]
    sign = rng.choice([-1.0, 1.0], size=(draws, *[1] * y.ndim))
    return fit + sign * rest[rows]
