"""The hard margin against a solver of the quadratic program, its constants, and data without a margin."""

import numpy as np
import pytest
from scipy.optimize import minimize

from strobe.core.errors import BadOption
from strobe.laws.max_margin import max_margin


def cloud(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = np.sign(rng.standard_normal(14))
    x = rng.standard_normal((14, 5))
    x[:, 0] += 2.5 * y
    return x, y


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_it_solves_the_quadratic_program(seed: int) -> None:
    x, y = cloud(seed)
    said = max_margin(x=x, y=y).value
    margins = y * (x @ said)
    assert margins.min() == pytest.approx(1.0, abs=1e-8)
    limits = {"type": "ineq", "fun": lambda w: y * (x @ w) - 1}
    slow = minimize(lambda w: w @ w, 3 * said + 0.1, constraints=[limits], method="SLSQP", options={"ftol": 1e-14})
    assert np.allclose(said, slow.x, atol=1e-5)
    assert max_margin(x=x, y=y, of="loss").value == pytest.approx(said @ said)


def test_one_example_is_solved_exactly() -> None:
    """w' = x e^{−w·x}: w·x = ln(1 + |x|² t), so dw/d ln t → x / |x|² and t L → 1 / |x|²."""
    x = np.array([[0.6, 0.8]]) * 2
    assert np.allclose(max_margin(x=x, y=[1]).value, x[0] / 4)
    assert max_margin(x=x, y=[1], of="loss").value == pytest.approx(1 / 4)
    t = 1e9
    assert t * np.log1p(np.exp(-np.log(1 + 4 * t))) == pytest.approx(1 / 4, rel=1e-6)


def test_what_no_plane_separates_has_no_margin() -> None:
    with pytest.raises(BadOption, match="no plane"):
        max_margin(x=[[1.0, 0.0], [2.0, 0.0]], y=[1, -1])
    with pytest.raises(BadOption, match="speaks of"):
        max_margin(x=[[1.0]], y=[1], of="lost")
