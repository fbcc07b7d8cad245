"""A power law that falls onto a floor: its exponent, and how sure it is."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar, nnls

GRID = np.geomspace(0.02, 5, 60)


@dataclass(frozen=True, slots=True)
class Decay:
    """y = floor + scale · x^−exponent; `err` of the exponent; `misfit`, χ² for each degree of freedom (nan where there is none).

    `drift`, the exponent of the upper half of x less that of the lower half, above the same floor: 0 for a power law.
    """

    exponent: float
    err: float
    scale: float
    floor: float
    misfit: float
    drift: float


def decay(
    x: np.ndarray, y: np.ndarray, err: np.ndarray, *, floor: float | None = None, draws: int = 200, seed: int = 0
) -> Decay:
    """Weighted least squares of y = floor + scale · x^−k, only k searched (variable projection); floor, scale >= 0.

        min over k of min over floor, scale >= 0 of Σ ((floor + scale x^−k − y) / err)²        0.02 <= k <= 5

    Args: x > 0; y; err > 0, one standard error of each y, independent; floor, where it is known (then it is not fitted); draws of the
    parametric bootstrap that gives the exponent's error, its noise made larger by √misfit where the curve misses the points.
    Raises `ValueError` for fewer than 3 points (4 where the floor is fitted), or numbers that are not finite or not positive.
    Ref: Golub and Pereyra 1973, variable projection.

    >>> x = np.array([1.0, 2, 4, 8, 16])
    >>> found = decay(x, 0.5 + 2 * x**-1.5, np.full(5, 1e-6))
    >>> round(found.exponent, 3), round(found.floor, 3)
    (1.5, 0.5)
    """
    x, y, err = (np.asarray(v, float) for v in (x, y, err))
    least = 3 if floor is not None else 4
    if len(x) < least or not len(x) == len(y) == len(err):
        raise ValueError(f"a decay needs at least {least} points of x, y and err, got {len(x)}, {len(y)}, {len(err)}")
    if not (np.isfinite(y).all() and (x > 0).all() and (err > 0).all() and np.isfinite(err).all()) or draws < 2:
        raise ValueError("a decay needs finite y, positive finite x and err, and 2 draws or more")
    k, base, scale, left = _fit(x, y, err, floor)
    free = len(x) - (2 if floor is not None else 3)
    misfit = left / free if free else float("nan")
    said, noise = base + scale * x**-k, err * max(1.0, misfit if free else 1.0) ** 0.5
    rng = np.random.default_rng(seed)
    again = [_fit(x, said + noise * rng.standard_normal(len(x)), err, floor, k)[0] for _ in range(draws)]
    order, half = np.argsort(x), (len(x) + 1) // 2
    early, late = (_fit(x[i], y[i], err[i], base)[0] for i in (order[:half], order[-half:]))
    return Decay(k, float(np.std(again, ddof=1)), scale, base, misfit, late - early)


def _fit(
    x: np.ndarray, y: np.ndarray, err: np.ndarray, floor: float | None, close: float | None = None
) -> tuple[float, float, float, float]:
    """(k, floor, scale, χ²); with `close` k is sought within a factor of 4 of it."""
    log = np.log(x) - np.log(x).mean()
    known = 0.0 if floor is None else floor
    target = (y - known) / err

    def inner(k: float) -> tuple[np.ndarray, float]:
        columns = [np.exp(-k * log) / err] + ([1 / err] if floor is None else [])
        found, rest = nnls(np.stack(columns, 1), target)
        return found, float(rest**2)

    grid = GRID if close is None else np.clip(close * np.geomspace(0.25, 4, 7), GRID[0], GRID[-1])
    at = int(np.argmin([inner(k)[1] for k in grid]))
    near = (grid[max(at - 1, 0)], grid[min(at + 1, len(grid) - 1)])
    k = float(minimize_scalar(lambda k: inner(k)[1], bounds=near, method="bounded", options={"xatol": 1e-6}).x)
    found, left = inner(k)
    base = float(found[1]) if floor is None else known
    return k, base, float(found[0] * np.exp(k * np.log(x).mean())), left
