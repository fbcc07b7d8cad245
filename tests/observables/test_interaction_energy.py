from typing import Any

import pytest
import torch
from torch import Tensor, nn

from strobe.core.errors import BadOption
from strobe.core.snapshot import Snapshot
from strobe.observables.interaction_energy import interaction_energy


class Parities(nn.Module):
    """3 x_0 + 4 x_1 x_2 + a constant, for bits as ±1; as the second of two outputs, or alone."""

    def __init__(self, outputs: int, scale: float = 1.0) -> None:
        super().__init__()
        self.outputs, self.w = outputs, nn.Parameter(torch.tensor([3.0, 4.0, 9.0]) * scale)

    def forward(self, x: Tensor) -> Tensor:
        f = self.w[0] * x[:, 0] + self.w[1] * x[:, 1] * x[:, 2] + self.w[2]
        return f if self.outputs == 1 else torch.stack([torch.zeros_like(f), f], 1)


def seen(model: nn.Module, **options: Any) -> list[float]:
    sets = {"cue": [0], "rule": [1, 2], "other": [0, 1, 2, 3]}
    got = interaction_energy(
        Snapshot(model, lambda m, d: m(d).sum(), None), bits=4, **({"sets": sets, "clip": 99.0} | options)
    )
    assert got.err.tolist() == [0.0] * len(got.value)
    return got.value.round(6).tolist()


def test_shares_of_what_is_put_in() -> None:
    assert seen(Parities(1)) == [0.36, 0.64, 0.0]  # 9 and 16 of 25; the constant does not count
    assert seen(Parities(2), unit=1) == [0.36, 0.64, 0.0]
    assert seen(Parities(2), unit=0) == [0.0, 0.0, 0.0]  # says nothing at all
    assert seen(Parities(1), values=(0.0, 1.0)) != [0.36, 0.64, 0.0]  # bits of 0 and 1: x_1 x_2 is no parity then


def test_the_clip_is_of_the_output() -> None:
    class Or(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 50 * x[:, 0] + x[:, 1]

    got = interaction_energy(Snapshot(Or(), lambda m, d: m(d).sum(), None), bits=2, sets={"a": [0], "b": [1]})
    assert got.value.tolist() == [1.0, 0.0]
    assert got.how["variance"] == 25.0
    assert next(iter(got.how["largest"])) == "{0}"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bits": 21}, "1 to 20"),
        ({"sets": {"far": [4]}}, "far: .4."),
        ({"sets": {}}, "at least one set"),
        ({"unit": 3}, "unit 3 of one number per input"),
    ],
)
def test_bad_options_are_said(options: dict[str, Any], words: str) -> None:
    given = {"bits": 4, "sets": {"cue": [0]}} | options
    with pytest.raises(BadOption, match=words):
        interaction_energy(Snapshot(Parities(2), lambda m, d: m(d).sum(), None), **given)
