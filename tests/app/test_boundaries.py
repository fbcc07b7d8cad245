"""Boundaries on the strip: by every method, how sure, who agrees; and those of runs recorded before methods were."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strobe.app.boundaries import stages_of
from strobe.app.report import write_report
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.observables.stages import boundaries
from strobe.runs.notes import Notes
from strobe.runs.run import open_run
from toys import Toy


def found(method: str, at: list[float], sure: float = 0.9, **more: Any) -> Reading:
    x = np.array(at)
    rows = boundaries(method, x, np.full(len(x), 0.04), np.full(len(x), sure), **more)
    return Reading(x, x * 0.04 * np.log(10), "steps", {"boundaries": rows, "low": 1.0, "high": 40.0})


@pytest.fixture
def run(tmp_path: Path) -> Path:
    Toy().run(tmp_path / "r", 40)
    with Notes(tmp_path / "r") as notes:
        notes.reading("stages", found("bends of the traces", [5.0, 20.0]))
        notes.reading("vertices", found("turns of the trajectory", [1.5, 22.0], 0.6, turned=[np.pi / 2, 0.5]))
    return tmp_path / "r"


def test_every_method_is_listed_with_how_sure_and_who_agrees(run: Path) -> None:
    got = stages_of(open_run(run))
    assert got is not None
    assert got["value"] == [5.0, 20.0]
    rows = got["boundaries"]
    assert [(r["step"], r["method"]) for r in rows] == [
        (1.5, "turns of the trajectory"), (5.0, "bends of the traces"), (20.0, "bends of the traces"), (22.0, "turns of the trajectory"),
    ]  # fmt: skip
    assert rows[0]["facts"] == ["turns by 90°"]
    assert rows[0]["sure"] == 0.6
    assert rows[0]["agrees"] == []
    assert [a["step"] for a in rows[2]["agrees"]] == [22.0]


def test_old_runs_are_read_and_do_not_pretend_to_know(tmp_path: Path) -> None:
    Toy().run(tmp_path / "r", 40)
    assert stages_of(open_run(tmp_path / "r")) is None
    with Notes(tmp_path / "r") as notes:
        notes.reading("stages", Reading(np.array([5.0, 20.0]), 0.5, "steps", {"stages": []}))
    got = stages_of(open_run(tmp_path / "r"))
    assert got is not None
    assert got["err"] == [0.5, 0.5]
    assert [(r["method"], r["sure"]) for r in got["boundaries"]] == [("bends of the traces", None)] * 2


def test_a_run_with_one_other_method_is_cut_by_it(tmp_path: Path) -> None:
    Toy().run(tmp_path / "r", 40)
    with Notes(tmp_path / "r") as notes:
        notes.reading("llc_plateaus", found("plateaus of the learning coefficient", [7.0], kind=["plateau begins"]))
    got = stages_of(open_run(tmp_path / "r"))
    assert got is not None
    assert got["value"] == [7.0]
    assert got["boundaries"][0]["facts"] == ["plateau begins"]


def test_the_report_has_a_table_of_them(run: Path) -> None:
    text = write_report(Report("?", [], [run]), run.parent / "report.html").read_text()
    assert "Boundaries of stages, by method" in text
    assert "turns by 90°" in text
    assert "60%" in text
