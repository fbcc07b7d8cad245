from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from strobe.core.report import Report
from strobe.core.snapshot import Snapshot
from strobe.observables.tangent_kernel import ntk
from strobe.studies.limits import STEPS, _descend, limits
from strobe.studies.wide_networks import Scaled, Wide, lone_kernels


def test_nulls_fail_and_the_lazy_laws_hold(tiny: Callable[[Any], Report]) -> None:
    words = {v.predicted.of: v.word for v in tiny(limits).verdicts}
    nulls = {of: word for of, word in words.items() if "must fail" in of}
    assert len(nulls) == 6
    assert set(nulls.values()) == {"fails"}
    assert words["outputs on seen digits, output scale 100, steps 1 to 300"] == "holds"
    assert words["order in the output scale of the change of the weights"] == "holds"
    assert words["correlation in deep layers, tanh, chaos"] == "outside"


def test_the_scaled_network_is_zero_at_the_start_and_moves_as_its_weights_do() -> None:
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    model = Scaled(Wide(3, 16, 1, bias=0.1), 10.0)
    assert not model(x).any()
    _, outputs = _descend(model, x, x, torch.ones(4), 1e-3)
    assert (outputs["seen"] == outputs["unseen"]).all()
    assert len(outputs["seen"]) == len(STEPS)
    assert not any(p.requires_grad for p in model.first.parameters())
    assert model(x).abs().max() > 0


def test_kernels_of_one_input_many_at_once_are_those_of_the_observable() -> None:
    many = lone_kernels(3, 40, 600, 0)
    x = torch.randn(16, generator=torch.Generator().manual_seed(0))[None]
    each = [ntk(Snapshot(Wide(16, 40, 40, 40, 1, seed=s), None, x)).value[0, 0] for s in range(300)]  # type: ignore[arg-type]
    err = np.hypot(many.std() / 600**0.5, np.std(each) / 300**0.5)
    assert abs(many.mean() - np.mean(each)) < 3 * err
    assert abs(np.log(many.std() / np.std(each))) < 0.3
    assert (
        abs(many.mean() - 4 * 2 * float(x.square().mean())) < 4 * many.std() / 600**0.5
    )  # (depth + 1) Σ, at any width
