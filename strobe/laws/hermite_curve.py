"""The learning curve of a Gaussian kernel on nearly normal data, from the data's covariance and the target's Hermite coefficients alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from strobe.core.cards import law
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction
from strobe.numerics.eigenlearning import eigenlearning, hermite_coefficients, hermite_modes

WIDE, MANY, DIMENSION, FLOOR = (
    3.0,
    100,
    8.0,
    0.01,
)  # of the regime: width/r, examples, effective dimensions, share of the target's power


@law(predicts="test error of kernel ridge regression against n", ref="arXiv:2510.14878", free_parameters=0)
def hermite_curve(
    *, variances: Sequence[float], width: float, target: Mapping[str, float], n: Sequence[int], ridge: float, noise: float = 0.0,
    modes: int = 6000, rtol: float = 0.12,
) -> Prediction:  # fmt: skip
    """Test error at each n for the kernel exp(−|x − x'|²/2s²) without a kernel matrix: its modes are taken for Hermite polynomials.

        λ_α = exp(−r²/s²) Π_i (γ_i/s²)^{α_i},   φ_α = Π_i h_{α_i}(x_i/√γ_i),   then as `learning_curve`

    Args: variances, γ_i of the data along principal axes, r² = Σ γ_i; width, s; target, {"0": 0.6, "0,0": 0.5, "0,1": 0.4}:
    coefficients of products of normalised Hermite polynomials of the axes named; n; ridge, not divided by n; noise; modes, how many of the
    largest.
    Regime (`when`): normal data, s >= 3 r, n >= 100, an effective dimension r⁴/Σγ² >= 8, and a predicted error above 1% of the target's
    power: the approximation leaks to high modes, and a noiseless error below that is off by 10 to 1000 times. All are known before
    anything is fitted: `hermite_regime` says which are broken.
    Raises `BadOption` for variances or a width that are not positive, or a mode of the target beyond the largest.
    Ref: arXiv:2510.14878 (the ansatz; the coefficients of the Gaussian kernel are our algebra); Simon et al., arXiv:2110.03922.

    >>> hermite_curve(variances=[1.0] * 10, width=20.0, target={"0": 1.0}, n=[1000], ridge=1e-3, noise=0.5).value.round(2).tolist()
    [0.53]
    """
    gamma, sizes = [float(v) for v in variances], [int(k) for k in n]
    if (
        not gamma
        or min(gamma) <= 0
        or not (width > 0 and noise >= 0 and rtol > 0 and modes > 1)
        or not sizes
        or not target
    ):
        raise BadOption(
            "hermite_curve needs variances, width, modes and rtol > 0, noise >= 0, a target and at least one n"
        )
    if max(gamma) >= width**2:
        raise BadOption(
            f"the eigenvalues of variance {max(gamma):.3g} do not fall at width {width:g}: it must be above √variance"
        )
    try:
        spectrum = hermite_modes(gamma, width, modes)
        c = hermite_coefficients(spectrum, {tuple(int(i) for i in k.split(",") if i): v for k, v in target.items()})
        lam = np.array(list(spectrum.values()))
        value = np.array([eigenlearning(lam, k, ridge + _tail(gamma, width, lam)).test(c, noise) for k in sizes])
    except ValueError as e:
        raise BadOption(str(e)) from e
    knobs: dict[str, Any] = {"variances": gamma, "width": width, "target": dict(target), "n": sizes, "ridge": ridge, "noise": noise,
                             "modes": modes, "rtol": rtol}  # fmt: skip
    return Prediction(
        "mean test error at each n", value, rtol * value,
        f"normal data, width >= {WIDE:g} r, n >= {MANY}, effective dimension >= {DIMENSION:g}, error above {FLOOR:.0%} of the target",
        law="strobe.laws.hermite_curve:hermite_curve", knobs=knobs, ref="arXiv:2510.14878",
    )  # fmt: skip


def hermite_regime(said: Prediction) -> str:
    """What of the regime the knobs of a prediction break, "" for nothing."""
    k = said.knobs
    gamma = np.asarray(k["variances"])
    power = sum(v * v for v in k["target"].values()) + k["noise"]
    broken = {
        f"width {k['width']:g} below {WIDE:g} r": k["width"] < WIDE * gamma.sum() ** 0.5,
        f"n = {min(k['n'])} below {MANY}": min(k["n"]) < MANY,
        f"effective dimension below {DIMENSION:g}": gamma.sum() ** 2 / np.square(gamma).sum() < DIMENSION,
        f"predicted error below {FLOOR:.0%} of the target": float(np.min(said.value)) < FLOOR * power,
    }
    return "; ".join(text for text, is_so in broken.items() if is_so)


def _tail(gamma: Sequence[float], width: float, lam: np.ndarray) -> float:
    """Eigenvalues beyond the largest act as a ridge. The sum of all: exp(−r²/s²) / Π(1 − γ_i/s²), where every γ_i < s²."""
    part = np.asarray(gamma) / width**2
    return max(float(np.exp(-part.sum()) / np.prod(1 - part) - lam.sum()), 0.0)
