from collections.abc import Callable
from typing import Any

import numpy as np

from strobe.core.report import Report
from strobe.studies.width_spectra import exponent, width_spectra


def test_the_standard_parametrisation_fails_what_the_maximal_update_one_is_sealed_to_do(tiny: Callable[[Any], Report]) -> None:  # fmt: skip
    """The widths of "tiny" are too narrow for the first updates' exponents: no more than undecided is asked there."""
    for v in tiny(width_spectra).verdicts:
        if "must fail" in v.predicted.of:
            assert v.word == "fails", str(v)
        elif "maximal" in v.predicted.of:
            assert v.word != "fails", str(v)
    rows = tiny(width_spectra).tables["means over seeds"]
    hidden = [r["action of Δhidden"] for r in rows if r["parametrisation"] == "standard"]
    assert hidden[-1] > 2 * hidden[0]


def test_an_exponent_is_that_of_a_power_and_its_error_is_true() -> None:
    rng = np.random.default_rng(0)
    widths = [32, 64, 128, 256]
    made = lambda: (np.array(widths, float) ** 0.5)[:, None, None] * np.exp(0.1 * rng.standard_normal((4, 6, 1)))  # noqa: E731
    reads = [exponent(widths, made()) for _ in range(200)]
    away = [(r.value[0] - 0.5) / r.err[0] for r in reads]
    assert abs(np.mean([r.value[0] for r in reads]) - 0.5) < 0.01
    assert 0.9 < np.std(away) < 1.7  # Student's t of five degrees of freedom: 1.29
