"""How often a network with the closed-form weights of modular addition is right, before anyone builds it."""

from collections.abc import Sequence
from math import isqrt

import numpy as np
from scipy.stats import norm

from strobe.core.cards import law
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction


@law(
    predicts="accuracy of the explicit quadratic network for modular addition",
    ref="arXiv:2301.02679",
    free_parameters=0,
)
def quadratic_addition(*, p: int, widths: Sequence[int], tol: float = 0.02) -> Prediction:
    """Accuracy over the whole table of (a + b) mod p of a one-layer network with squares, its weights cosines at random frequencies.

        logit_c = Σ_k cos(2πσ_k c/p + φ_k + ψ_k) [cos(2πσ_k a/p + φ_k) + cos(2πσ_k b/p + ψ_k)]²        σ, φ, ψ uniform, k = 1 … width

    The correct logit is a sum of independent terms g = cos(2s)·(cos(s+d) + cos(s−d))², of mean ½; each other one is, given these,
    normal with variance V = Σ r²/2, r the square bracket, and mean −width/(2(p−1)). So, with the density of S = Σ g from its
    characteristic function and the regression of V on S,   accuracy = E_S[ Φ((S + width/(2(p−1))) / √V(S))^(p−1) ].
    Args: p, a prime of 29 or more; widths; tol, absolute, of an average over networks: it covers that the p−1 wrong logits are
    taken as independent.
    Regime (`when`): widths of p or more; averaged over draws of the network. Below, sums are far from normal: 3 points off at p/2, 5 at
    p/4; and of small p, whose frequencies are few, 3 off at p = 13.
    Where it fails: phases that do not add up (φ_k + ψ_k in the read-out replaced by others): 1/p. Rival: always right.
    Raises `BadOption` for p that is no prime of 29 or more, widths below p, or tol outside (0, 1).
    Ref: Gromov, arXiv:2301.02679, equation 6 (the weights); the accuracy at finite width is ours.

    >>> quadratic_addition(p=59, widths=[59, 118]).value.round(3).tolist()
    [0.953, 1.0]
    """
    n = np.asarray(widths)
    if p < 29 or any(p % q == 0 for q in range(2, isqrt(p) + 1)):
        raise BadOption(f"p is a prime of 29 or more (frequencies must reach every residue), got {p}")
    if n.ndim != 1 or not len(n) or not (n >= p).all():
        raise BadOption(f"widths are at least p = {p}, got {list(widths)}")
    if not 0 < tol < 1:
        raise BadOption(f"tol is between 0 and 1, got {tol}")
    value = np.array([_accuracy(p, int(w)) for w in n])
    return Prediction(
        "accuracy of the explicit network", value, np.full(len(n), tol), "width at least p, averaged over draws of the network",
        law="strobe.laws.quadratic_addition:quadratic_addition", knobs={"p": p, "widths": [int(w) for w in n], "tol": tol},
        ref="arXiv:2301.02679",
    )  # fmt: skip


def _accuracy(p: int, width: int) -> float:
    angle = np.arange(256) * 2 * np.pi / 256
    s, d = np.meshgrid(angle, angle, indexing="ij")
    r = np.square(np.cos(s + d) + np.cos(s - d)).ravel()
    g, v = np.cos(2 * s).ravel() * r, r * r / 2
    mean, spread = g.mean(), g.std()
    slope = ((g - mean) * (v - v.mean())).mean() / spread**2
    share, edges = np.histogram(g - mean, bins=400)
    share, middle = share / share.sum(), (edges[1:] + edges[:-1]) / 2
    reach = 10 * spread * width**0.5  # the density of the sum, by its characteristic function
    y = np.linspace(-reach, reach, 1024, endpoint=False)
    w = np.fft.fftfreq(1024, 2 * reach / 1024) * 2 * np.pi
    chi = (np.exp(1j * np.outer(w, middle)) @ share) ** width
    density = np.maximum((np.exp(-1j * np.outer(y, w)) @ chi).real, 0)
    density /= density.sum()
    variance = np.maximum(width * v.mean() + slope * y, 1e-9)
    gap = width * mean + y + width / (2 * (p - 1))
    return float(density @ norm.cdf(gap / np.sqrt(variance)) ** (p - 1))
