from collections.abc import Callable
from typing import Any

import numpy as np

from strobe.core.report import Report
from strobe.studies.closed_forms import accuracy, closed_forms, cooccurrences, explicit


def test_what_holds_and_what_is_known_to_fail(tiny: Callable[[Any], Report]) -> None:
    """word2vec's own loss is known not to span the eigenspace within 10%: it stays in the catalogue as failing."""
    for v in tiny(closed_forms).verdicts:
        fails = "must fail" in v.predicted.of or "word2vec's own loss" in v.predicted.of
        assert v.word == ("fails" if fails else "holds"), str(v)


def test_the_explicit_network_adds_and_with_other_phases_guesses() -> None:
    assert accuracy(explicit(29, 232, 0), 29) == 1.0
    assert accuracy(explicit(29, 232, 0, turned=True), 29) < 0.15


def test_cooccurrences_are_symmetric_frequencies() -> None:
    words, pairs = cooccurrences(30)
    assert len(set(words)) == 30
    assert np.allclose(pairs, pairs.T)
    assert abs(pairs.sum() - 1) < 1e-12
