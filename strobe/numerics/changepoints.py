"""Where several curves bend at once: continuous piecewise-linear segmentation, with the uncertainty of each bend."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Bends:
    """`at` (k,) positions on the x axis, `err` (k,) their standard errors, `slopes` (k + 1, m) of each piece of each curve.

    `bic` lists the criterion for 0, 1, ... bends; `noise` (m,) the residual scale that was used for each curve.
    """

    at: np.ndarray
    err: np.ndarray
    slopes: np.ndarray
    bic: list[float]
    noise: np.ndarray


def bends(x: np.ndarray, curves: np.ndarray, noise: np.ndarray, *, most: int = 8, apart: float = 0.0,
          draws: int = 60, seed: int = 0) -> Bends:  # fmt: skip
    """Fit m curves on common points by continuous piecewise-linear functions that bend at the same places.

        minimise  Σ_j Σ_i (y_ij − f_j(x_i))² / noise_j²  +  log(n m) · (k + k m)        over k and the k bends

    Bends are added one by one at the best grid point, and after each addition all are moved to their best places in
    turn until nothing moves; k minimises the BIC above. Each bend counts one position and m slopes.

    Args: x (n,) increasing; curves (m, n); noise (m,) > 0: the scale below which a curve's shape means nothing;
    `apart`: the least distance of two bends. Err: standard deviation over `draws` refits to the fit plus resampled
    residuals (moving blocks, so that smooth misfit counts as what it is), with the grid's own resolution.
    Raises `ValueError` for shapes that do not match or fewer than 6 points.

    >>> x = np.linspace(0, 3, 40)
    >>> y = np.stack([np.maximum(x - 1, 0), np.minimum(x, 2)])
    >>> np.round(bends(x, y, np.array([0.02, 0.02])).at, 1).tolist()
    [1.0, 2.0]
    """
    x, curves, noise = np.asarray(x, float), np.atleast_2d(np.asarray(curves, float)), np.asarray(noise, float)
    n, m = len(x), len(curves)
    if n < 6 or curves.shape[1] != n or noise.shape != (m,) or not (noise > 0).all() or not (np.diff(x) > 0).all():
        raise ValueError(
            f"bends needs >= 6 increasing points and one noise > 0 per curve, got x {x.shape}, curves {curves.shape}"
        )
    scaled = curves / noise[:, None]
    inner = np.arange(1, n - 1)
    apart = max(apart, 1e-12)
    found: list[int] = []
    best, bic = [], []
    for k in range(most + 1):
        if k:
            found = _add(x, scaled, found, inner, apart)
            if len(found) < k:
                break
            found = _settle(x, scaled, found, inner, apart)
        bic.append(_cost(x, scaled, found) + np.log(n * m) * (k + k * m))
        best.append(list(found))
    chosen = best[int(np.argmin(bic))]
    fit, slopes = _fit(x, scaled, chosen)
    err = _spread(x, scaled, fit, chosen, inner, apart, draws, seed) if chosen else np.zeros(0)
    return Bends(x[chosen], err, slopes * noise, [float(b) for b in bic], noise)


def _basis(x: np.ndarray, places: list[int]) -> np.ndarray:
    hinges = np.maximum(x[:, None] - x[places][None, :], 0) if places else np.zeros((len(x), 0))
    return np.concatenate([np.ones((len(x), 1)), x[:, None], hinges], axis=1)


def _fit(x: np.ndarray, y: np.ndarray, places: list[int]) -> tuple[np.ndarray, np.ndarray]:
    a = _basis(x, sorted(places))
    c = np.linalg.lstsq(a, y.T, rcond=None)[0]
    return (a @ c).T, np.cumsum(c[1:], axis=0)


def _cost(x: np.ndarray, y: np.ndarray, places: list[int]) -> float:
    return float(np.square(y - _fit(x, y, places)[0]).sum())


def _allowed(x: np.ndarray, others: list[int], inner: np.ndarray, apart: float) -> np.ndarray:
    if not others:
        return inner
    gap = np.abs(x[inner][:, None] - x[others][None, :]).min(1)
    return inner[gap >= apart]


def _add(x: np.ndarray, y: np.ndarray, places: list[int], inner: np.ndarray, apart: float) -> list[int]:
    """The best place for one more bend: project every candidate hinge out of the present basis, all at once."""
    options = _allowed(x, places, inner, apart)
    if not len(options):
        return places
    q = np.linalg.qr(_basis(x, sorted(places)))[0]
    rest = y.T - q @ (q.T @ y.T)
    hinge = np.maximum(x[:, None] - x[options][None, :], 0)
    hinge = hinge - q @ (q.T @ hinge)
    size = np.square(hinge).sum(0)
    gain = np.where(size > 1e-9, np.square(hinge.T @ rest).sum(1) / np.maximum(size, 1e-9), -1.0)
    return sorted([*places, int(options[int(np.argmax(gain))])])


def _settle(x: np.ndarray, y: np.ndarray, places: list[int], inner: np.ndarray, apart: float) -> list[int]:
    for _ in range(20):
        before = list(places)
        for p in before:
            places = _add(x, y, [q for q in places if q != p], inner, apart)
        if places == before:
            break
    return places


def _spread(x: np.ndarray, y: np.ndarray, fit: np.ndarray, places: list[int], inner: np.ndarray, apart: float,
            draws: int, seed: int) -> np.ndarray:  # fmt: skip
    rng = np.random.default_rng(seed)
    rest, n = y - fit, len(x)
    block = max(2, n // 12)
    rows = []
    for _ in range(draws):
        starts = rng.integers(0, n - block + 1, size=n // block + 1)
        picked = np.concatenate([np.arange(s, s + block) for s in starts])[:n]
        sign = rng.choice([-1.0, 1.0])
        white = rng.standard_normal(y.shape)  # y is in units of the noise: what lies below it may be anything
        rows.append(sorted(_settle(x, fit + sign * rest[:, picked] + white, list(places), inner, apart)))
    grid = np.gradient(x)[places]
    return np.sqrt(np.var(x[np.array(rows)], axis=0) + grid**2 / 12)
