"""The table of laws: what a prediction is drawn against, and that older runs, which did not say, are read as before."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strobe.app.laws_table import laws_of, number
from strobe.app.sealed import about
from strobe.app.traces import Panel
from strobe.core.prediction import Prediction, judge
from strobe.core.reading import Reading
from strobe.runs.notes import Notes, seal_of
from strobe.runs.run import open_run


def test_a_row_says_its_series_and_steps_and_is_sealed(tmp_path: Path, toy: Any) -> None:
    toy().run(tmp_path / "r", 5)
    with Notes(tmp_path / "r") as notes:
        curve = notes.seal(Prediction("two modes", np.ones((2, 3)), 0.1, series="modes", steps=[2, 4]))
        notes.verdict(judge(curve, Reading(np.full((2, 3), 1.01), 1e-3)))
        notes.seal(Prediction("loss", 0.5, 0.1))
        notes.seal(Prediction("a gap in decades", 0.5, 0.1))
    rows = laws_of(open_run(tmp_path / "r"))
    assert [(r["series"], r["steps"]) for r in rows] == [("modes", [2, 4]), ("loss", []), ("", [])]
    assert rows[0]["verdict"]["word"] == "holds"
    assert all(r["sealed"] for r in rows)


def test_a_seal_of_before_the_fields_still_holds_when_judged_today(tmp_path: Path, toy: Any) -> None:
    toy().run(tmp_path / "r", 5)
    said = Prediction("x", 1.0, 0.1)
    body = {k: v for k, v in asdict(said).items() if k not in ("seal", "series", "steps")}
    with Notes(tmp_path / "r") as notes:
        seal = seal_of(body, notes.n)
        notes.event("prediction", prediction=body, seal=seal)
        notes.verdict(judge(Prediction("x", 1.0, 0.1, seal=seal), Reading(1.01, 1e-3)))
    (row,) = laws_of(open_run(tmp_path / "r"))
    assert (row["sealed"], row["verdict"]["word"], row["series"]) == (True, "holds", "")


@pytest.mark.parametrize(("series", "of", "held"), [
    (["loss"], "loss", True), (["loss"], "los", False), (["heads"], "heads[2]", True), (["heads[2]"], "heads", True),
    (["heads[2]"], "heads[3]", False), (["heads[2]", "heads[3]"], "heads[3]", True),
])  # fmt: skip
def test_a_panel_holds_what_speaks_of_its_series(series: list[str], of: str, held: bool) -> None:
    assert bool(about(Panel("p", series), [{"sealed": True, "series": of}])) is held


def test_words_among_a_reports_facts_are_shown_as_they_are() -> None:
    assert number(["fails     x: predicted 1", "not computed"]) == "fails     x: predicted 1; not computed"
    assert number([]) == ""
