"""The catapult: gradient descent on the two-number problem itself, and the ReLU network that breaks the upper limit."""

import numpy as np
import pytest

from strobe.core.errors import BadOption
from strobe.core.prediction import judge
from strobe.laws.catapult import catapult
from strobe.studies.catapult import descend, share


@pytest.mark.parametrize(("size", "converges"), [(1.0, 1.0), (3.0, 1.0), (4.5, 0.0)])
def test_the_limits_of_the_linear_network(size: float, converges: float) -> None:
    done, last, _ = descend(1000, 40, size, 3)
    assert catapult(lr=size, kernel=1.0, of="converged").value == converges == done.mean()
    if 2 < size < 4:
        assert (size * last[done] <= catapult(lr=size, kernel=1.0).value * size).all()


def test_the_fast_steps_are_descent_on_the_loss() -> None:
    """The batched rule against autograd on one network."""
    import torch

    g = torch.Generator().manual_seed(3)
    u, v = (torch.randn(1, 50, generator=g, dtype=torch.float64).requires_grad_() for _ in range(2))
    size = ((u.square() + v.square()).sum() / 50).item()
    first = size
    for _ in range(3000):
        loss = ((u * v).sum() / 50**0.5 - 1).square() / 2
        a, b = torch.autograd.grad(loss, (u, v))
        with torch.no_grad():
            u -= 1.5 / first * a
            v -= 1.5 / first * b
    _, last, _ = descend(50, 1, 1.5, 3)
    assert ((u.square() + v.square()).sum() / 50 / first).item() == pytest.approx(last[0], rel=1e-9)


def test_a_relu_network_refutes_the_upper_limit() -> None:
    done, _, _ = descend(1000, 40, 4.2, 0, "relu")
    assert judge(catapult(lr=4.2, kernel=1.0, of="converged"), share(done)).word == "fails"


@pytest.mark.parametrize("knobs", [{"lr": 0.0}, {"lr": 1.0, "kernel": 4.0}, {"lr": 1.0}, {"lr": 3.0, "of": "loss"}])
def test_bad_knobs(knobs: dict[str, object]) -> None:
    with pytest.raises(BadOption):
        catapult(**({"kernel": 1.0} | knobs))  # type: ignore[arg-type]


def test_a_share_of_all_still_has_an_error() -> None:
    assert 0 < share(np.ones(50)).err < 0.05
