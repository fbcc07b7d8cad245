"""What stays when a network gets wider: the best learning rate, and how far a step moves its activations."""

from collections.abc import Sequence

import numpy as np

from strobe.core.cards import law
from strobe.core.errors import BadOption, near
from strobe.core.prediction import Prediction

PARAMETRISATIONS = ("mup", "standard")
HALF = 0.5  # octaves


@law(predicts="octaves over which the best learning rate moves with width", ref="arXiv:2203.03466", free_parameters=0)
def width_transfer(*, widths: Sequence[int], parametrisation: str = "mup") -> Prediction:
    """In the maximal update parametrisation the best learning rate does not move with width; in the standard one it falls.

        mup       max − min of log₂ lr* over the widths <= 0.5
        standard  max − min of log₂ lr* >= 1.5 where widths span a factor of 16 or more (each octave of width up to one of lr*)

    Args: widths, at least two, spanning a factor of 4 (of 16 for "standard"); parametrisation, "mup" or "standard".
    Regime (`when`): Adam or SGD by `strobe.edits.mup`'s table, so many steps that the best lr is inside the sweep, data and depth the
    same, and training long enough that features move. Where it fails: weight decay that is not scaled alike, widths
    below about 32, a sweep that ends at its best (then nothing is measured).
    Raises `BadOption` for fewer than two widths, a span too small, or an unknown parametrisation.
    Ref: Yang et al., arXiv:2203.03466, table 8 and figure 1.

    >>> width_transfer(widths=[32, 512]).tol, width_transfer(widths=[32, 512], parametrisation="standard").value
    (0.5, 1.5)
    """
    _known(parametrisation)
    sizes = [int(w) for w in widths]
    least = 4 if parametrisation == "mup" else 16
    if len(sizes) < 2 or min(sizes) < 1 or max(sizes) < least * min(sizes):
        raise BadOption(f"{parametrisation} is told apart over widths that span a factor of {least}, got {sizes}")
    value, tol = (0.0, HALF) if parametrisation == "mup" else (1.5, 0.0)
    return Prediction(
        "octaves of the best learning rate", value, tol, "the same data, depth and steps; every best lr inside its sweep",
        side="below" if parametrisation == "mup" else "above", law="strobe.laws.width_transfer:width_transfer",
        knobs={"widths": sizes, "parametrisation": parametrisation}, ref="arXiv:2203.03466",
    )  # fmt: skip


@law(predicts="exponent of the change of activations in width", ref="arXiv:2203.03466", free_parameters=0)
def coordinate_slopes(
    *, roles: Sequence[str], parametrisation: str = "mup", optimizer: str = "adam", tol: float | None = None
) -> Prediction:
    """How the typical size of a layer's change, after a few steps at one lr, goes with width: |Δh| ~ width^s, layer by layer.

        mup                                      s = 0 at every layer
        standard, Adam                           input 0, hidden 1, output 1¼
                                                 a step moves every weight by lr, and a sum of `width` of them adds up: of the
                                                 output 1 by its own weights, 1½ by what the hidden layers moved (own)

    Args: roles of the layers in order, each "input" (only its outputs widen), "hidden" (both) or "output" (only its inputs);
    parametrisation; optimizer, "adam" (for "standard" only this one is tabled); tol, of each exponent (0.2; for "standard" 0.25,
    between 1 and 1½).
    Regime (`when`): a few steps from the start at a rate the same for all widths, too small to saturate, |Δh| the mean over units;
    widths of 64 and more.
    Where it fails: late in training, or at rates where the widest networks in standard parametrisation diverge.
    Raises `BadOption` for an unknown role, parametrisation or optimizer.
    Ref: Yang et al., arXiv:2203.03466, appendix D.1 (coordinate checking) and J.

    >>> coordinate_slopes(roles=["input", "hidden", "output"], parametrisation="standard").value.tolist()
    [0.0, 1.0, 1.25]
    """
    _known(parametrisation)
    known = {"input": 0.0, "hidden": 1.0, "output": 1.25}
    if not roles or (odd := [r for r in roles if r not in known]):
        raise BadOption(f"roles are {', '.join(known)}, got {roles if not roles else odd[0]!r}")
    if optimizer not in ("adam", "sgd") or (optimizer == "sgd" and parametrisation == "standard"):
        raise BadOption(f"coordinate_slopes tables mup for adam and sgd, and standard for adam, not for {optimizer!r}")
    tol = {"mup": 0.2, "standard": 0.25}[parametrisation] if tol is None else tol
    if not tol > 0:
        raise BadOption(f"tol must be positive, got {tol}")
    value = np.array([known[r] if parametrisation == "standard" else 0.0 for r in roles])
    return Prediction(
        "exponents of |Δh| in width", value, np.full(len(value), float(tol)), "a few steps from the start, one lr, too small to saturate",
        law="strobe.laws.width_transfer:coordinate_slopes", ref="arXiv:2203.03466",
        knobs={"roles": list(roles), "parametrisation": parametrisation, "optimizer": optimizer, "tol": tol},
    )  # fmt: skip


def _known(parametrisation: str) -> None:
    if parametrisation not in PARAMETRISATIONS:
        raise BadOption(
            f"parametrisation is mup or standard, not {parametrisation!r}; {near(parametrisation, PARAMETRISATIONS)}"
        )
