from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strobe.core.errors import BadOption
from strobe.core.report import Report
from strobe.runs.run import open_run
from strobe.studies.llc_accuracy import llc_accuracy


def test_tiny_seals_before_it_measures_and_says_what_it_cannot_judge(tiny: Callable[[Any], Report]) -> None:
    report = tiny(llc_accuracy)
    words = {v.predicted.of: v.word for v in report.verdicts}
    assert words.pop("λ̂ of the trained network at N = 1e4") in ("holds", "undecided")
    assert {w for of, w in words.items() if not of.startswith("λ of")} == {"outside"}  # too few minima for a median
    assert "fails" not in words.values()
    run = open_run(report.runs[0])
    sealed = run.events("prediction")
    assert len(sealed) == 6 + 3
    assert all(e["step"] == 0 for e in sealed)
    assert "llc" in run.names()
    first = report.tables["λ from five temperatures"][0]
    assert first["λ"] == 0.25
    assert abs(first["measured"] - 0.25) < 4 * first["err"] < 0.25


@pytest.mark.slow
def test_small_recovers_and_orders_them(tmp_path: Path) -> None:
    report = llc_accuracy(tmp_path, seed=3)
    rows = report.tables["λ from five temperatures"]
    assert len(rows) >= 30
    assert np.median([abs(r["error"]) for r in rows]) < 0.1


def test_an_unknown_scale_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="'tiny', 'small' or 'full'"):
        llc_accuracy(tmp_path, scale="huge")
