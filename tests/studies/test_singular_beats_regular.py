"""The study of Bayes prediction: all sealed before the first data set, both laws judged, refused where data sets are few."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from strobe.core.errors import BadOption
from strobe.core.report import Report
from strobe.core.snapshot import Snapshot
from strobe.runs.run import open_run
from strobe.studies.singular_beats_regular import excess, singular_beats_regular
from strobe.systems.reduced_rank import reduced_rank


def test_all_is_sealed_at_step_0_and_a_mean_of_few_data_sets_is_outside(tiny: Callable[[Any], Report]) -> None:
    report = tiny(singular_beats_regular)
    run = open_run(report.runs[0])
    assert len(run.events("prediction")) == len(report.verdicts) == 20
    assert all(e["step"] == 0 for e in run.events("prediction"))
    assert {v.word for v in report.verdicts} == {"outside"}
    assert sum("must fail" in v.predicted.of for v in report.verdicts) == 6  # three singular models
    rows = report.tables["the models"]
    assert [r["its eigenvalues below 1e-6"] > 0 for r in rows] == [True, True, True, False]
    assert all(0 < r["slope of Bayes"] < r["d"] for r in rows)
    assert len(run.series("excess")) > 5
    assert run.series("excess").values[-1] < run.series("excess").values[0] / 10


def test_the_error_of_the_product_is_that_on_new_data() -> None:
    world = reduced_rank()
    snap = Snapshot(world.build(0), world.loss, world.probe(0))
    x, _ = world.probe(1)
    with torch.no_grad():
        gap = (snap.model(x) - x @ world.facts["truth"].T).square().sum(1).mean() / 2
    assert excess(snap, truth=world.facts["truth"], n=400).value == pytest.approx(400 * float(gap), rel=0.05)


def test_an_unknown_scale_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="scale is 'tiny', 'small' or 'full'"):
        singular_beats_regular(tmp_path, scale="huge")
