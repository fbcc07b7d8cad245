import pytest
import torch

from strobe.core.errors import BadOption
from strobe.edits.ablate import ablate
from strobe.edits.scale import scale


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
