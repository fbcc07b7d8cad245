import numpy as np
import pytest

from strobe.core.reading import Reading
from strobe.studies.width_transfer import octaves


def test_the_octaves_of_best_rates_are_of_the_highest_and_the_lowest() -> None:
    moved = octaves([Reading(-6.0, 0.3), Reading(-7.5, 0.1), Reading(-5.5, 0.2)])
    assert moved.value == pytest.approx(2.0)
    assert moved.err == pytest.approx(np.hypot(0.1, 0.2))
