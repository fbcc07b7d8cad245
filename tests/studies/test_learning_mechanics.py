from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from strobe.core.catalogue import catalogue
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction, judge
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.studies.learning_mechanics import FAST, STRANDS, learning_mechanics, unexpected

NAMES = [n for names in STRANDS.values() for n in names]


def test_every_study_it_names_is_in_the_catalogue_once() -> None:
    assert {*NAMES} <= {e.name for e in catalogue() if e.kind == "study"}
    assert len(NAMES) == len({*NAMES})
    assert {*FAST} <= {*NAMES}


def test_the_fast_laws_hold_and_their_nulls_fail(tiny: Callable[[Any], Report]) -> None:
    report = tiny(learning_mechanics)
    assert report.facts["unexpected"] == []
    board = {r["law"]: r for r in report.tables["laws"]}
    assert board["charge_change"]["holds"] >= 4
    assert board["charge_change"]["fails"] == 0
    assert [r["verdict"] for r in report.tables["predictions"] if "must fail" in r["prediction"]].count("fails") >= 6
    assert len(report.tables["cost"]) == len(FAST)


def test_what_is_not_as_it_must_be_is_named() -> None:
    law, null = Prediction("x", 1.0, 0.1), Prediction("x, null (must fail)", 1.0, 0.1)
    right, wrong = Reading(1.0, 0.01), Reading(2.0, 0.01)
    assert unexpected([judge(law, right), judge(null, wrong), judge(law, wrong, applies=False)]) == []
    assert len(unexpected([judge(law, wrong), judge(null, right)])) == 2


def test_a_study_that_stops_is_told_and_the_others_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from strobe.studies import learning_mechanics as module

    found = module.lookup

    def stops(name: str, kind: str) -> Any:
        if name == "catapult":
            raise RuntimeError("out of luck")
        return found(name, kind)

    monkeypatch.setattr(module, "lookup", stops)
    report = learning_mechanics(tmp_path, scale="tiny", only=["catapult", "conserved"])
    assert report.facts["not_computed"] == ["catapult: RuntimeError: out of luck"]
    assert report.verdicts


def test_unknown_studies_and_scales_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="did you mean catapult"):
        learning_mechanics(tmp_path, only=["catapul"])
    with pytest.raises(BadOption, match="scale is"):
        learning_mechanics(tmp_path, scale="huge")
