from collections.abc import Callable
from typing import Any

from strobe.core.report import Report
from strobe.studies.universality import universality


def test_what_is_shared_is_told_from_its_nulls(tiny: Callable[[Any], Report]) -> None:
    for v in tiny(universality).verdicts:
        if "must fail" in v.predicted.of:
            assert v.word != "holds", str(v)
        else:
            assert v.word != "fails", str(v)
    barriers = tiny(universality).tables["barriers"]
    assert all(row["drop"] > 5 * row["drop at random"] for row in barriers)
