"""How the learning rate goes with the batch: linear for plain descent, as the root for Adam, and up to which size."""

from collections.abc import Sequence

import numpy as np

from strobe.core.cards import law
from strobe.core.errors import BadOption, near
from strobe.core.prediction import Prediction

OPTIMIZERS = ("sgd", "adam")
SMALL = 0.1  # of the noise scale: below it noise rules Adam's second moments


@law(predicts="how far the loss curve moves when batch and rate are scaled", ref="arXiv:1706.02677", free_parameters=0)
def batch_scaling(
    *, batch: int, factor: float, noise_scale: float, optimizer: str = "sgd", tol: float = 0.02
) -> Prediction:
    """A batch `factor` times as large, at the rate of its rule, trains alike: same loss after the same number of examples.

        sgd    lr → factor lr                                        max over the curve of |L_factor / L_1 − 1| <= tol
        adam   lr → √factor lr, 1 − β → factor (1 − β) for both

    Args: batch, the small one; factor > 1; noise_scale, B = tr Σ / |G|² (`gradient_noise`) during the training, measured on the
    small run; optimizer; tol, of the ratio.
    Regime (`when`): for sgd factor × batch <= noise scale; for adam factor × batch <= a tenth of it, where noise rules the second
    moments (`in_regime`); in both a rate well below the edge, constant.
    Where it fails: for adam on digits here at 2 to 8 times the batch, by far, the regime met or not: see
    the study `batch_scaling`.
    Raises `BadOption` for batch < 1, factor <= 1, noise_scale <= 0, an unknown optimizer.
    Ref: Goyal et al., arXiv:1706.02677, section 2.1; Malladi et al., arXiv:2205.10287, definition 5 (adam).

    >>> batch_scaling(batch=8, factor=4, noise_scale=50).tol, in_regime(batch=8, factor=8, noise_scale=50)
    (0.02, False)
    """
    inside = in_regime(batch=batch, factor=factor, noise_scale=noise_scale, optimizer=optimizer)
    if not tol > 0:
        raise BadOption(f"batch_scaling needs tol > 0, got {tol}")
    knobs = {"batch": batch, "factor": factor, "noise_scale": noise_scale, "optimizer": optimizer, "tol": tol}
    most = "the noise scale" if optimizer == "sgd" else "a tenth of the noise scale"
    return Prediction(
        "largest deviation of the loss curve", 0.0, tol, f"batch × factor <= {most} ({'met' if inside else 'not met'})", side="below",
        law="strobe.laws.batch_scaling:batch_scaling", knobs=knobs, ref="arXiv:1706.02677" if optimizer == "sgd" else "arXiv:2205.10287",
    )  # fmt: skip


def in_regime(*, batch: int, factor: float, noise_scale: float, optimizer: str = "sgd") -> bool:
    """Is the larger batch still one of noise? Known from the small run alone. Raises `BadOption` as `batch_scaling`."""
    if optimizer not in OPTIMIZERS:
        raise BadOption(f"batch_scaling has rules for sgd and adam, not {optimizer!r}; {near(optimizer, OPTIMIZERS)}")
    if not (batch >= 1 and factor > 1 and noise_scale > 0):
        raise BadOption(f"it needs batch >= 1, factor > 1, noise_scale > 0, got {batch}, {factor}, {noise_scale}")
    return batch * factor <= noise_scale * (1.0 if optimizer == "sgd" else SMALL)


@law(predicts="steps to a loss, by batch size", ref="arXiv:1812.06162", free_parameters=0)
def critical_batch(
    *, batches: Sequence[float], noise_scale: float, fewest_steps: float, rtol: float = 0.3
) -> Prediction:
    """Steps to reach a loss fall as 1 / batch below the noise scale, and no further than S_min above it.

        S(B) = S_min (1 + B_noise / B)          the same as (S / S_min − 1)(E / E_min − 1) = 1 with E = B S

    Args: batches; noise_scale B_noise, averaged over the training up to that loss; fewest_steps S_min, of the largest batch;
    rtol, of each number of steps.
    Regime (`when`): plain descent, the learning rate tuned for each batch, short of its edge.
    Where it fails: noise scales that grow along the way (the average is then a matter of taste), rates not tuned.
    Raises `BadOption` for no batches, or numbers that are not positive.
    Ref: McCandlish et al., arXiv:1812.06162, equations 2.11 and 5.4 and appendix D.

    >>> critical_batch(batches=[10, 100, 1000], noise_scale=100, fewest_steps=50).value.round(9).tolist()
    [550.0, 100.0, 55.0]
    """
    sizes = np.asarray(list(batches), float)
    if not len(sizes) or not (sizes > 0).all() or not (noise_scale > 0 and fewest_steps > 0 and rtol > 0):
        raise BadOption("critical_batch needs batches, a noise scale, steps and a tolerance, all positive")
    value = fewest_steps * (1 + noise_scale / sizes)
    return Prediction(
        "steps to the loss", value, rtol * value, "the rate tuned for each batch, short of the edge",
        law="strobe.laws.batch_scaling:critical_batch", ref="arXiv:1812.06162",
        knobs={"batches": sizes.tolist(), "noise_scale": noise_scale, "fewest_steps": fewest_steps, "rtol": rtol},
    )  # fmt: skip


@law(
    predicts="the noise scale by two batch sizes over that of single gradients",
    ref="arXiv:1812.06162",
    free_parameters=0,
)
def two_batch_noise(*, draws: int, rtol: float = 0.1) -> Prediction:
    """Mean squared gradients of two batch sizes b < B tell the noise scale as all single gradients do.

        |G|² = (B |G_B|² − b |G_b|²) / (B − b)     tr Σ = (|G_b|² − |G_B|²) / (1 / b − 1 / B)     both averaged over the draws

    Args: draws, at least 50; rtol, of the ratio to the exact one.
    Regime (`when`): B not far below the noise scale (else |G|² is lost in noise and the error says so).
    Raises `BadOption` for fewer draws or rtol <= 0.
    Ref: McCandlish et al., arXiv:1812.06162, appendix A.1.

    >>> two_batch_noise(draws=200).tol
    0.1
    """
    if draws < 50 or not rtol > 0:
        raise BadOption(f"two_batch_noise needs 50 draws or more and rtol > 0, got {draws} and {rtol}")
    return Prediction(
        "ratio", 1.0, rtol, "the larger batch not far below the noise scale", law="strobe.laws.batch_scaling:two_batch_noise",
        knobs={"draws": draws, "rtol": rtol}, ref="arXiv:1812.06162",
    )  # fmt: skip
