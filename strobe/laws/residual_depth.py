"""What depth does to a residual network, by how its branches are scaled down and how its learning rates are."""

from collections.abc import Sequence

import numpy as np

from strobe.core.cards import law
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction

WHERE = "strobe.laws.residual_depth"
HALF = 0.5  # octaves
STEPS = (0.0, 0.5, 1.0)


@law(predicts="mean squared length of the residual stream over its input", ref="arXiv:2310.02244", free_parameters=0)
def residual_growth(*, depths: Sequence[int], branch: float, rtol: float = 0.05) -> Prediction:
    """E |h_L|² / |h_0|² of L random residual blocks h + L^−branch V relu(W h), exactly: the branches are uncorrelated and add in squares.

        (1 + L^(−2 branch))^L        branch 0: 2^L;   ½: tends to e, a diffusion;   1: tends to 1, a path that noise does not move

    The branches together have (1 + L^(−2 branch))^L − 1 of it. Args: depths L; branch, 0, ½ or 1; rtol.
    Regime (`when`): before training; ReLU, no biases, no normalisation, normal weights of variance 2/fan-in (W) and 1/fan-in (V).
    Where it fails: trained networks, whose branches are no longer uncorrelated; any other branch (the null).
    Raises `BadOption` for no depths or one below 1, another branch, rtol <= 0, or a value above 1e6, which no sample's mean meets.
    Ref: Yang and others, arXiv:2310.02244, section 3 (½); Dey and others, arXiv:2505.01618 (1); the constant follows from the line above.

    >>> residual_growth(depths=[4, 64], branch=0.5).value.round(3).tolist()
    [2.441, 2.697]
    """
    sizes = _depths(depths, 1, 1)
    if branch not in STEPS or not rtol > 0:
        raise BadOption(f"branch is 0, 0.5 or 1 and rtol above 0, got {branch} and {rtol}")
    n = np.array(sizes, float)
    value = np.exp(n * np.log1p(n ** (-2 * branch)))
    if value.max() > 1e6:
        raise BadOption(f"unscaled branches of depth {max(sizes)} grow by {value.max():.3g}: a few rare networks lead")
    return Prediction(
        "mean |h_L|² / |h_0|² over networks", value, rtol * value, "ReLU, no normalisation, untrained", law=f"{WHERE}:residual_growth",
        knobs={"depths": sizes, "branch": branch, "rtol": rtol}, ref="arXiv:2310.02244",
    )  # fmt: skip


@law(predicts="exponent in depth of the change of what branches add", ref="arXiv:2505.01618", free_parameters=0)
def depth_slope(*, depths: Sequence[int], branch: float, rate: float, tol: float = 0.2) -> Prediction:
    """After a few steps of Adam what the branches add together, Σ b, has moved by |ΔΣb| ~ L^s with s = 1 − branch − rate.

    All L blocks see nearly one gradient from above, so what they learn adds up: L times L^−branch (the scale of a branch) times
    L^−rate (the learning rate inside it). s = 0 for (1, 0), CompleteP, and (½, ½), Depth-muP; 1 with neither; ½ for a lone 1/√L.
    Args: depths, at least 3, spanning a factor of 4; branch and rate, each 0, ½ or 1; tol.
    Regime (`when`): pre-norm or no normalisation, a few steps of Adam from the start at a rate too small to saturate.
    Where it fails: post-norm, large rates, plain descent. Raises `BadOption`.
    Ref: Dey and others, arXiv:2505.01618, section 3; Yang and others, arXiv:2310.02244.

    >>> depth_slope(depths=[4, 8, 16, 32], branch=0.5, rate=0.0).value
    0.5
    """
    sizes = _depths(depths, 3, 4)
    s = _slope(branch, rate)
    if not tol > 0:
        raise BadOption(f"tol must be positive, got {tol}")
    return Prediction(
        "exponent of |ΔΣb| in depth", s, float(tol), "pre-norm, a few steps of Adam from the start, a small lr", law=f"{WHERE}:depth_slope",
        knobs={"depths": sizes, "branch": branch, "rate": rate, "tol": tol}, ref="arXiv:2505.01618",
    )  # fmt: skip


