"""Where several curves bend at once: continuous piecewise-linear segmentation, with the uncertainty of each bend."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from strobe.numerics.boundaries import supported


@dataclass(frozen=True, slots=True)
class Bends:
    """`at` (k,) positions on the x axis, `err` (k,) their standard errors, `slopes` (k + 1, m) of each piece of each curve.

    `bic` lists the criterion for 0, 1, ... bends; `noise` (m,) the residual scale that was used for each curve; `sure`
    (k,) how often resampled curves, segmented from scratch, have a bend within `apart` of each, beyond chance (`supported`).
    """

    at: np.ndarray
    err: np.ndarray
    slopes: np.ndarray
    bic: list[float]
    noise: np.ndarray
    sure: np.ndarray


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
    chosen, bic = _segment(x, scaled, inner, most, apart)
    fit, slopes = _fit(x, scaled, chosen)
    err = sure = np.zeros(0)
    if chosen:
        err = _spread(x, scaled, fit, chosen, inner, apart, draws, seed)
        sure = _support(x, scaled, fit, chosen, inner, most, apart, max(draws // 2, 1), seed)
    return Bends(x[chosen], err, slopes * noise, [float(b) for b in bic], noise, sure)


def _segment(x: np.ndarray, y: np.ndarray, inner: np.ndarray, most: int, apart: float) -> tuple[list[int], list[float]]:
    found: list[int] = []
    best, bic = [], []
    for k in range(most + 1):
        if k:
            found = _add(x, y, found, inner, apart)
            if len(found) < k:
                break
            found = _settle(x, y, found, inner, apart)
        bic.append(_cost(x, y, found) + np.log(y.size) * (k + k * len(y)))
        best.append(list(found))
    return best[int(np.argmin(bic))], bic


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
    rows = [sorted(_settle(x, z, list(places), inner, apart)) for z in _again(x, y, fit, draws, seed)]
    grid = np.gradient(x)[places]
    return np.sqrt(np.var(x[np.array(rows)], axis=0) + grid**2 / 12)


def _support(x: np.ndarray, y: np.ndarray, fit: np.ndarray, places: list[int], inner: np.ndarray, most: int, apart: float,
             draws: int, seed: int) -> np.ndarray:  # fmt: skip
    again = [x[_segment(x, z, inner, most, apart)[0]] for z in _again(x, y, fit, draws, seed)]
    return supported(x[places], again, max(apart, float(np.gradient(x).max())), float(np.ptp(x)))[0]


def _again(x: np.ndarray, y: np.ndarray, fit: np.ndarray, draws: int, seed: int) -> Iterator[np.ndarray]:
    """The fit plus moving blocks of its residuals plus noise of size 1: y is in units of the noise."""
    rng = np.random.default_rng(seed)
    rest, n = y - fit, len(x)
    block = max(2, n // 12)
    for _ in range(draws):
        starts = rng.integers(0, n - block + 1, size=n // block + 1)
        picked = np.concatenate([np.arange(s, s + block) for s in starts])[:n]
        sign = rng.choice([-1.0, 1.0])
        yield fit + sign * rest[:, picked] + rng.standard_normal(y.shape)  # what lies below the noise may be anything
