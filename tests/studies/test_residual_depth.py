from collections.abc import Callable
from typing import Any

import pytest
import torch

from strobe.core.report import Report
from strobe.studies.residual_depth import RULES, residual_depth, residual_digits, ruled


def test_depth_without_a_rule_fails_the_claims_of_one(tiny: Callable[[Any], Report]) -> None:
    """At "tiny" trainings are short: the rates' and the learned branches' claims are asked for at "small", and in the record."""
    words = {v.predicted.of: v.word for v in tiny(residual_depth).verdicts}
    for of, word in words.items():
        if "must fail" in of and ("mean |h_L|²" in of or "by the formula" in of or "ΔΣb" in of or "at the start" in of):
            assert word == "fails", of
        if of.startswith("mean |h_L|²"):
            assert word == "holds", of
    rows = {r["rule"]: r["exponent of |ΔΣb|"] for r in tiny(residual_depth).tables["a few steps"]}
    assert rows["none"] > rows["1/√L alone"] > rows["1/√L, rates too"] + 0.2


@pytest.mark.parametrize("rule", list(RULES))
def test_a_rule_is_a_factor_before_the_branch(rule: str) -> None:
    """The values carry the factor: the network is the one whose branches are multiplied in the forward pass."""
    branch, rate = RULES[rule]
    build, rates = ruled(rule, 16, 4)
    model, plain = build(3), residual_digits(depth=16).build(3)
    x = torch.randn(5, 64)
    h = plain.embed(x)  # type: ignore[operator]
    for block in plain.blocks:  # type: ignore[union-attr]
        h = h + 4**-branch * (block(h) - h)  # type: ignore[operator]
    assert torch.allclose(model(x), plain.out(plain.norm(h)), atol=1e-5)  # type: ignore[operator]
    assert rates.get("blocks.3.up.weight", 1.0) == pytest.approx(4**-rate)
    assert rates.get("blocks.3.down.weight", 1.0) == pytest.approx(4 ** -(branch + rate))
    assert rates.get("embed.weight", 1.0) == rates.get("out.weight", 1.0) == 1.0
