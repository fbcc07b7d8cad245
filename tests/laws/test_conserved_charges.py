"""The exact change of a charge, on one step worked out by hand, and a method that breaks it."""

import numpy as np

from strobe.laws.conserved_charges import charge_change, charge_drift_order


def test_one_step_of_a_scalar_network_by_hand() -> None:
    w, a, lr = 0.7, -0.4, 0.3  # f = a w x at x = 1, loss ½ (f - 1)²
    r = a * w - 1
    gw, ga = r * a, r * w
    before = w**2 - a**2
    after = (w - lr * gw) ** 2 - (a - lr * ga) ** 2
    said = charge_change(lr=lr, spent=[gw**2 - ga**2])
    np.testing.assert_allclose(after - before, said.value[0], atol=1e-15)
    m, v = 0.9 * np.array([0.1, 0.2]), lr  # a step with momentum is not of this form
    broken = (w - v * (gw + m[0])) ** 2 - (a - v * (ga + m[1])) ** 2
    assert abs(broken - before - said.value[0]) > 1e-3


def test_the_order_is_one() -> None:
    assert charge_drift_order(rates=[0.1, 0.05]).value == 1.0
