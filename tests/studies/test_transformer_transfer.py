from collections.abc import Callable
from typing import Any

import pytest
import torch

from strobe.core.errors import BadOption
from strobe.core.report import Report
from strobe.studies.transformer_transfer import chain, scaled, second_order_text, transformer_transfer


def test_the_standard_parametrisation_moves_more(tiny: Callable[[Any], Report]) -> None:
    report = tiny(transformer_transfer)
    assert len(report.verdicts) == 4
    rows = {r["parametrisation"]: r for r in report.tables["exponent of |Δh| in width"]}
    for part in ("blocks.0.mlp", "out"):
        assert abs(rows["maximal update"][part]) < 0.35
        assert rows["standard"][part] > 0.5
    roles = {
        r["parameter"]: r["role"] for r in next(v for k, v in report.tables.items() if k.startswith("mup's table"))
    }
    assert (roles["embed.weight"], roles["blocks.0.attention.q.weight"], roles["out.weight"]) == (
        "input",
        "hidden",
        "output",
    )


def test_the_loss_of_the_chain_itself_is_zero() -> None:
    world = second_order_text()

    class Chain(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            said = chain()[x[:, :-1], x[:, 1:]]
            return torch.cat([torch.zeros_like(said[:, :1]), said], 1)

    assert abs(float(world.loss(Chain(), world.batch(0, 0)))) < 1e-5
    assert float(world.loss(world.build(0), world.batch(0, 0)).detach()) > 0.5


def test_logits_of_attention_are_those_of_the_base_times_its_size_over_theirs() -> None:
    wide, base = scaled("mup", 64, 16)[0](0), scaled("mup", 16, 16)[0](0)
    assert wide.blocks[0].attention.scale == pytest.approx(base.blocks[0].attention.scale / 4)
    assert scaled("standard", 64, 16)[0](0).blocks[0].attention.scale == pytest.approx(16**-0.5)
    with pytest.raises(BadOption, match="multiple of 4"):
        second_order_text(width=30)
