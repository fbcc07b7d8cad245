import numpy as np
import pytest

from strobe.numerics.changepoints import bends


def brute(x: np.ndarray, y: np.ndarray) -> int:
    """The best single bend, by trying every one."""
    costs = []
    for i in range(1, len(x) - 1):
        a = np.stack([np.ones_like(x), x, np.maximum(x - x[i], 0)], 1)
        costs.append(np.square(y - a @ np.linalg.lstsq(a, y, rcond=None)[0]).sum())
    return int(np.argmin(costs)) + 1


def test_exact_bends_are_found_and_counted() -> None:
    x = np.linspace(0, 4, 81)
    y = np.stack([np.interp(x, [0, 1, 2.5, 4], [0, 0, 3, 3]), np.interp(x, [0, 2.5, 4], [1, 1, -1])])
    found = bends(x, y, np.array([0.02, 0.02]))
    assert np.allclose(found.at, [1.0, 2.5], atol=0.051)
    assert np.allclose(found.slopes[:, 0], [0, 2, 0], atol=0.05)


def test_a_line_has_no_bend() -> None:
    x = np.linspace(0, 1, 30)
    rng = np.random.default_rng(0)
    assert not len(bends(x, 3 * x + 0.05 * rng.standard_normal(30), np.array([0.05])).at)


def test_the_projected_search_agrees_with_trying_every_place() -> None:
    rng = np.random.default_rng(1)
    for _ in range(20):
        x = np.sort(rng.uniform(0, 1, 25))
        y = np.interp(x, [0, rng.uniform(0.3, 0.7), 1], rng.standard_normal(3) * 3) + 0.05 * rng.standard_normal(25)
        found = bends(x, y, np.array([0.05]), most=1)
        if len(found.at):
            assert found.at[0] == x[brute(x, y)]


def test_the_error_of_a_bend_is_honest_over_noise() -> None:
    x = np.linspace(0, 3, 60)
    clean = np.interp(x, [0, 1.5, 3], [0, 0, 2])
    at, err = [], []
    for seed in range(24):
        rng = np.random.default_rng(seed)
        found = bends(x, clean + 0.1 * rng.standard_normal(60), np.array([0.1]), most=1)
        at.append(found.at[0])
        err.append(found.err[0])
    assert np.std(at) <= 2 * np.mean(err)
    assert np.mean(np.abs(np.array(at) - 1.5) <= 2 * np.array(err)) >= 0.8


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="6 increasing points"):
        bends(np.arange(4.0), np.zeros((1, 4)), np.ones(1))
    with pytest.raises(ValueError, match="noise > 0"):
        bends(np.arange(9.0), np.zeros((1, 9)), np.zeros(1))
