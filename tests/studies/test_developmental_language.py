"""The study of stages: what it says of a run comes from the run, and each of its claims can be refuted."""

from pathlib import Path

import numpy as np
import pytest

from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.observables.head_scores import prefix_matching_score
from strobe.observables.stages import boundaries
from strobe.observables.token_loss import token_loss
from strobe.runs.run import open_run
from strobe.studies import developmental_language as file
from strobe.studies.developmental_language import developmental_language, on


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return developmental_language(tmp_path_factory.mktemp("dev"), scale="tiny")


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


def test_the_distance_to_behaviour_is_that_of_the_worst_and_says_what_chance_does() -> None:
    def found(at: list[float]) -> Reading:
        return Reading(
            np.array(at), 0, "", {"boundaries": boundaries("x", np.array(at), np.full(len(at), 0.1), np.ones(len(at)))}
        )

    times = [(2.0, 0.0), (3.0, 0.0)]
    got = file._nearest(found([100.0, 10**3.3]), times, 4.0)
    assert got.value == pytest.approx(0.1)
    assert got.err == pytest.approx(0.1 / 3)
    assert 0 < got.how["chance"] < file._nearest(found([100.0] * 8), times, 4.0).how["chance"] < 1
    assert file._nearest(found([]), times, 4.0).value == 1.0


def test_a_rise_and_a_value_at_an_uncertain_time() -> None:
    steps = np.array([1.0, 10, 100, 1000])
    rise = file._rise(steps, np.array([0.0, 1, 2, 3]), np.full(4, 0.3), 2.0)
    assert rise.value == pytest.approx(0.4)
    assert rise.err == pytest.approx(0.3 * 2**0.5)
    at = file._at(steps, np.array([0.0, 1, 2, 3]), np.full(4, 0.3), (1.5, 0.4))
    assert at.value == pytest.approx(1.5)
    assert at.err == pytest.approx(0.5)


def test_an_unknown_scale_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="scale is 'tiny', 'small' or 'full'"):
        developmental_language(tmp_path, scale="huge")
