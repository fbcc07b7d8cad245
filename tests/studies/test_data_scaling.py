from collections.abc import Callable
from typing import Any

from strobe.core.report import Report
from strobe.studies.data_scaling import data_scaling


def test_shuffled_tokens_are_outside_and_more_tokens_are_better(tiny: Callable[[Any], Report]) -> None:
    report = tiny(data_scaling)
    words = {v.predicted.of: v.word for v in report.verdicts}
    assert all(word == "outside" for of, word in words.items() if "shuffled" in of)
    assert all(word == "fails" for of, word in words.items() if "rival γ" in of)
    rows, key = report.tables["loss on D tokens of a chain"][:4], "loss above the entropy rate"
    assert rows[-1][key] < rows[0][key] / 5
    assert len(report.tables["loss on D tokens of text"]) == 5
    built = next(row for row in report.tables["exponents"] if row["β far"] == 1.25)
    assert abs(built["β"] - 1.25) < 3 * built["β err"] + 0.1
