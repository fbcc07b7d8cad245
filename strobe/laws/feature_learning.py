"""What networks learn of their data first, and what the first layer's weights become."""

from strobe.core.cards import law
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction


@law(predicts="cosine of WᵀW with the average gradient outer product", ref="arXiv:2212.13881", free_parameters=0)
def neural_feature_ansatz(*, init: float, least: float = 0.85) -> Prediction:
    """Trained from small initial values, a layer's WᵀW points where the network is sensitive: cos(WᵀW, AGOP) >= 0.85.

    Args: init, the layer's initial spread over that of torch's default; least, the cosine.
    Regime (`when`): init <= 0.1 and the training loss converged. From the default start the cosine is 0.6 to 0.8 here: then
    W is mostly its own start, and the law is refuted.
    Raises `BadOption` unless init > 0 and 0 < least < 1.
    Ref: Radhakrishnan et al., arXiv:2212.13881, equation 2 (their "> 0.9" is of trained networks); the limit on init: measured here.

    >>> neural_feature_ansatz(init=0.1).value
    0.85
    """
    if not (init > 0 and 0 < least < 1):
        raise BadOption(f"neural_feature_ansatz needs init > 0 and least in (0, 1), got {init} and {least}")
    return Prediction(
        "cosine of WᵀW with the AGOP", least, 0.0, "initial spread at most 0.1 of the default, training loss converged", side="above",
        law="strobe.laws.feature_learning:neural_feature_ansatz", knobs={"init": init, "least": least}, ref="arXiv:2212.13881",
    )  # fmt: skip


@law(
    predicts="how much longer a clone with the right covariances stands in for the data",
    ref="arXiv:1905.11604",
    free_parameters=0,
)
def simplicity_bias(*, classes: int, least: float = 1.2) -> Prediction:
    """Networks learn class means first, then covariances, then more: clones of the data are left in that order.

        t_iso, t_gauss: the step at which training on a clone (classes of the right mean and isotropic; of the right mean and
        covariance) first tests 10% worse on real data than training on real data;    t_gauss / t_iso >= 1.2

    Args: classes, at least 2; least, the ratio.
    Regime (`when`): plain descent from the same starts, one stream of batches, classes whose means differ.
    Raises `BadOption` for fewer than 2 classes or least < 1.
    Ref: the order, Kalimeris et al., arXiv:1905.11604, and Refinetti et al., arXiv:2211.11567, section 2; the ratio: own.

    >>> simplicity_bias(classes=10).value
    1.2
    """
    if classes < 2 or least < 1:
        raise BadOption(f"simplicity_bias needs 2 classes or more and least >= 1, got {classes} and {least}")
    return Prediction(
        "ratio of the steps at which clones are left", least, 0.0, "plain descent, the same starts and batches", side="above",
        law="strobe.laws.feature_learning:simplicity_bias", knobs={"classes": classes, "least": least}, ref="arXiv:2211.11567",
    )  # fmt: skip
