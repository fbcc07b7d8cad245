"""λ/n against d/2n: a conjugate regression in closed form, a singular one by quadrature."""

import numpy as np
import pytest

from strobe.core.errors import BadOption
from strobe.core.prediction import judge
from strobe.core.reading import Reading
from strobe.laws.bayes_generalization import bayes_generalization, regular_generalization

SIZES = [100, 1000, 10_000]


def test_the_mean_of_a_gaussian_is_exact() -> None:
    """y ~ N(w, 1) in d dimensions, flat prior: predictive N(ȳ, 1 + 1/n), n E[G] = n d/2 log(1 + 1/n) → d/2."""
    d = 6
    exact = Reading(np.array([n * d / 2 * np.log1p(1 / n) for n in SIZES]))
    assert judge(regular_generalization(n=SIZES, parameters=d, rtol=0.01), exact).word == "holds"
    assert judge(bayes_generalization(n=SIZES, rlct=d / 2, rtol=0.01), exact).word == "holds"


def test_a_singular_model_refutes_half_its_parameters() -> None:
    """y ~ N(a b, 1) with truth 0, prior N(0, 1): λ = 1/2, m = 2; the prior of u = a b is K₀(|u|) / π."""
    from scipy.special import k0

    u = np.concatenate([-np.geomspace(3, 1e-12, 3000), np.geomspace(1e-12, 3, 3000)])
    width = np.gradient(u) * k0(np.abs(u))
    z, h = np.polynomial.hermite_e.hermegauss(60)
    h = h / h.sum()
    found = []
    for n in SIZES:  # over the mean of the data, z/√n, which is all that the posterior sees, and over a new y
        p = np.exp(-n / 2 * (u - z[:, None] / n**0.5) ** 2) * width
        ratio = np.exp(z[:, None] * u - u**2 / 2) @ (p / p.sum(1, keepdims=True)).T
        found.append(-n * h @ np.log(ratio) @ h)
    got = Reading(np.array(found))
    assert got.value == pytest.approx([0.3152, 0.3694, 0.3996], abs=1e-4)
    said = bayes_generalization(n=SIZES, rlct=0.5, multiplicity=2, first_order=False)
    assert judge(said, got).word == "holds"
    assert judge(bayes_generalization(n=SIZES, rlct=0.5), got).word == "fails"  # the log is slow to go
    assert judge(regular_generalization(n=SIZES, parameters=2), got).word == "fails"


def test_bad_knobs_are_refused() -> None:
    for bad in ({"n": []}, {"n": [1]}, {"rlct": 0.0}, {"multiplicity": 0}, {"rtol": 0.0}):
        with pytest.raises(BadOption):
            bayes_generalization(**{"n": [10], "rlct": 1.0, **bad})  # type: ignore[arg-type]
    with pytest.raises(BadOption, match="parameters is"):
        regular_generalization(n=[10], parameters=0)
