"""Test error of kernel ridge regression against the number of examples, from the kernel's spectrum and the target's coefficients."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from strobe.core.cards import law
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction
from strobe.numerics.eigenlearning import eigenlearning

OF = {"test": "test error", "train": "training error", "learned": "share of the target that is learned"}
SHARE = 10  # a finite population gives at most a tenth of itself


@law(predicts="test and training error of kernel ridge regression against n", ref="arXiv:2110.03922", free_parameters=0)
def learning_curve(
    *, spectrum: Sequence[float], coefficients: Sequence[Any], n: Sequence[int], ridge: float, noise: float = 0.0, of: str = "test",
    population: int | None = None, rtol: float | None = None,
) -> Prediction:  # fmt: skip
    """The mean squared error of f̂ = k(·, X)(K + ridge 1)⁻¹ y at each n, averaged over samples.

        Σ_i λ_i/(λ_i + κ) + ridge/κ = n,     L_i = λ_i/(λ_i + κ),     E₀ = n / (n − Σ L_i²)
        test = E₀ (Σ (1 − L_i)² c_i² + noise),   train = (ridge/nκ)² test,   learned = Σ L_i c_i² / Σ c_i²

    Args: spectrum, λ_i of the kernel over the population (of a data set of M points those of K/M); coefficients, c_i of the target in
    the same modes, (modes,) or (modes, outputs), whose errors are summed (`strobe.numerics.eigenlearning.eigenbasis` gives both of a
    kernel matrix); n; ridge, not divided by n; noise, variance of the targets, summed over outputs; of, "test" (new targets, noise
    included), "train" or "learned"; population, M where it is finite; rtol, 5%, or 12% of a finite population.
    Regime (`when`): examples drawn independently; of a finite population n <= M/10, drawn without replacement and scored on all M points
    (on the points left out alone the error is 1 to 20% higher on digits, and more on small tables); modes of no special structure
    (universality). No parameter is fitted. Where it fails: tables of some hundred rows almost without a ridge, by 14 to 33%
    (`strobe.studies.kernel_curves`); more than a tenth of a data set.
    Raises `BadOption` for shapes that do not fit, n > M/10, or no ridge and no more modes than examples.
    Ref: Simon et al., arXiv:2110.03922, equations 4 to 10; Canatar et al., arXiv:2006.13198; Jacot et al., arXiv:2006.09796.

    >>> learning_curve(spectrum=[1.0] * 100, coefficients=[0.1] * 100, n=[50], ridge=0.0).value.round(6).tolist()
    [0.5]
    """
    lam, c, sizes = np.asarray(spectrum, float), np.asarray(coefficients, float), [int(k) for k in n]
    if of not in OF or not sizes or min(sizes) < 1 or noise < 0 or (rtol is not None and not rtol > 0):
        raise BadOption(
            f"of is one of {', '.join(OF)}, n at least 1, noise >= 0 and rtol > 0; got {of!r}, {sizes}, {noise}, {rtol}"
        )
    if (
        lam.ndim != 1
        or c.ndim not in (1, 2)
        or len(c) != len(lam)
        or not (np.isfinite(c).all() and (lam >= 0).all() and lam.any())
    ):
        raise BadOption(
            f"one eigenvalue >= 0 and one finite coefficient for each mode, got shapes {lam.shape} and {c.shape}"
        )
    if population is not None and SHARE * max(sizes) > population:
        raise BadOption(
            f"n = {max(sizes)} is more than a tenth of {population} points: what is left is no population any more"
        )
    tol = (0.12 if population else 0.05) if rtol is None else rtol
    try:
        found = [eigenlearning(lam, k, ridge) for k in sizes]
    except ValueError as e:
        raise BadOption(str(e)) from e
    value = np.array(
        [e.test(c, noise) if of == "test" else e.train(c, noise) if of == "train" else e.learned(c) for e in found]
    )
    rest = (
        f"n <= {population} / 10, without replacement, scored on the whole population"
        if population
        else "a population without end"
    )
    return Prediction(
        f"mean {OF[of]} at each n", value, tol * np.abs(value), f"independent examples; {rest}",
        law="strobe.laws.learning_curve:learning_curve",
        knobs={"spectrum": lam.tolist(), "coefficients": c.tolist(), "n": sizes, "ridge": ridge, "noise": noise, "of": of,
               "population": population, "rtol": rtol}, ref="arXiv:2110.03922",
    )  # fmt: skip
