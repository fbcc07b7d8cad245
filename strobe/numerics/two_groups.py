"""Where to cut a list of numbers in a low and a high group, when nobody says how many are high."""

import numpy as np


def two_groups(values: np.ndarray) -> float:
    """The cut t that leaves the least spread inside the groups; halfway between the two values it parts.

        t = argmax  k (n − k) (mean of the n − k highest − mean of the k lowest)²

    Regime: the numbers have two humps. Where they have one it cuts that in two all the same, so look at what it parts.
    Cost: a sort. Raises `ValueError` without two distinct finite numbers. Ref: Otsu 1979, on values instead of a
    histogram.

    >>> two_groups(np.array([0.1, 0.2, 0.3, 4.0, 5.0]))
    2.15
    """
    x = np.sort(np.asarray(values, float))
    if not np.isfinite(x).all() or len(x) < 2 or x[0] == x[-1]:
        raise ValueError("two groups need at least two distinct finite numbers")
    n, k, total = len(x), np.arange(1, len(x)), np.cumsum(x)
    low, high = total[:-1] / k, (total[-1] - total[:-1]) / (n - k)
    i = int((k * (n - k) * (high - low) ** 2).argmax())
    return float((x[i] + x[i + 1]) / 2)
