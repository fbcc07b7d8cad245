"""Every study runs at scale="tiny" in seconds and seals before it reads."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from strobe.app.report import verdicts, write_report
from strobe.core.catalogue import catalogue, load
from strobe.core.errors import BadOption
from strobe.core.report import Report
from strobe.runs.run import open_run
from strobe.studies.deep_linear import deep_linear
from strobe.studies.edge import edge
from strobe.studies.first_stages import first_stages


@pytest.mark.parametrize("name", [e.name for e in catalogue() if e.kind == "study"])
def test_it_runs_tiny_and_every_prediction_was_sealed_before_its_reading(
    name: str, tmp_path: Path, tiny: Callable[[Any], Report]
) -> None:
    study = load(next(e.path for e in catalogue() if (e.kind, e.name) == ("study", name)))
    report = tiny(study)
    assert report.verdicts
    assert not report.facts.get("not_computed")
    shown = [v for p in report.runs for v in verdicts(open_run(p))]
    assert len(shown) == len(report.verdicts)
    assert all(v["sealed"] for v in shown)
    for path in report.runs:
        run = open_run(path)
        for sealed in run.events("prediction"):
            of = [e for e in run.events("verdict") if e["predicted"]["seal"] == sealed["seal"]]
            assert all(e["time"] >= sealed["time"] and e["step"] >= sealed["step"] for e in of)
    assert write_report(report, tmp_path / "report.html").stat().st_size > 10_000


def test_deep_linear_holds_and_its_rival_fails(tiny: Callable[[Any], Report]) -> None:
    words = {v.predicted.of: v.word for v in tiny(deep_linear).verdicts}
    assert words["mode_strengths"] == "holds"
    assert words["mode_strengths, rival: loss without the ½ (must fail)"] == "fails"


def test_edge_holds_also_after_the_rate_is_set_live(tiny: Callable[[Any], Report]) -> None:
    report = tiny(edge)
    assert [v.word for v in report.verdicts] == ["holds", "holds"]
    assert open_run(report.runs[0]).events("applied")[0]["value"] == 0.1


def test_first_stages_proves_its_replay_and_draws_its_branch(tiny: Callable[[Any], Report]) -> None:
    report = tiny(first_stages)
    trunk, branch = (open_run(p) for p in report.runs)
    assert trunk.events("replay")[-1]["ok"]
    assert branch.facts["parent"]["id"] == trunk.facts["id"]
    assert branch.facts["edits"][0]["edit"] == "strobe.edits.ablate:ablate"
    assert len(branch.series("induction_best")) >= 3
    assert "trajectory_pca" in {e["name"] for e in trunk.index.events("reading")}


@pytest.mark.parametrize("study", [deep_linear, edge, first_stages])
def test_an_unknown_scale_is_refused(study: object, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="scale is 'tiny', 'small' or 'full'"):
        study(tmp_path, scale="huge")  # type: ignore[operator]
