"""Mean-field maps of signals: closed forms, Monte Carlo, and the ReLU maps against quadrature."""

import numpy as np
import pytest

from strobe.numerics.signal_propagation import correlation_map, fixed_length, length_map, slope


def test_erf_has_the_arcsine_maps() -> None:
    """E erf(√q z)² = (2/π) arcsin(2q/(1+2q)) and the same with c q above for two inputs (Williams 1997)."""
    how = {"activation": "erf", "weight": 1.5, "bias": 0.1}
    q, c = 0.8, 0.4
    after = 1.5 * 2 / np.pi * np.arcsin(2 * q / (1 + 2 * q)) + 0.1
    assert length_map(q, **how) == pytest.approx(after, rel=1e-9)  # type: ignore[arg-type]
    cross = 1.5 * 2 / np.pi * np.arcsin(2 * c * q / (1 + 2 * q)) + 0.1
    assert correlation_map(c, q, **how) == pytest.approx(cross / after, rel=1e-9)  # type: ignore[arg-type]
    assert slope(q, activation="erf", weight=1.5) == pytest.approx(1.5 * 4 / np.pi / np.sqrt(1 + 4 * q), rel=1e-9)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_two_inputs_against_a_million_draws(activation: str) -> None:
    a, b = np.random.default_rng(0).standard_normal((2, 1_000_000))
    phi = np.tanh if activation == "tanh" else (lambda u: np.maximum(u, 0))
    q, c, how = 1.3, -0.3, {"activation": activation, "weight": 1.7, "bias": 0.2}
    u, v = q**0.5 * a, q**0.5 * (c * a + (1 - c * c) ** 0.5 * b)
    want = (1.7 * np.mean(phi(u) * phi(v)) + 0.2) / length_map(q, **how)  # type: ignore[arg-type]
    assert correlation_map(c, q, **how) == pytest.approx(want, abs=4e-3)  # type: ignore[arg-type]


def test_the_stretch_is_the_slope_of_the_correlation_map_at_one() -> None:
    """Poole et al. 2016, equation 5: χ₁ = dc'/dc at c = 1, at the fixed length."""
    how = {"activation": "tanh", "weight": 1.5, "bias": 0.1}
    q = fixed_length(**how)  # type: ignore[arg-type]
    assert length_map(q, **how) == pytest.approx(q, rel=1e-9)  # type: ignore[arg-type]
    step = 1e-4
    measured = (1 - correlation_map(1 - step, q, **how)) / step  # type: ignore[arg-type]
    assert slope(q, activation="tanh", weight=1.5) == pytest.approx(measured, rel=1e-2)
    assert correlation_map(1.0, q, **how) == pytest.approx(1.0)  # type: ignore[arg-type]


def test_a_length_without_bound_is_refused() -> None:
    with pytest.raises(ValueError, match="without bound"):
        fixed_length(activation="relu", weight=2.5, bias=0.1)
