"""Laws of kernel regression: closed forms, the regressions they speak of, and the cases in which they must fail."""

from typing import Any

import numpy as np
import pytest

from strobe.core.errors import BadOption
from strobe.core.prediction import judge
from strobe.core.reading import Reading
from strobe.laws.learning_curve import learning_curve
from strobe.laws.leave_one_out import kernel_alignment_risk, leave_one_out
from strobe.numerics.eigenlearning import dual, eigenbasis
from strobe.studies.kernel_curves import fits, gauss


def test_a_flat_spectrum_in_closed_form() -> None:
    """M equal modes, no ridge: test = (1 − n/M) power + noise/(1 − n/M) (Simon et al. 2023, section 3)."""
    said = learning_curve(spectrum=[1.0] * 40, coefficients=[0.5] * 40, n=[10, 20], ridge=0.0, noise=0.1)
    assert said.value == pytest.approx([0.75 * 10 + 0.1 / 0.75, 0.5 * 10 + 0.2])
    assert said.tol == pytest.approx(0.05 * said.value)


def test_on_a_finite_population_it_holds_for_all_points_and_fails_with_replacement() -> None:
    g = np.random.default_rng(0)
    x = g.standard_normal((800, 10))
    kernel, y = gauss(x, 3.0), np.sin(x.sum(1))[:, None]

    def read(columns: list[np.ndarray]) -> Reading:
        return Reading(np.array([v.mean() for v in columns]), np.array([v.std() / len(v) ** 0.5 for v in columns]))

    lam, c = eigenbasis(kernel, y)
    said = learning_curve(spectrum=lam, coefficients=c, n=[40, 80], ridge=0.1, population=800)
    found = [fits(kernel, y, n, 0.1, 100, 0).test for n in (40, 80)]
    assert judge(said, read(found)).word == "holds"
    beyond = learning_curve(spectrum=lam, coefficients=c, n=[400], ridge=1e-3)
    left = fits(kernel, y, 400, 1e-3, 30, 0).unseen  # half of the population is gone
    assert judge(beyond, read([left])).word == "fails"


@pytest.mark.parametrize("knobs", [
    {"n": [60], "population": 500}, {"n": []}, {"n": [0]}, {"noise": -1.0}, {"of": "loss"}, {"coefficients": [1.0]},
    {"spectrum": [-1.0] * 100},
    {"ridge": -1.0}, {"n": [100], "ridge": 0.0}, {"rtol": 0.0}, {"coefficients": [float("nan")] * 100},
])  # fmt: skip
def test_bad_knobs(knobs: dict[str, Any]) -> None:
    with pytest.raises(BadOption):
        learning_curve(**({"spectrum": [1.0] * 100, "coefficients": [0.1] * 100, "n": [10], "ridge": 0.1} | knobs))


def test_leaving_one_out_is_what_it_says() -> None:
    g = np.random.default_rng(1)
    x, y = g.standard_normal((12, 2)), g.standard_normal((12, 2))
    kernel, ridge = gauss(x, 1.0), 0.3
    slow = []
    for i in range(12):
        rest = np.delete(np.arange(12), i)
        alpha, _ = dual(kernel[np.ix_(rest, rest)], y[rest], ridge)
        slow.append(np.square(kernel[i, rest] @ alpha - y[i]).sum())
    alpha, diagonal = dual(kernel, y, ridge)
    assert leave_one_out(dual_squares=np.square(alpha).sum(1), inverse_diagonal=diagonal).value == pytest.approx(
        np.mean(slow)
    )


def test_the_alignment_risk_is_leaving_one_out_where_all_leverages_are_one_and_fails_where_they_are_not() -> None:
    squares = [0.5, 2.0, 1.0]
    assert kernel_alignment_risk(dual_squares=squares, inverse_diagonal=[0.4] * 3).value == pytest.approx(
        leave_one_out(dual_squares=squares, inverse_diagonal=[0.4] * 3).value
    )
    g = np.random.default_rng(2)
    x = np.concatenate(
        [0.02 * g.standard_normal((300, 2)), 3 * g.standard_normal((300, 2))]
    )  # a dense region and a sparse one
    y = np.sin(3 * x.sum(1))[:, None]
    kernel = gauss(x, 1.0)
    loo, kare, truth = [], [], fits(kernel, y, 80, 1e-2, 40, 0).unseen
    for i in range(40):
        taken = np.random.default_rng([0, 80, i]).permutation(600)[:80]
        a, d = dual(kernel[np.ix_(taken, taken)], y[taken], 1e-2)
        loo.append(leave_one_out(dual_squares=np.square(a).sum(1), inverse_diagonal=d).value)
        kare.append(kernel_alignment_risk(dual_squares=np.square(a).sum(1), inverse_diagonal=d).value)
    assert np.mean(loo) == pytest.approx(truth.mean(), rel=0.15)
    assert np.mean(kare) < 0.75 * truth.mean()


@pytest.mark.parametrize(
    "knobs", [{"dual_squares": [1.0]}, {"inverse_diagonal": [1.0, 0.0]}, {"dual_squares": [-1.0, 1.0]}, {"rtol": 0.0}]
)
def test_bad_knobs_of_the_training_set(knobs: dict[str, Any]) -> None:
    for law in (leave_one_out, kernel_alignment_risk):
        with pytest.raises(BadOption):
            law(**({"dual_squares": [1.0, 1.0], "inverse_diagonal": [1.0, 1.0]} | knobs))
