"""When a curve crosses a level, with an error."""

import numpy as np


def crossing(x: np.ndarray, y: np.ndarray, err: np.ndarray, level: float) -> tuple[float, float] | None:
    """(place, err) at which y first crosses `level` for good: afterwards it stays on the side where it ends.

        place by linear interpolation between the two points;   err² = (spacing)²/12 + (err_y / slope)²

    None where y never crosses. The slope is that of the interval, at least (level's distance) so that a flat crossing
    has a wide error.

    >>> crossing(np.arange(4.0), np.array([0.0, 0.0, 1.0, 1.0]), np.zeros(4), 0.5)
    (1.5, 0.28867513459481287)
    """
    x, y, err = np.asarray(x, float), np.asarray(y, float), np.broadcast_to(np.asarray(err, float), np.shape(y))
    side = np.sign(y - level)
    other = np.flatnonzero(side != side[-1])
    if side[-1] == 0 or not len(other) or other[-1] == len(y) - 1:
        return None
    i = int(other[-1])
    slope = (y[i + 1] - y[i]) / (x[i + 1] - x[i])
    place = x[i] + (level - y[i]) / slope
    noise = float(np.hypot(err[i], err[i + 1]) / abs(slope))
    return float(place), float(np.sqrt((x[i + 1] - x[i]) ** 2 / 12 + noise**2))


def fallen(steps: np.ndarray, values: np.ndarray, errs: np.ndarray, share: float) -> tuple[float, float] | None:
    """(log10 t, err) at which `share` of a curve's fall is done: from its first level to its least, of a median of three.

    The first level is the median of the first third of the points before the least (three at least); steps below 1 are
    left out; err is that of `crossing`. None where the curve does not fall.

    >>> t = np.array([1.0, 2, 4, 8, 16, 32, 64, 128, 256, 512]); y = np.array([4.0, 4, 4, 4, 4, 3, 2, 1, 0, 0])
    >>> round(10 ** fallen(t, y, 0 * t, 0.5)[0])
    64
    """
    keep = np.asarray(steps) >= 1
    x, y, err = np.log10(steps[keep]), values[keep], errs[keep]
    if len(y) < 6:
        return None
    smooth = np.array([np.median(y[max(i - 1, 0) : i + 2]) for i in range(len(y))])
    end = int(np.argmin(smooth))
    start = float(np.median(y[: max(end // 3, 3)]))
    if end < 3 or start <= smooth[end]:
        return None
    part = slice(0, end + 1)
    return crossing(x[part], smooth[part], err[part], start + share * (smooth[end] - start))
