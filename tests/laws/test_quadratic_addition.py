"""The moments behind the law by brute force, its accuracy against networks drawn here, and phases that break it."""

import numpy as np
import pytest

from strobe.core.errors import BadOption
from strobe.laws.quadratic_addition import quadratic_addition


def right(p: int, width: int, seed: int, *, other: bool = False) -> float:
    """A slow one: every pair by the formula."""
    rng = np.random.default_rng(seed)
    k, a, b = rng.integers(1, (p - 1) // 2 + 1, width), *rng.uniform(-np.pi, np.pi, (2, width))
    out = rng.uniform(-np.pi, np.pi, width) if other else a + b
    n, hits = np.arange(p), 0
    for i in range(p):
        h = (np.cos(2 * np.pi * k * i / p + a) + np.cos(2 * np.pi * np.outer(n, k) / p + b)) ** 2  # (p, width)
        hits += ((h @ np.cos(2 * np.pi * np.outer(n, k) / p + out).T).argmax(1) == (i + n) % p).sum()
    return float(hits / p**2)


def test_the_law_is_the_average_accuracy_of_drawn_networks() -> None:
    widths = [31, 46, 62]
    got = np.array([[right(31, w, s) for s in range(60)] for w in widths])
    said = quadratic_addition(p=31, widths=widths)
    err = got.std(1, ddof=1) / 60**0.5
    assert (np.abs(got.mean(1) - said.value) < 0.02 + 3 * err).all()
    assert (np.diff(said.value) > 0.02).all()
    null = np.mean([right(31, 62, s, other=True) for s in range(5)])
    assert null < 0.1


def test_wide_networks_are_always_right_as_published() -> None:
    """Specification, after Gromov: accuracy 1.0 from width 2p on for p = 59 and 97, 8p for p = 31, 0.98 at p = 31, 2p."""
    assert quadratic_addition(p=97, widths=[194]).value[0] > 0.999
    assert quadratic_addition(p=59, widths=[118]).value[0] > 0.999
    assert quadratic_addition(p=31, widths=[62, 248]).value.round(2).tolist() == [0.98, 1.0]


def test_it_speaks_of_primes_and_of_widths_above_p() -> None:
    for knobs in (
        {"p": 33, "widths": [40]},
        {"p": 13, "widths": [40]},
        {"p": 31, "widths": [30]},
        {"p": 31, "widths": [31], "tol": 1.0},
    ):
        with pytest.raises(BadOption):
            quadratic_addition(**knobs)
