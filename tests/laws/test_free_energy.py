"""The free energy against integrals: a regression in closed form, a singular polynomial by quadrature, two phases side by side."""

from math import exp, log

import numpy as np
import pytest
from scipy.special import logsumexp

from strobe.core.errors import BadOption
from strobe.core.prediction import judge
from strobe.core.reading import Reading
from strobe.laws.free_energy import free_energy, phase_change, phase_gap
from strobe.laws.superposition_phases import superposition_phase_change

SIZES = [10**3, 10**4, 10**5, 10**6]


def test_a_linear_regression_in_closed_form_rises_by_half_its_parameters_a_log() -> None:
    """F_n - n L_n(w*) = ½ Σ log(1 + n hᵢ) for L quadratic with curvatures h and a prior N(0, 1) around w*."""
    h = np.array([2.0, 1.0, 0.3, 0.1])
    exact = np.array([np.log1p(n * h).sum() / 2 for n in SIZES])
    rise = Reading(exact[1:] - exact[0])
    assert judge(free_energy(n=SIZES, rlct=2.0, rtol=0.01), rise).word == "holds"
    assert judge(free_energy(n=SIZES, rlct=1.0), rise).word == "fails"


def test_a_crossing_by_quadrature_needs_its_log_log() -> None:
    """K = (w₁ w₂)²: λ = 1/2, m = 2; over [-1, 1]² the integral over w₂ is an error function."""
    from scipy.special import erf

    u = np.linspace(-40, 0, 200_001)  # log w₁
    w = np.exp(u)
    exact = []
    for n in SIZES:
        inner = np.sqrt(np.pi / n) / w / 2 * erf(np.sqrt(n) * w)
        exact.append(-log(np.trapezoid(inner * w, u)))
    rise = Reading(np.array(exact[1:]) - exact[0])
    assert judge(free_energy(n=SIZES, rlct=0.5, multiplicity=2), rise).word == "holds"
    assert judge(free_energy(n=SIZES, rlct=0.5), rise).word == "fails"
    assert judge(free_energy(n=SIZES, rlct=1.0), rise).word == "fails"  # d/2


def test_two_phases_side_by_side_change_where_it_is_said() -> None:
    """One wide and shallow Gaussian valley (3 flat directions of 4), one narrow and deep, in the same box [-1, 1]⁴."""
    first, second = (0.02, 0.5), (0.0, 2.0)
    wide = lambda n: -n * 0.02 + 3 * log(2) + 0.5 * log(np.pi / n)  # noqa: E731
    deep = lambda n: 2 * log(np.pi / n)  # noqa: E731
    n = np.exp(np.linspace(3, 9, 4001))
    at = log(n[np.flatnonzero([wide(x) < deep(x) for x in n])[0]])
    said = phase_change(first=first, second=second)
    assert judge(said, Reading(at)).word == "holds"
    assert judge(phase_change(first=first, second=(0.0, 4.0)), Reading(at)).word == "fails"
    for x in (50, 5000):
        gap = Reading(deep(x) - wide(x))
        assert judge(phase_gap(n=x, first=first, second=second), gap).word == "holds"
        assert np.sign(phase_gap(n=x, first=first, second=second).value) == np.sign(log(x) - said.value)
    assert logsumexp([wide(exp(at)), -np.inf]) == pytest.approx(deep(exp(at)), abs=0.01)


def test_the_polygons_are_a_case_of_it() -> None:
    said = superposition_phase_change(first=(5, 0), second=(6, 0))
    assert exp(said.value) == pytest.approx(1010, rel=1e-3)
    assert said.knobs["first"] == [5, 0]


def test_what_never_happens_is_refused_with_names() -> None:
    with pytest.raises(BadOption, match="lazy never gives way to keen: the loss of the second, 2"):
        phase_change(first=(1.0, 1.0), second=(2.0, 2.0), names=("lazy", "keen"))
    with pytest.raises(BadOption, match="keen is preferred to lazy at every n"):
        phase_change(first=(1.0, 1.0), second=(0.5, 1.0), names=("lazy", "keen"))
    with pytest.raises(BadOption, match="a phase is"):
        phase_gap(n=10, first=(1.0, -1.0), second=(0.5, 1.0))
    for bad in ({"n": [10]}, {"n": [100, 10]}, {"n": [10, 100], "rlct": 0.0}, {"n": [10, 100], "rtol": 0.0}):
        with pytest.raises(BadOption):
            free_energy(**{"rlct": 1.0, **bad})  # type: ignore[arg-type]
