from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from strobe.core.errors import BadOption
from strobe.core.report import Report
from strobe.numerics.learning_order import learning_order
from strobe.studies.shared_order import _rand, shared_order
from strobe.systems.shortcut_digits import shortcut_digits


def test_two_heuristics_are_told_apart(tiny: Callable[[Any], Report]) -> None:
    report = tiny(shared_order)
    two = report.tables["two heuristics"][0]
    assert two["right in conflict, digit runs"] > two["right in conflict, code runs"] + 0.4
    assert two["across"] > 5 * two["barrier within, digits"]
    assert next(v for v in report.verdicts if "own (must fail)" in v.predicted.of).word != "holds"


def test_the_order_of_nets_that_share_one_and_of_nets_that_do_not() -> None:
    rng = np.random.default_rng(0)
    when = rng.integers(1, 9, 300)
    epochs = np.arange(10)[None, :, None]
    shared = epochs >= np.clip(when + rng.integers(-1, 2, (6, 1, 300)), 0, 9)
    apart = epochs >= rng.integers(1, 9, (6, 1, 300))
    a, b = learning_order(shared), learning_order(apart)
    assert a.rho > 0.85 > 0.1 > abs(b.rho)
    assert a.ratio > 3
    assert b.ratio == pytest.approx(1, abs=0.3)
    assert a.unanimous[0] > 0.5 > a.unanimous[1]
    with pytest.raises(ValueError, match="two of each"):
        learning_order(np.ones((1, 3, 3)))


def test_clusters_that_are_the_arms_and_clusters_that_are_not() -> None:
    arms = np.array([0, 1] * 4)
    clean = np.where(arms[:, None] == arms, 0.01, 1.0) * (1 - np.eye(8))
    assert _rand(clean, arms) == pytest.approx(1)
    assert _rand(clean, np.array([0, 0, 0, 0, 1, 1, 1, 1])) < 0.2


def test_the_code_and_the_digits() -> None:
    world = shortcut_digits(reliable=1.0, destroyed=True)
    x, y = world.facts["rows"]
    assert (x[:, 64:].argmax(1) == y).all()
    assert (world.facts["conflict"][0][:, 64:].argmax(1) == (world.facts["conflict"][1] + 1) % 10).all()
    assert 0.05 < float((shortcut_digits(reliable=0.0).facts["rows"][0][:, 64:].argmax(1) == y).float().mean()) < 0.2
    with pytest.raises(BadOption, match="reliable in 0 to 1"):
        shortcut_digits(reliable=2.0)
