"""The central flow holds its curvature at 2 / lr; without the edge it is gradient flow."""

import numpy as np
import pytest
import torch

from strobe.numerics.central_flow import flow


def valley(w: torch.Tensor) -> torch.Tensor:
    """½ s(y) x² − y / 100: sharpens as y goes down hill, s = exp(y)."""
    return w[0].square() * w[1].exp() / 2 - w[1] / 100


def test_it_stops_the_sharpness_at_the_edge_and_says_how_wide_descent_swings() -> None:
    """σ² = 2 · 0.01 / s there: the pull −½ σ² s of the oscillation balances the drift 0.01; s = 2 / lr."""
    lr = 0.5
    got = flow(valley, torch.tensor([0.0, np.log(3.9)], dtype=torch.float64), lr=lr, steps=40, most=1, substeps=8)
    assert got.sharpness[-1] * lr / 2 == pytest.approx(1, abs=2e-3)
    assert got.variances[-1] == pytest.approx(2 * 0.01 / 4, rel=0.05)
    free = flow(valley, torch.tensor([0.0, np.log(3.9)], dtype=torch.float64), lr=lr, steps=40, central=False)
    assert free.places[-1, 1] > got.places[-1, 1] + 0.1


def test_descent_from_the_flows_fixed_point_swings_about_it() -> None:
    """x = ±√(2 · 0.01 / s), s = 2 / lr is an exact orbit of two steps; its x² is the σ² of the flow.

    Started elsewhere, descent on this valley swings ever wider and leaves: it has no damping of its own.
    """
    lr, w = 0.5, torch.tensor([0.005**0.5, np.log(4.0)], dtype=torch.float64)
    tail = []
    for _ in range(50):
        p = w.clone().requires_grad_()
        w = w - lr * torch.autograd.grad(valley(p), p)[0]
        tail.append(w[0].item() ** 2)
    assert np.mean(tail) == pytest.approx(2 * 0.01 / 4, rel=1e-9)
