"""The study of stages: what it says of a run comes from the run, and each of its claims can be refuted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from strobe.core.errors import BadOption
from strobe.core.report import Report
from strobe.observables.head_scores import prefix_matching_score
from strobe.observables.token_loss import token_loss
from strobe.runs.run import open_run
from strobe.studies.developmental_language import developmental_language, on


@pytest.fixture(scope="module")
def report(tiny: Callable[[Any], Report]) -> Report:
    return tiny(developmental_language)


def test_all_is_sealed_at_step_0_and_a_short_run_is_outside(report: Report) -> None:
    run = open_run(report.runs[0])
    assert all(e["step"] == 0 for e in run.events("prediction"))
    assert [v.word for v in report.verdicts] == ["outside"] * 6
    assert "nats" in report.verdicts[0].why
    assert len(run.series("llc")) >= 6


def test_the_strip_has_boundaries_by_three_methods_and_their_agreement(report: Report) -> None:
    names = {e["name"]: e for e in open_run(report.runs[0]).index.events("reading", superseded=False)}
    assert {"stages", "llc_plateaus", "vertices", "essential_dynamics", "boundary_agreement"} <= set(names)
    for name in ("stages", "llc_plateaus", "vertices"):
        assert all({"method", "step", "err", "sure"} <= set(b) for b in names[name]["how"]["boundaries"])
    assert report.tables["boundaries"] == sorted(report.tables["boundaries"], key=lambda r: r["step"])


def test_a_behaviour_on_other_data_and_the_best_head_of_a_layer(report: Report) -> None:
    run = open_run(report.runs[0])
    snap = run.at(run.last)
    other = snap.data[:5]
    assert on(snap, observable=token_loss, data=other).how["windows"] == 5
    every = prefix_matching_score(snap).value
    assert on(snap, observable=prefix_matching_score, layer=1).value == pytest.approx(every[1].max())
    assert on(snap, observable=prefix_matching_score, layer=-1).value == pytest.approx(every.max())


def test_an_unknown_scale_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="scale is 'tiny', 'small' or 'full'"):
        developmental_language(tmp_path, scale="huge")
