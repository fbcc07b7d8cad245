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
