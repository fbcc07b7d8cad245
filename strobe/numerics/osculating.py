"""Osculating circles of a curve: curvature, centres (the evolute), and the places where it turns."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np


@dataclass(frozen=True, slots=True)
class Circles:
    """Of each point of a curve (n, k): `curvature` κ (n,), `centre` (n, k) of its osculating circle, `turning` (n,) rad per unit."""

    curvature: np.ndarray
    centre: np.ndarray
    turning: np.ndarray


def osculating(position: np.ndarray, velocity: np.ndarray, acceleration: np.ndarray) -> Circles:
    """Osculating circles of a curve γ in any dimension from its first two derivatives, arrays (n, k) or (draws, n, k).

        κ = |γ' ∧ γ''| / |γ'|³,     centre = γ + n / κ  with n the unit normal in the plane of γ', γ'',     turning = κ |γ'|

    The centre c is the one point for which Φ_c(t) = ½|γ(t) − c|² has no first, second derivative at t; where κ has an
    extremum (a vertex) the third is zero too, and the centres' own curve, the evolute, has a cusp. Where the curve is
    straight or stands still the centre is at 1e12 lengths at most, never NaN.

    >>> t = np.linspace(0, 3, 4)[:, None]
    >>> circle = np.concatenate([2 * np.cos(t), 2 * np.sin(t)], 1)
    >>> found = osculating(circle, np.concatenate([-2 * np.sin(t), 2 * np.cos(t)], 1), -circle)
    >>> np.round(found.curvature, 9).tolist(), bool(np.allclose(found.centre, 0))
    ([0.5, 0.5, 0.5, 0.5], True)
    """
    speed2 = np.maximum(np.square(velocity).sum(-1), 1e-300)
    along = (acceleration * velocity).sum(-1) / speed2
    normal = acceleration - along[..., None] * velocity
    size = np.sqrt(np.square(normal).sum(-1))
    curvature = size / speed2
    radius = 1 / np.maximum(curvature, 1e-12)
    centre = position + radius[..., None] * normal / np.maximum(size, 1e-300)[..., None]
    return Circles(curvature, centre, size / np.sqrt(speed2))


def turns(x: np.ndarray, circles: Circles, least: float) -> tuple[np.ndarray, np.ndarray]:
    """(places, angles): the curvature's maxima where the curve turns by at least `least` radians.

    Each maximum owns the arc to the minima beside it, and turns by ∫ turning dx there; the one that turns least is given
    to the neighbour over the higher minimum, until all turn enough. Neither scale nor speed of the curve matters.

    >>> t = np.linspace(0, 4, 401)
    >>> bend = np.exp(-((t - 1.5) / 0.1) ** 2) * 12
    >>> places, angles = turns(t, Circles(bend, np.zeros((401, 2)), bend), 0.5)
    >>> np.round(places, 2).tolist(), np.round(angles, 1).tolist()
    ([1.5], [2.1])
    """
    k = circles.curvature
    inner = np.flatnonzero((k[1:-1] >= k[:-2]) & (k[1:-1] > k[2:])) + 1
    if not len(inner):
        return np.zeros(0), np.zeros(0)
    steps = np.diff(x) * (circles.turning[1:] + circles.turning[:-1]) / 2
    total = np.concatenate([[0.0], np.cumsum(steps)])
    peaks = inner.tolist()
    edges = [0, *(a + int(np.argmin(k[a:b])) for a, b in pairwise(peaks)), len(x) - 1]
    while peaks:
        angles = np.diff(total[edges])
        i = int(np.argmin(angles))
        if angles[i] >= least:
            return x[peaks], angles
        if len(peaks) == 1:
            break
        left, right = (k[edges[i]] if i else -1.0), (k[edges[i + 1]] if i + 1 < len(peaks) else -1.0)
        j = i - 1 if left >= right else i + 1
        keep = peaks[j] if k[peaks[j]] >= k[peaks[i]] else peaks[i]
        a = min(i, j)
        peaks[a : a + 2] = [keep]
        del edges[a + 1]
    return np.zeros(0), np.zeros(0)