@law(predicts="octaves over which the best learning rate moves with depth", ref="arXiv:2505.01618", free_parameters=0)
def depth_transfer(*, depths: Sequence[int], branch: float, rate: float) -> Prediction:
    """The best learning rate stays with depth where s = 1 − branch − rate is 0, and falls where it is not.

        s = 0    max − min of log₂ lr* over the depths <= 0.5
        s > 0    max − min of log₂ lr* >= s log₂(span) / 2            all of s log₂(span) would keep the stream's change

    Args: depths, at least two, spanning a factor of 8; branch and rate as for `depth_slope`.
    Regime (`when`): Adam; width, data and steps the same; every best rate inside its sweep. Where it fails: networks that one block
    serves as well as many, whose best rate their input and readout decide.
    Raises `BadOption`. Ref: Dey and others, arXiv:2505.01618, figure 1 (that ½ does not transfer in transformers is theirs too).

    >>> depth_transfer(depths=[4, 32], branch=1.0, rate=0.0).tol, depth_transfer(depths=[4, 32], branch=0.0, rate=0.0).value
    (0.5, 1.5)
    """
    sizes = _depths(depths, 2, 8)
    s = _slope(branch, rate)
    return Prediction(
        "octaves of the best learning rate", s * float(np.log2(max(sizes) / min(sizes))) / 2, 0.0 if s else HALF,
        "the same width, data and steps; every best lr inside its sweep", side="above" if s else "below", law=f"{WHERE}:depth_transfer",
        knobs={"depths": sizes, "branch": branch, "rate": rate}, ref="arXiv:2505.01618",
    )  # fmt: skip


@law(predicts="exponent in depth of how far branches add up", ref="arXiv:2309.16620", free_parameters=0)
def coherence_slope(*, depths: Sequence[int], of: str = "learned", tol: float = 0.25) -> Prediction:
    """Random branches add in squares; what branches scaled by 1/L learn adds up, each pair of them alike at any depth.

        start      C = |Σ_l b_l|² / Σ_l |b_l|² ~ L^0         independent branches: the stream is a random walk in depth
        learned    ρ = (C − 1) / (L − 1) ~ L^0               the mean overlap of two branches stays: C grows as L, an ODE's path

    "learned" is b_l − b_l(start), on the same data. All blocks see nearly one gradient; what is incoherent, the answer of random
    blocks to the moved stream, shrinks with 1/L as the coherent part of a branch does, and slower with 1/√L: there ρ falls.
    Args: depths, at least 3, spanning a factor of 4; of, "start" (C) or "learned" (ρ); tol.
    Regime (`when`): residual blocks of one kind, "learned" for branches scaled by 1/L, on the data trained on.
    Where it fails: branches scaled by 1/√L (the null of "learned"), learned branches by the claim of random ones; blocks that come to
    do different things. Raises `BadOption`.
    Ref: Bordelon and others, arXiv:2309.16620, and Dey and others, arXiv:2505.01618, for the two limits; the exponents are ours.

    >>> coherence_slope(depths=[4, 8, 16]).of
    'exponent in depth of the overlap of learned branches'
    """
    sizes = _depths(depths, 3, 4)
    known = {"start": "|Σb|² / Σ|b|² of random branches", "learned": "the overlap of learned branches"}
    if of not in known or not tol > 0:
        raise BadOption(f"of is 'start' or 'learned' and tol above 0; got {of!r} and {tol}")
    return Prediction(
        f"exponent in depth of {known[of]}", 0.0, float(tol), "blocks of one kind, on the data trained on",
        law=f"{WHERE}:coherence_slope", ref="arXiv:2309.16620", knobs={"depths": sizes, "of": of, "tol": tol},
    )  # fmt: skip


def _slope(branch: float, rate: float) -> float:
    if branch not in STEPS or rate not in STEPS or branch + rate > 1:
        raise BadOption(f"branch and rate are 0, 0.5 or 1 and together at most 1, got {branch} and {rate}")
    return float(1 - branch - rate)


def _depths(depths: Sequence[int], least: int, span: int) -> list[int]:
    sizes = [int(d) for d in depths]
    if len({*sizes}) < max(least, len(sizes)) or min(sizes) < 1 or max(sizes) < span * min(sizes):
        raise BadOption(f"{least} different depths or more, of 1 or more, spanning a factor of {span}; got {sizes}")
    return sizes
