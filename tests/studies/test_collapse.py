from collections.abc import Callable
from typing import Any

from strobe.core.report import Report
from strobe.studies.collapse import collapse, optimise


def test_the_closed_form_holds_and_its_rivals_fail(tiny: Callable[[Any], Report]) -> None:
    report = tiny(collapse)
    for v in report.verdicts:
        assert v.word == ("fails" if "must fail" in v.predicted.of else "holds"), str(v)
    trend = report.tables["a perceptron on digits (no verdict)"]
    assert trend[-1]["NC1, within / between"] < 0.5 * trend[0]["NC1, within / between"]


def test_an_unfinished_optimisation_has_a_gradient_that_says_so() -> None:
    assert optimise(4, 5, 8, 5e-3, 3, 0)[3] > 1e-6 > optimise(4, 5, 8, 5e-3, 3000, 0)[3]
