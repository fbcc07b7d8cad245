"""Closed forms of diagonal networks: one datum, uncorrelated inputs, both ends of the start; and a descent that agrees."""

import numpy as np
import pytest
from scipy.optimize import linprog

from strobe.core.errors import BadOption, Diverged
from strobe.laws.diagonal_net import alternating_gradient_flow, diagonal_net_bias
from strobe.studies.implicit_bias import descend_diagonal


def problem(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((6, 12))
    return X, X[:, 0] - X[:, 3]


def test_a_large_start_is_least_squares_and_a_small_one_basis_pursuit() -> None:
    X, y = problem()
    two = np.linalg.pinv(X) @ y
    split = linprog(np.ones(24), A_eq=np.hstack([X, -X]), b_eq=y).x
    one = split[:12] - split[12:]
    assert np.allclose(diagonal_net_bias(x=X, y=y, alpha=100.0).value, two, atol=1e-6)
    assert np.allclose(diagonal_net_bias(x=X, y=y, alpha=1e-7).value, one, atol=0.05)
    assert np.linalg.norm(one - two) > 0.3
    with pytest.raises(Diverged, match="a larger alpha"):
        diagonal_net_bias(x=X, y=y, alpha=1e-30)


def test_one_datum_by_hand() -> None:
    """β_i = 2α² sinh(x_i ν) with Σ x_i β_i = y; for equal inputs all β are y / d."""
    assert np.allclose(diagonal_net_bias(x=[[1.0, 1.0, 1.0]], y=[0.6], alpha=0.05).value, 0.2)
    said = diagonal_net_bias(x=[[2.0, 1.0]], y=[1.0], alpha=0.1).value
    assert 2 * said[0] + said[1] == pytest.approx(1.0)
    assert np.arcsinh(said[0] / 0.02) == pytest.approx(2 * np.arcsinh(said[1] / 0.02))


def test_descent_ends_there_and_large_steps_do_not() -> None:
    X, y = problem(1)
    for alpha in (0.03, 0.3):
        said = diagonal_net_bias(x=X, y=y, alpha=alpha)
        beta, left, _ = descend_diagonal(X, y, np.array([alpha]))
        assert left[0] < 1e-3 * np.linalg.norm(y)
        assert np.abs(beta[0] - said.value).max() < said.tol
    rate, up = 1.0 / np.linalg.norm(X, 2) ** 2 * 6, np.full(12, 0.3)
    down = up.copy()
    for _ in range(20_000):
        g = (y - (up**2 - down**2) @ X.T) @ X / 6
        up, down = up + rate * 2 * g * up, down - rate * 2 * g * down
    if np.abs(y - (up**2 - down**2) @ X.T).max() < 1e-3:  # where large steps end at all
        assert np.abs(up**2 - down**2 - said.value).max() > said.tol


def test_uncorrelated_inputs_rise_at_their_own_times() -> None:
    """X = diag(a): g_i = a_i y_i / n, so t_i = ln(√θ / α) / (2 g_i), and the plateau after it is what is left."""
    a, y = np.array([2.0, 1.0, 1.5]), np.array([1.5, 1.0, -0.5])
    knobs = {"x": np.diag(a).tolist(), "y": y.tolist(), "alpha": 1e-9, "threshold": 0.04}
    g = a * y / 3
    times = np.log(0.2 / 1e-9) / (2 * np.abs(g))
    order = np.argsort(times)
    assert np.allclose(alternating_gradient_flow(**knobs).value, times[order])
    assert alternating_gradient_flow(**knobs, of="order").value.tolist() == order.tolist()
    left = [((y**2).sum() - (y[order[: i + 1]] ** 2).sum()) / 6 for i in range(3)]
    assert np.allclose(alternating_gradient_flow(**knobs, of="losses").value, left)
    first = alternating_gradient_flow(**knobs, until=times[order[0]] * 1.3)
    assert np.allclose(first.value, times[order][:1])  # later ones are not claimed
    with pytest.raises(BadOption, match="no coordinate rises"):
        alternating_gradient_flow(**knobs, until=1.0)


def test_coordinates_that_rise_together_are_not_claimed() -> None:
    knobs = {"x": np.diag([1.0, 1.0, 0.5]).tolist(), "y": [1.0, 0.99, 1.0], "alpha": 1e-9}
    assert alternating_gradient_flow(**knobs, of="order").value.tolist() == [2]
