"""Functions of bits as sums of parities: the fast Walsh-Hadamard transform."""

import numpy as np


def walsh(values: np.ndarray) -> np.ndarray:
    """Coefficients of a function of d bits in parities, (..., 2^d) -> (..., 2^d).

        c_S = 2^-d sum_x f(x) (-1)^(bits of x in S),    f(x) = sum_S c_S (-1)^(bits of x in S)

    Input x and set S are both numbers below 2^d: bit b of x is its value at place b, bit b of S says whether b is in S.
    The mean of f² is the sum of the c_S² (Parseval). Doing it twice gives f / 2^d.
    Cost: d 2^d additions. Raises `ValueError` where the length is no power of 2, or for a NaN.

    >>> walsh(np.array([1.0, -1.0, -1.0, 1.0]))                                          # the parity of two bits
    array([0., 0., 0., 1.])
    """
    out = np.array(values, float)
    size = out.shape[-1] if out.ndim else 0
    if size < 1 or size & (size - 1):
        raise ValueError(f"a function of d bits has 2^d values, got {size}")
    if not np.isfinite(out).all():
        raise ValueError("the values must be finite: one NaN is in every coefficient")
    half = 1
    while half < size:
        pairs = out.reshape(*out.shape[:-1], -1, 2, half)
        low, high = pairs[..., 0, :], pairs[..., 1, :]
        out = np.stack([low + high, low - high], axis=-2).reshape(out.shape)
        half *= 2
    return np.asarray(out / size)
