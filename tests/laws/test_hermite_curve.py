"""The Hermite ansatz: a linear target, regressions on normal data, and what of the regime is broken."""

from typing import Any

import numpy as np
import pytest

from strobe.core.errors import BadOption
from strobe.core.prediction import judge
from strobe.core.reading import Reading
from strobe.laws.hermite_curve import hermite_curve, hermite_regime
from strobe.studies.kernel_curves import gauss

KNOBS: dict[str, Any] = {
    "variances": [0.05] * 20,
    "width": 3.0,
    "target": {"0": 0.8, "1,1": 0.3},
    "n": [150, 300],
    "ridge": 1e-3,
    "noise": 0.2,
}


def test_regressions_on_normal_data_and_a_target_in_another_mode() -> None:
    gamma = np.arange(2.0, 22.0) ** -1
    gamma /= gamma.sum()
    said = hermite_curve(**(KNOBS | {"variances": gamma}))
    assert not hermite_regime(said)
    errs = []
    for n in (150, 300):
        column = []
        for s in range(40):
            g = np.random.default_rng([s, n])
            z = g.standard_normal((n + 600, 20))
            y = 0.8 * z[:, 0] + 0.3 * (z[:, 1] ** 2 - 1) / 2**0.5 + 0.2**0.5 * g.standard_normal(len(z))
            x = z * gamma**0.5
            kernel = gauss(x, 3.0, x[:n])
            alpha = np.linalg.solve(kernel[:n] + 1e-3 * np.eye(n), y[:n])
            column.append(np.mean((kernel[n:] @ alpha - y[n:]) ** 2))
        errs.append(np.array(column))
    read = Reading(np.array([v.mean() for v in errs]), np.array([v.std() / 40**0.5 for v in errs]))
    assert judge(said, read).word == "holds"
    other = KNOBS | {"variances": gamma, "target": {"19,18": 0.8, "1,1": 0.3}}  # of a mode hardly seen
    assert judge(hermite_curve(**other), read).word == "fails"


@pytest.mark.parametrize(("change", "words"), [
    ({"width": 2.0}, "width 2 below 3 r"), ({"n": [50, 150]}, "n = 50 below 100"), 
    ({"variances": [1.0, 0.1], "width": 9.0}, "effective dimension"),
    ({"noise": 0.0, "target": {"0": 1.0}, "n": [3000]}, "predicted error below 1%"),
])  # fmt: skip
def test_what_is_broken_is_said(change: dict[str, Any], words: str) -> None:
    assert words in hermite_regime(hermite_curve(**(KNOBS | change)))


@pytest.mark.parametrize(
    "change",
    [
        {"variances": []},
        {"width": 0.2},
        {"variances": [-1.0]},
        {"width": 0.0},
        {"target": {}},
        {"target": {"99": 1.0}},
        {"n": []},
        {"noise": -1.0},
    ],
)
def test_bad_knobs(change: dict[str, Any]) -> None:
    with pytest.raises(BadOption):
        hermite_curve(**(KNOBS | change))
