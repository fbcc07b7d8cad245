"""The laws of the start hold, their rivals fail, and unfinished training is outside."""

from collections.abc import Callable
from typing import Any

import numpy as np

from strobe.core.report import Report
from strobe.studies.implicit_bias import _descend_margins, descend_diagonal, implicit_bias


def test_every_law_holds_beside_its_rival(tiny: Callable[[Any], Report]) -> None:
    for v in tiny(implicit_bias).verdicts:
        assert v.word == ("fails" if "must fail" in v.predicted.of else "holds"), str(v)


def test_training_cut_short_says_what_is_left() -> None:
    X = np.random.default_rng(0).standard_normal((5, 9))
    _, left, steps = descend_diagonal(X, X[:, 0], np.array([1e-3]), most=500)
    assert steps == 500
    assert left[0] > 0.1


def test_the_descent_to_the_margin_is_that_of_one_example() -> None:
    """w·x = ln(1 + |x|² t) up to what a step is large."""
    got = _descend_margins(np.array([[[1.0, 0.0]]]), 0.1, [10_000])[10_000]
    assert got[2][0][0] == np.log(1 + 0.1 * 10_000) + np.clip(got[2][0][0] - np.log(1001), -0.1, 0.1)
    assert abs(got[0][0][0] - 1) < 0.01
