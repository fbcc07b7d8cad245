from collections.abc import Callable
from typing import Any

from strobe.core.report import Report
from strobe.studies.depth import depth


def test_nulls_fail_and_no_prediction_does(tiny: Callable[[Any], Report]) -> None:
    """At "tiny" the widest spreads are not told apart from their tolerance: undecided."""
    found = tiny(depth).verdicts
    nulls = [v.word for v in found if "must fail" in v.predicted.of]
    assert nulls == ["fails"] * 3
    rest = [v.word for v in found if "must fail" not in v.predicted.of]
    assert "fails" not in rest
    assert rest.count("holds") >= 4
