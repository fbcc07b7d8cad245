"""The closed form is the minimum of its scalar function, found by a solver; and a lower loss elsewhere there is not."""

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from torch.nn.functional import cross_entropy

from strobe.core.errors import BadOption
from strobe.laws.feature_collapse import feature_collapse


@pytest.mark.parametrize(("k", "decay"), [(2, 0.01), (4, 5e-3), (10, 5e-4), (10, 0.09)])
def test_it_is_the_minimum_over_the_scale_of_the_simplex(k: int, decay: float) -> None:
    found = minimize_scalar(
        lambda p: np.log1p((k - 1) * np.exp(-p * k / (k - 1))) + decay * k * p, bounds=(0, 40), method="bounded",
        options={"xatol": 1e-10},
    )  # fmt: skip
    assert feature_collapse(classes=k, weight_decay=decay).value == pytest.approx(found.fun, rel=1e-9)
    assert feature_collapse(classes=k, weight_decay=decay, of="norm").value == pytest.approx(found.x**0.5, rel=1e-3)


def test_a_simplex_by_hand_has_this_loss_and_no_gradient() -> None:
    k, decay = 5, 4e-3
    a = feature_collapse(classes=k, weight_decay=decay, of="norm").value
    e = (torch.eye(k, dtype=torch.float64) - 1 / k) * (k / (k - 1)) ** 0.5
    w, h = (a * e).requires_grad_(), (a * e).clone().requires_grad_()
    loss = cross_entropy(h @ w.T, torch.arange(k)) + decay / 2 * (w.square().sum() + h.square().sum())
    assert loss.item() == pytest.approx(feature_collapse(classes=k, weight_decay=decay).value, rel=1e-12)
    assert max(float(g.abs().max()) for g in torch.autograd.grad(loss, [w, h])) < 1e-12
    assert float(e[0] @ e[1]) == pytest.approx(feature_collapse(classes=k, weight_decay=decay, of="cosine").value)


def test_above_one_over_k_all_vanishes() -> None:
    assert feature_collapse(classes=4, weight_decay=0.25).value == pytest.approx(np.log(4))
    assert feature_collapse(classes=4, weight_decay=0.25, of="norm").value == 0
    with pytest.raises(BadOption, match="no directions"):
        feature_collapse(classes=4, weight_decay=0.25, of="cosine")
    with pytest.raises(BadOption, match="needs a width"):
        feature_collapse(classes=4, weight_decay=0.1, width=2)
