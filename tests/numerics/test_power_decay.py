import numpy as np
import pytest

from strobe.numerics.power_decay import decay

X = np.geomspace(1, 256, 9)


@pytest.mark.parametrize(("k", "floor"), [(0.3, 1.7), (1.5, 0.0), (3.0, 0.2)])
def test_it_finds_the_exponent_and_the_floor(k: float, floor: float) -> None:
    found = decay(X, floor + 3 * X**-k, np.full(9, 1e-6))
    assert found.exponent == pytest.approx(k, rel=1e-3)
    assert found.floor == pytest.approx(floor, abs=2e-3)
    assert found.drift == pytest.approx(0, abs=0.02)
    assert decay(X, floor + 3 * X**-k, np.full(9, 1e-6), floor=floor).exponent == pytest.approx(k, rel=1e-4)


@pytest.mark.parametrize("floor", [None, 0.5])
def test_its_error_is_the_spread_over_noise(floor: float | None) -> None:
    rng, err = np.random.default_rng(0), np.full(9, 0.01)
    runs = [
        decay(X, 0.5 + X**-0.8 + err * rng.standard_normal(9), err, floor=floor, draws=50, seed=i) for i in range(30)
    ]
    spread = np.std([r.exponent for r in runs], ddof=1)
    assert 0.6 < np.mean([r.err for r in runs]) / spread < 1.7
    assert np.mean([r.exponent for r in runs]) == pytest.approx(0.8, abs=3 * spread / 30**0.5 + 0.02)
    assert np.mean([r.misfit for r in runs]) == pytest.approx(1, abs=0.4)


def test_an_exponential_is_no_power_law() -> None:
    found = decay(X[:6], np.exp(-0.2 * X[:6]), np.full(6, 1e-3), floor=0.0)
    assert found.drift > 0.5 * found.exponent
    assert found.misfit > 10


def test_too_few_points_and_bad_numbers_are_refused() -> None:
    for bad in (
        (X[:3], X[:3], X[:3], None),
        (X[:2], X[:2], X[:2], 0.0),
        (X, X, 0 * X, None),
        (X, np.nan * X, X, None),
        (X - 1, X, X, None),
    ):
        with pytest.raises(ValueError, match="decay needs"):
            decay(*bad[:3], floor=bad[3])
