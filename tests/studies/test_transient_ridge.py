"""The study of transient ridge: what it judges comes from the runs, and a curve that only falls has no rise."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strobe.core.errors import BadOption
from strobe.core.report import Report
from strobe.runs.run import open_run
from strobe.studies.transient_ridge import transient_ridge, turn


@pytest.fixture(scope="module")
def report(tiny: Callable[[Any], Report]) -> Report:
    return tiny(transient_ridge)


def test_all_is_sealed_at_step_0_and_a_short_run_is_outside(report: Report) -> None:
    run = open_run(report.runs[0])
    assert all(e["step"] == 0 for e in run.events("prediction"))
    assert [v.word for v in report.verdicts] == ["outside"] * 6
    assert all(np.isfinite(v.measured.value) for v in report.verdicts)


def test_the_strip_has_distances_of_the_recorded_run_and_of_all(report: Report) -> None:
    run = open_run(report.runs[0])
    assert {"ridge_new", "dmmse_new", "ridge_seen", "dmmse_seen", "loss_seen", "loss_new", "llc"} <= set(run.names())
    every = {e["step"]: e for e in run.readings("ridge_of_all")}
    last = run.series("ridge_new")
    assert np.asarray(every[run.last]["value"])[0] == pytest.approx(
        last.values[-1], rel=1e-4
    )  # two routes to one number
    assert len(every[run.last]["value"]) == 3


def test_the_joint_picture_places_predictors_by_the_axes_of_the_runs(report: Report) -> None:
    rows = {r["what"]: r for r in report.tables["joint picture"]}
    assert {"silence", "ridge", "dmmse", "recorded"} <= set(rows)
    path = open_run(report.runs[0]).readings("essential_dynamics")[-1]
    at = [i for i, n in enumerate(path["how"]["run"]) if n == "recorded"][-1]
    assert rows["recorded"]["PC 1"] == pytest.approx(path["how"]["scores"][at][0])


def test_a_rise_after_the_least() -> None:
    steps = np.array([1, 2, 4, 8, 16, 32, 64, 128, 256])
    rng = np.random.default_rng(0)
    each = rng.uniform(0.5, 1.5, (1, 400))
    up = turn(steps, np.array([9, 5, 3, 2, 2, 2, 2.4, 2.4, 2.4])[:, None] * each)
    assert up.rise == pytest.approx(0.2)
    assert up.step in (8, 16, 32)
    assert up.err < 1e-9  # all sequences rise alike
    noisy = turn(steps, np.array([9, 5, 3, 2, 2, 2, 2.4, 2.4, 2.4])[:, None] * rng.uniform(0, 2, (9, 400)))
    assert 0 < noisy.err < 0.2
    down = turn(steps, np.array([9, 5, 3, 2, 1.8, 1.6, 1.4, 1.2, 1.0])[:, None] * each)
    assert down.rise == pytest.approx(0.0)


def test_an_unknown_scale_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="scale is 'tiny', 'small' or 'full'"):
        transient_ridge(tmp_path, scale="huge")
