"""A function of means, and its error, from parts that are independent: leave one out."""

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike


def jackknife(parts: ArrayLike, of: Callable[[np.ndarray], ArrayLike]) -> tuple[np.ndarray, np.ndarray]:
    """`of` the mean of C independent `parts` (C, ...), freed of its bias to order 1/C, and its standard error.

        θ = C θ̂ - (C - 1) mean θ₋ᵢ,     err² = (C - 1)/C Σ (θ₋ᵢ - mean θ₋ⱼ)²

    with θ̂ that of all and θ₋ᵢ that without part i. Chains that began alike and ran apart are such parts, and what
    is averaged may be moments: a variance, the log of a mean. Of C parts err is itself known to 1/√(2C) only.
    Raises `ValueError` for fewer than 2 parts, or numbers that are not finite. Cost: C + 1 times `of`.
    Ref: Efron, The Jackknife, the Bootstrap and Other Resampling Plans (1982), chapters 2 and 3.

    >>> x = np.random.default_rng(0).normal(3.0, 2.0, 400)
    >>> value, err = jackknife(np.stack([x, x * x], 1), lambda m: m[1] - m[0] ** 2)
    >>> bool(abs(value - x.var(ddof=1)) < 1e-9), bool(abs(err / (4 * (2 / 400) ** 0.5) - 1) < 0.1)
    (True, True)
    """
    x = np.asarray(parts, float)
    if x.ndim < 1 or len(x) < 2:
        raise ValueError(f"the jackknife leaves one of two or more parts out, got shape {x.shape}")
    if not np.isfinite(x).all():
        raise ValueError(f"part {int(np.argwhere(~np.isfinite(x))[0][0])} is not finite")
    c, mean = len(x), x.mean(0)
    all_of_them = np.asarray(of(mean), float)
    without = np.stack([np.asarray(of(mean + (mean - part) / (c - 1)), float) for part in x])
    centre = without.mean(0)
    return c * all_of_them - (c - 1) * centre, np.sqrt((c - 1) / c * ((without - centre) ** 2).sum(0))
