"""The study of stages in regression: what it says of a run comes from the run, and each of its claims can be refuted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from strobe.core.errors import BadOption
from strobe.core.report import Report
from strobe.core.snapshot import Snapshot
from strobe.runs.run import open_run
from strobe.studies.developmental_regression import BEHAVIOURS, developmental_regression, flatness, norm_scale
from strobe.systems.incontext_regression import incontext_regression


@pytest.fixture(scope="module")
def report(tiny: Callable[[Any], Report]) -> Report:
    return tiny(developmental_regression)


def test_all_is_sealed_at_step_0_and_a_short_run_is_outside(report: Report) -> None:
    run = open_run(report.runs[0])
    assert all(e["step"] == 0 for e in run.events("prediction"))
    assert [v.word for v in report.verdicts] == ["outside"] * 5
    assert "fell by" in report.verdicts[0].why
    assert len(run.series("llc")) >= 6


def test_the_strip_has_behaviours_boundaries_and_their_agreement(report: Report) -> None:
    run = open_run(report.runs[0])
    assert set(BEHAVIOURS) <= set(run.names())
    names = {e["name"] for e in run.index.events("reading", superseded=False)}
    assert {"stages", "llc_plateaus", "vertices", "essential_dynamics", "boundary_agreement"} <= names
    end = report.tables["stages"][-1]
    assert end["to_silence"] == pytest.approx(run.series("to_silence").values[-1])


def test_collapse_is_seen() -> None:
    world = incontext_regression(dimension=2)
    model = world.build(0)
    snap = Snapshot(model, world.loss, world.probe(0))
    assert norm_scale(snap).value == pytest.approx(1.0)
    assert 0.1 < flatness(snap).value < 1
    with torch.no_grad():
        model.get_parameter("blocks.1.before.weight").mul_(0.01)
        model.get_parameter("embed.weight")[:, 0] = 0
    assert norm_scale(snap).value == pytest.approx(0.01)
    assert flatness(snap).value < 1e-6


def test_an_unknown_scale_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="scale is 'tiny', 'small' or 'full'"):
        developmental_regression(tmp_path, scale="huge")
