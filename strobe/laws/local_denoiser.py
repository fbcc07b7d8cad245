"""What a denoiser that is made of convolutions alone puts out: the posterior mean over patches of its training set."""

from collections.abc import Sequence

import numpy as np

from strobe.core.cards import law
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction


@law(predicts="local_score_match at one noise level", ref="arXiv:2412.20292", free_parameters=1)
def local_denoiser(
    *, patches: Sequence[int], receptive: int, image: int, of: str = "outputs", least: float = 0.94, tol: float = 0.0
) -> Prediction:
    """The median r² over images between a trained denoiser and the equivariant local score machine is at least `least`.

        x̂_i = posterior mean of the pixel over all training patches, given the noisy patch around it (`numerics.local_score`)

    Args: patches, the side of the patch at each noise level, in pixels, odd: the only thing fitted, one number a level; receptive, the
    side of the network's receptive field; image, the shorter side of the images; of, "outputs" (one r² at each level) or "images" (one
    number: of what network and machine make of the same noise by the same deterministic sampler through these levels); least,
    .94 by the medians of .94 to .96 that were published for images made by convolutional networks; tol, below it.
    Regime (`when`): the receptive field is smaller than the image and no pixel's rule depends on its place but through the padding
    (`observables.local_score.receptive_field` tells both without the machine); trained long enough by squared error, without labels.
    Where it fails: attention or dense layers (.77 published), a network that is small or trained briefly, more images than it can fit.
    Fitted: one number for each entry of patches.
    Rivals: the machine that sees the whole image (and so remembers), and the local one whose patches keep their places.
    Raises `BadOption` for a patch that is even, not positive or larger than the receptive field, an even receptive field, or `least`
    outside (0, 1).
    Ref: Kamb and Ganguli, arXiv:2412.20292, PMLR 267, section 5 and table 1.

    >>> local_denoiser(patches=[3, 5], receptive=5, image=8).value.tolist()
    [0.94, 0.94]
    """
    sides = [int(p) for p in patches]
    if not sides or any(p < 1 or p % 2 == 0 for p in sides) or receptive % 2 == 0 or max(sides) > receptive:
        raise BadOption(
            f"patches are odd sides of at most the receptive field (odd itself), got {list(patches)} and {receptive}"
        )
    if of not in ("outputs", "images"):
        raise BadOption(f"local_denoiser speaks of outputs and images, not of {of!r}")
    if image < 1 or not 0 < least < 1 or not 0 <= tol < least:
        raise BadOption(
            f"local_denoiser needs image >= 1, least in (0, 1) and 0 <= tol < least, got {image}, {least}, {tol}"
        )
    return Prediction(
        "median r² of the local machine", np.full(len(sides), least) if of == "outputs" else least, tol,
        f"a receptive field of less than {image} pixels, one rule for all places, zero padding, trained by squared error",
        fitted=len(sides), side="above", law="strobe.laws.local_denoiser:local_denoiser", ref="arXiv:2412.20292",
        knobs={"patches": sides, "receptive": int(receptive), "image": int(image), "of": of, "least": least, "tol": tol},
    )  # fmt: skip
