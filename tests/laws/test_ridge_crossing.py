"""The crossing from ridge to dMMSE: the balance it says it solves, and how it moves with the tasks."""

import numpy as np
import pytest

from strobe.core.errors import BadOption
from strobe.laws.incontext_predictors import dmmse, ridge
from strobe.laws.ridge_crossing import ridge_crossing

TASKS = np.random.default_rng(1).standard_normal((6, 2))


def test_at_the_crossing_the_losses_weigh_as_much_as_the_degeneracy() -> None:
    """ΔL by other draws, from the predictors themselves."""
    got = ridge_crossing(tasks=TASKS.tolist(), length=8, noise=0.125, rise=60.0)
    rng = np.random.default_rng(5)
    t, x = TASKS[rng.integers(6, size=20_000)], rng.standard_normal((20_000, 8, 2))
    y = np.einsum("nkd,nd->nk", x, t) + 0.125**0.5 * rng.standard_normal((20_000, 8))
    off = (y - ridge(x, y, noise=0.125)) ** 2 - (y - dmmse(x, y, tasks=TASKS, noise=0.125)) ** 2
    n = np.exp(got.value)
    assert n * off.sum(1).mean() / 0.25 == pytest.approx(60.0 * np.log(n), rel=0.1)


def test_it_is_later_with_more_tasks_and_with_a_larger_rise() -> None:
    many = np.random.default_rng(1).standard_normal((64, 2))

    def at(tasks: np.ndarray, rise: float) -> float:
        return float(ridge_crossing(tasks=tasks.tolist(), length=8, noise=0.125, rise=rise).value)

    assert at(TASKS, 60) < at(TASKS, 120)
    assert at(TASKS, 60) < at(many, 60)


def test_what_cannot_be_said_is_refused() -> None:
    for bad in ({"rise": 0.0}, {"rise": 60.0, "noise": 0.0}, {"rise": 60.0, "factor": 1.0}, {"rise": 0.1}):
        with pytest.raises(BadOption):
            ridge_crossing(**{"tasks": TASKS.tolist(), "length": 8, "noise": 0.125, **bad})
    with pytest.raises(BadOption, match="no crossing"):
        ridge_crossing(tasks=np.random.default_rng(0).standard_normal((800, 1)).tolist(), length=2, noise=4.0, rise=5.0)
