"""What studies of stages share: distances to behaviour with what chance does, and values at uncertain times."""

import numpy as np
import pytest

from strobe.core.reading import Reading
from strobe.observables.stages import boundaries
from strobe.studies.development import behaviour, boundary_table, rise, valued, worst_gap


def test_the_distance_to_behaviour_is_that_of_the_worst_and_says_what_chance_does() -> None:
    def found(at: list[float]) -> Reading:
        return Reading(
            np.array(at), 0, "", {"boundaries": boundaries("x", np.array(at), np.full(len(at), 0.1), np.ones(len(at)))}
        )

    times = [(2.0, 0.0), (3.0, 0.0)]
    got = worst_gap(found([100.0, 10**3.3]), times, 4.0)
    assert got.value == pytest.approx(0.1)
    assert got.err == pytest.approx(0.1 / 3)
    assert 0 < got.how["chance"] < worst_gap(found([100.0] * 8), times, 4.0).how["chance"] < 1
    assert worst_gap(found([]), times, 4.0).value == 1.0


def test_a_rise_and_a_value_at_an_uncertain_time() -> None:
    steps = np.array([1.0, 10, 100, 1000])
    rose = rise(steps, np.array([0.0, 1, 2, 3]), np.full(4, 0.3), 2.0)
    assert rose.value == pytest.approx(0.4)
    assert rose.err == pytest.approx(0.3 * 2**0.5)
    at = valued(steps, np.array([0.0, 1, 2, 3]), np.full(4, 0.3), (1.5, 0.4))
    assert at.value == pytest.approx(1.5)
    assert at.err == pytest.approx(0.5)


def test_times_of_behaviours_are_boundaries_in_a_table() -> None:
    got = behaviour({"late": (3.0, 0.1), "early": (1.0, 0.0)}, 5000)
    assert got.how["high"] == 5000
    rows = boundary_table({"behaviour": got, "other": Reading(None)})
    assert [(r["what"], r["step"]) for r in rows] == [("early", pytest.approx(10)), ("late", pytest.approx(1000))]
