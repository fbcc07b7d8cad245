import numpy as np
import pytest

from strobe.laws.scaling import compute_optimal, quanta, scaling_law


def test_published_numbers() -> None:
    """Hoffmann et al., arXiv:2203.15556: E 1.69, A 406.4, B 410.7, α .34, β .28; a = .46 in table 2, approach 3."""
    assert compute_optimal(alpha=0.34, beta=0.28).value == pytest.approx(0.46, abs=0.01)
    gopher = scaling_law(sizes=[280e9], examples=[300e9], floor=1.69, a=406.4, b=410.7, alpha=0.34, beta=0.28)
    assert gopher.value[0] == pytest.approx(
        1.993, abs=0.005
    )  # the loss their formula gives for 280B parameters, 300B tokens


def test_the_best_split_is_the_lowest_point_of_the_surface() -> None:
    budget = np.array([1e20, 1e24])
    n = np.logspace(6, 14, 20001)
    best = [n[np.argmin(400 * n**-0.5 + 300 * (c / 6 / n) ** -0.3)] for c in budget]
    exponent = np.diff(np.log(best))[0] / np.diff(np.log(budget))[0]
    assert compute_optimal(alpha=0.5, beta=0.3).value == pytest.approx(exponent, abs=2e-3)


def test_tasks_learned_one_by_one_leave_the_loss_of_the_rest() -> None:
    """Σ over the tasks not yet learned at t (those with p_k t < 1) of p_k falls as t^(−α/(α+1))."""
    k = np.arange(1, 2_000_001.0)
    p = k**-1.4 / np.sum(k**-1.4)
    t = np.array([1e3, 1e4])
    left = [p[p * x < 1].sum() for x in t]
    assert quanta(alpha=0.4, of="steps").value == pytest.approx(
        np.diff(np.log(left))[0] / np.diff(np.log(t))[0], abs=0.02
    )
