import numpy as np

from strobe.numerics.crossing import crossing


def test_a_straight_line_crosses_where_it_must() -> None:
    x = np.linspace(0, 10, 11)
    place, err = crossing(x, x, np.full(11, 0.1), 3.25)  # type: ignore[misc]
    assert place == 3.25
    assert 0.28 < err < 0.5


def test_the_last_crossing_counts_and_none_is_none() -> None:
    x = np.arange(6.0)
    assert crossing(x, np.array([0, 2, 0, 0, 2, 2.0]), np.zeros(6), 1.0)[0] == 3.5  # type: ignore[index]
    assert crossing(x, np.zeros(6), np.zeros(6), 1.0) is None


def test_noise_widens_the_error() -> None:
    x = np.arange(4.0)
    a, b = (crossing(x, x, np.full(4, e), 1.5) for e in (0.0, 1.0))
    assert b[1] > a[1] + 0.5  # type: ignore[index]
