"""Lazy training: a linear model, of which the linearised prediction is exact, and a rich network, which leaves it."""

from typing import Any

import numpy as np
import pytest
import torch

from strobe.core.errors import BadOption
from strobe.core.prediction import judge
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot
from strobe.laws.lazy_training import lazy_scale, linearised_training
from strobe.observables.tangent_kernel import ntk
from strobe.studies.limits import STEPS, _descend
from strobe.studies.wide_networks import Scaled, Wide


def test_of_a_linear_model_it_is_exact_also_on_other_data_and_with_a_singular_kernel() -> None:
    torch.manual_seed(0)
    x, z, y = torch.randn(8, 3).double(), torch.randn(4, 3).double(), torch.randn(8).double()
    net = torch.nn.Linear(3, 1, bias=False).double()
    snap = Snapshot(net, None, x)  # type: ignore[arg-type]
    how: dict[str, Any] = {"kernel": ntk(snap).value, "targets": y.tolist(), "lr": 0.3, "steps": STEPS}
    seen = linearised_training(**how)
    unseen = linearised_training(**how, across=ntk(Snapshot(net, None, z), against=x).value)  # type: ignore[arg-type]
    _, outputs = _descend(Scaled(net, 1.0), x, z, y, 0.3)
    assert np.abs(outputs["seen"] - seen.value).max() < 1e-9
    assert np.abs(outputs["unseen"] - unseen.value).max() < 1e-6
    assert seen.steps == STEPS


@pytest.mark.parametrize(("alpha", "word"), [(100.0, "holds"), (0.1, "fails")])
def test_a_network_follows_it_when_it_is_lazy(alpha: float, word: str) -> None:
    g = torch.Generator().manual_seed(1)
    x, y = torch.randn(20, 8, generator=g).double(), torch.randn(20, generator=g).double()
    net = Wide(8, 128, 1, activation="erf").double()
    kernel = ntk(Snapshot(net, None, x)).value  # type: ignore[arg-type]
    lr = 20 / float(np.linalg.eigvalsh(kernel)[-1])
    said = linearised_training(kernel=kernel, targets=y.tolist(), lr=lr, steps=STEPS)
    _, outputs = _descend(Scaled(net, alpha), x, x, y, lr / alpha**2)
    assert judge(said, Reading(outputs["seen"], np.zeros((6, 20)))).word == word


@pytest.mark.parametrize("knobs", [
    {"kernel": [[1.0, 2.0], [2.0, 1.0]]}, {"kernel": [[1.0, 0.5], [0.1, 1.0]]}, {"kernel": [[1.0]]}, {"lr": 4.0}, {"lr": 0.0},
    {"steps": [-1]}, {"across": [[1.0]]}, {"rtol": 0.0},
])  # fmt: skip
def test_bad_knobs(knobs: dict[str, Any]) -> None:
    with pytest.raises(BadOption):
        linearised_training(
            **({"kernel": [[1.0, 0.0], [0.0, 1.0]], "targets": [1.0, 1.0], "lr": 0.5, "steps": [1]} | knobs)
        )


@pytest.mark.parametrize("knobs", [{"alphas": [10]}, {"alphas": [1, 100]}, {"of": "loss"}, {"tol": 0.0}])
def test_bad_knobs_of_the_scale(knobs: dict[str, Any]) -> None:
    with pytest.raises(BadOption):
        lazy_scale(**({"alphas": [10, 100]} | knobs))
