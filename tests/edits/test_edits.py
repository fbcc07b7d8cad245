import pytest
import torch

from strobe.core.errors import BadOption, StateMismatch
from strobe.edits.ablate import ablate
from strobe.edits.scale import scale
from strobe.edits.scale_direction import scale_direction


def test_ablating_to_zero_and_to_the_mean() -> None:
    x = torch.randn(4, 3)
    x[0, 0] = float("inf")
    assert not ablate()(x).any()
    y = torch.randn(4, 3)
    assert torch.equal(ablate(to="mean")(y), y.mean(0).expand(4, 3))
    with pytest.raises(BadOption, match="'zero' or 'mean'"):
        ablate(to="random")


def test_scaling() -> None:
    x = torch.randn(4, 3)
    assert torch.equal(scale(factor=2.0)(x), 2 * x)
    with pytest.raises(BadOption, match="finite factor"):
        scale(factor=float("nan"))


def test_scaling_a_direction_against_its_formula() -> None:
    x, d, mean = torch.randn(4, 7, 3, dtype=torch.float64), [3.0, 0.0, 4.0], [0.5, -1.0, 2.0]
    u, m = torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64), torch.tensor(mean, dtype=torch.float64)
    for factor in (0.0, 0.3, 2.0, -1.0):
        got = scale_direction(direction=d, factor=factor, mean=mean)(x)
        assert torch.allclose((got - m) @ u, factor * ((x - m) @ u))
        assert torch.allclose(got - (got @ u)[..., None] * u, x - (x @ u)[..., None] * u)  # what is orthogonal stays
    assert torch.equal(scale_direction(direction=d, factor=1.0, mean=mean)(x), x)
    assert not (scale_direction(direction=d)(x) @ u).abs().max() > 1e-12
    for size in (1e-300, 1e290):  # a direction is only a direction
        assert torch.allclose(scale_direction(direction=[v * size for v in d])(x), scale_direction(direction=d)(x))
    assert scale_direction(direction=d)(x.half()).dtype == torch.float16


def test_a_direction_that_is_none_and_one_of_another_size() -> None:
    for bad in ([], [0.0, 0.0], [1.0, float("nan")], [float("inf")], [10**400], [True], ["1"], "12", [[1.0]], None):
        with pytest.raises(BadOption, match="direction"):
            scale_direction(direction=bad)  # type: ignore[arg-type]
    with pytest.raises(BadOption, match="2 numbers and the mean 1"):
        scale_direction(direction=[1.0, 2.0], mean=[0.0])
    with pytest.raises(BadOption, match="mean is a list"):
        scale_direction(direction=[1.0], mean=[float("nan")])
    with pytest.raises(BadOption, match="finite factor"):
        scale_direction(direction=[1.0], factor=float("inf"))
    for x in (torch.ones(2, 3), torch.tensor(1.0)):
        with pytest.raises(StateMismatch, match=r"2 numbers.*size [30]"):
            scale_direction(direction=[1.0, 2.0], factor=1.0)(x)
