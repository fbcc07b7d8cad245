from collections.abc import Callable
from typing import Any

import numpy as np

from strobe.core.report import Report
from strobe.studies.kernel_curves import fits, gauss, kernel_curves, sample, training_sets
from strobe.studies.kernel_scaling import kernel_scaling


def test_nulls_fail(tiny: Callable[[Any], Report]) -> None:
    for study, count in ((kernel_curves, 3), (kernel_scaling, 2)):
        words = {v.predicted.of: v.word for v in tiny(study).verdicts}
        nulls = [word for of, word in words.items() if "must fail" in of]
        assert len(nulls) == count
        assert set(nulls) <= {"fails"}
        assert "holds" in words.values()


def test_exponents_below_the_regime_are_outside(tiny: Callable[[Any], Report]) -> None:
    words = {v.predicted.of: v.word for v in tiny(kernel_scaling).verdicts}
    assert {w for of, w in words.items() if "source 1.5" in of} == {"outside"}
    assert words["test error, normal data, 9 axes, no noise"] == "outside"


def test_the_errors_are_those_of_the_samples_and_training_sets_see_no_more() -> None:
    x = np.random.default_rng(0).standard_normal((30, 2))
    kernel, y = gauss(x, 1.0), x[:, :1]
    got = fits(kernel, y, 6, 0.2, 3, 5)
    taken = sample(30, 6, 2, 5)
    alpha = np.linalg.solve(kernel[np.ix_(taken, taken)] + 0.2 * np.eye(6), y[taken])
    miss = ((kernel[:, taken] @ alpha - y) ** 2)[:, 0]
    assert np.allclose([got.test[2], got.train[2]], [miss.mean(), miss[taken].mean()])
    assert np.isclose(got.unseen[2], np.delete(miss, taken).mean())
    changed = y.copy()
    changed[np.setdiff1d(np.arange(30), taken)] = 99.0
    squares, _ = training_sets(kernel, changed, 6, 0.2, 3, 5)
    assert np.allclose(squares[2], (alpha**2)[:, 0])
