from collections.abc import Callable
from typing import Any

import torch

from strobe.core.report import Report
from strobe.studies.limits import STEPS, _descend, limits
from strobe.studies.wide_networks import Scaled, Wide


def test_nulls_fail_and_the_lazy_laws_hold(tiny: Callable[[Any], Report]) -> None:
    words = {v.predicted.of: v.word for v in tiny(limits).verdicts}
    nulls = {of: word for of, word in words.items() if "must fail" in of}
    assert len(nulls) == 4
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
