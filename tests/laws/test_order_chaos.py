"""Order and chaos: values known in closed form, and a network in chaos, whose correlations leave the curve."""

from typing import Any

import numpy as np
import pytest

from strobe.core.errors import BadOption
from strobe.core.prediction import judge
from strobe.core.reading import Reading
from strobe.laws.order_chaos import order_chaos
from strobe.studies.limits import _propagate


def test_relu_at_weight_two_is_at_the_edge_and_brings_inputs_together_slowly() -> None:
    """He et al. 2015 and Cho and Saul 2009: χ₁ = 1; c' = (sin θ + (π − θ) cos θ)/π, so from c = 0: 1/π."""
    how: dict[str, Any] = {"activation": "relu", "weight": 2.0, "bias": 0.0, "layers": 40, "correlation": 0.0}
    assert order_chaos(of="stretch", **how).value == pytest.approx(1.0)
    curve = order_chaos(of="correlation", **how).value
    assert curve[0] == pytest.approx(1 / np.pi)
    assert (np.diff(curve) > 0).all()
    assert 0.9 < curve[-1] < 1


def test_order_edge_and_chaos_of_tanh() -> None:
    """Poole et al. 2016, figure 1: with little bias tanh is ordered at σ_w = 1.3^½ and chaotic at σ_w = 2.5."""
    at = lambda weight, bias, of: order_chaos(activation="tanh", weight=weight, bias=bias, layers=200, of=of).value  # noqa: E731
    assert at(1.3, 0.1, "stretch") < 1 < at(6.25, 0.09, "stretch")
    assert at(1.3, 0.1, "correlation")[-1] == pytest.approx(1.0, abs=1e-6)
    assert at(6.25, 0.09, "correlation")[-1] < 0.2


def test_a_network_in_order_holds_and_one_that_keeps_its_correlation_fails() -> None:
    said = order_chaos(activation="tanh", weight=1.3, bias=0.1, layers=6, of="correlation")
    curves = np.array([c for *_, c in _propagate(12, 600, 6, 0.4198, 0.5, 1.3, 0.1, 3)])
    read = Reading(curves.mean(0), curves.std(0) / 12**0.5)
    assert judge(said, read).word == "holds"
    assert judge(said, Reading(np.full(6, 0.5), np.full(6, 0.01))).word == "fails"


@pytest.mark.parametrize("knobs", [
    {"activation": "gelu"}, {"of": "depth"}, {"weight": 0.0}, {"bias": -0.1}, {"layers": 0}, {"correlation": 1.5},
    {"activation": "relu", "weight": 2.5}, {"weight": 0.5, "bias": 0.0},
])  # fmt: skip
def test_bad_knobs(knobs: dict[str, Any]) -> None:
    with pytest.raises(BadOption):
        order_chaos(**({"activation": "tanh", "weight": 1.5, "bias": 0.1, "layers": 5} | knobs))
