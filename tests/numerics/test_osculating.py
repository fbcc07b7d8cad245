import numpy as np
import pytest

from strobe.numerics.osculating import osculating, turns

T = np.linspace(0, 2 * np.pi, 400, endpoint=False)


def ellipse(a: float, b: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    p = np.stack([a * np.cos(T), b * np.sin(T)], 1)
    return p, np.stack([-a * np.sin(T), b * np.cos(T)], 1), -p


def test_an_ellipse_has_its_known_evolute_and_curvature() -> None:
    """Evolute of an ellipse: ((a² − b²)/a cos³ t, −(a² − b²)/b sin³ t), an astroid with cusps at the four vertices."""
    a, b = 3.0, 2.0
    found = osculating(*ellipse(a, b))
    assert np.allclose(found.curvature, a * b / (a**2 * np.sin(T) ** 2 + b**2 * np.cos(T) ** 2) ** 1.5)
    assert np.allclose(
        found.centre, np.stack([(a**2 - b**2) / a * np.cos(T) ** 3, -(a**2 - b**2) / b * np.sin(T) ** 3], 1)
    )


def test_the_form_potential_has_no_first_and_second_derivative_at_the_centre_and_no_third_at_a_vertex() -> None:
    position, *rest = ellipse(3.0, 2.0)
    centre = osculating(position, *rest).centre
    h = T[1] - T[0]

    def derivatives(i: int) -> list[float]:
        phi = 0.5 * np.square(position - centre[i]).sum(1)
        at = np.take(phi, np.arange(i - 3, i + 4), mode="wrap")
        return [abs(np.convolve(at, c, "valid")[len(at) // 2 - len(c) // 2]) / h**n for n, c in
                ((1, [0.5, 0, -0.5]), (2, [1, -2, 1]), (3, [0.5, -1, 0, 1, -0.5]))]  # fmt: skip

    assert derivatives(60)[0] < 1e-2
    assert derivatives(60)[1] < 1e-2
    assert derivatives(60)[2] > 1
    assert max(derivatives(100)) < 1e-2  # t = π/2, a vertex


def test_any_dimension_and_scale() -> None:
    frame = np.linalg.qr(np.random.default_rng(0).standard_normal((5, 2)))[0].T
    flat, deep = osculating(*ellipse(3, 2)), osculating(*(x @ frame for x in ellipse(3, 2)))
    assert np.allclose(flat.curvature, deep.curvature)
    assert np.allclose(flat.centre @ frame, deep.centre)
    large = osculating(*(7 * x for x in ellipse(3, 2)))
    assert np.allclose(large.turning, flat.turning)
    line = osculating(T[:, None] * np.ones(2), np.ones((400, 2)), np.zeros((400, 2)))
    assert np.isfinite(line.centre).all()


def test_turns_of_a_polygon_with_round_corners_and_none_of_a_line() -> None:
    """Three corners of 60, 90 and 10 degrees: the last turns too little, and goes to a neighbour."""
    x = np.linspace(0, 4, 2001)
    angles = np.deg2rad([60.0, 90.0, 10.0])
    turning = sum(
        a / (0.05 * np.sqrt(2 * np.pi)) * np.exp(-0.5 * ((x - c) / 0.05) ** 2)
        for a, c in zip(angles, (1, 2, 3), strict=True)
    )
    heading = np.concatenate([[0], np.cumsum((turning[1:] + turning[:-1]) / 2 * np.diff(x))])
    velocity = np.stack([np.cos(heading), np.sin(heading)], 1)
    circles = osculating(
        np.zeros((2001, 2)), velocity, turning[:, None] * np.stack([-np.sin(heading), np.cos(heading)], 1)
    )
    places, turned = turns(x, circles, np.deg2rad(30))
    assert np.allclose(places, [1, 2], atol=0.01)
    assert np.rad2deg(turned) == pytest.approx([60, 100], abs=1)
    assert len(turns(x, circles, np.deg2rad(200))[0]) == 0
