"""The figures of vectors found without labels, on a network whose answers are known: a linear one has gain 1 at every norm."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from strobe.core.report import Report
from strobe.studies.unsupervised_steering import RADII, SCALES, _radii, _sets, unsupervised_steering


class Blocks(nn.Module):
    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 12)
        self.blocks = nn.ModuleList([nn.Linear(12, 12), nn.Linear(12, 12), last])
        self.out = nn.Linear(12, 20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.embed(x)
        for b in self.blocks:
            h = b(h)
        return self.out(h)


X = torch.randint(20, (4, 5), generator=torch.Generator().manual_seed(0))


def test_a_linear_network_answers_by_its_jacobian_at_every_norm_and_a_saturating_one_does_not() -> None:
    torch.manual_seed(0)
    for row in _radii(Blocks(nn.Identity()), X, 80, 0):
        assert row["gain"] == pytest.approx(1, abs=0.02)
        assert row["singular vector"] == pytest.approx(1, abs=0.01)
        assert row["random"] < 0.9
        assert row["|cos|"] > 0.9
    torch.manual_seed(0)
    tanh = _radii(Blocks(nn.Tanh()), X, 80, 0)
    assert tanh[RADII.index(0.003)]["gain"] == pytest.approx(1, abs=0.02)
    assert tanh[-1]["gain"] < 0.97


def test_sets_are_told_apart_by_what_they_do() -> None:
    torch.manual_seed(0)
    got = _sets(Blocks(nn.Tanh()), X, SCALES["tiny"], 0)
    assert got["repeated MELBO"]["overlap"] > got["orthogonal MELBO"]["overlap"]
    assert got["orthogonal MELBO"]["total effect"] > got["random"]["total effect"]
    assert all(0 <= row["overlap"] <= 1 and row["divergence"] > 0 for row in got.values())


def test_the_tables_of_a_report(tiny: Callable[[Any], Report]) -> None:
    report = tiny(unsupervised_steering)
    rows = report.tables["norms"]
    assert [(r["network"], r["R / length"]) for r in rows] == [(n, r) for n in ("trained", "untrained") for r in RADII]
    words = {v.predicted.of: v.word for v in report.verdicts}
    assert words["|cos| of 15 passes of power iteration with that vector"] == "holds"
    assert len(report.tables["sets"]) == 7
