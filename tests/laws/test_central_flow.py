"""The mean loss of an oscillation: exact on a quadratic at its edge."""

import numpy as np
import pytest

from strobe.core.errors import BadOption
from strobe.laws.central_flow import central_flow


def test_exact_on_a_quadratic_at_its_edge() -> None:
    """½ λ x² at λ = 2 / lr: x flips sign for ever, σ² = x², and the loss is ½ λ σ² = σ² / lr."""
    lr, x, losses, squares = 0.1, 0.3, [], []
    for _ in range(10):
        losses.append(x * x / lr)
        squares.append(x * x)
        x -= lr * (2 / lr) * x
    said = central_flow(lr=lr, losses=[0.0], variances=[np.mean(squares)])
    assert said.value[0] == pytest.approx(np.mean(losses), rel=1e-12)


@pytest.mark.parametrize(
    "knobs", [{"lr": 0.0}, {"losses": [1.0]}, {"variances": [-1.0, 0.0]}, {"losses": [np.nan, 1.0]}, {"rtol": 0.0}]
)
def test_bad_knobs(knobs: dict[str, object]) -> None:
    with pytest.raises(BadOption):
        central_flow(**({"lr": 0.1, "losses": [1.0, 0.5], "variances": [0.0, 0.1]} | knobs))  # type: ignore[arg-type]
