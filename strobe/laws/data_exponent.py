"""How fast the loss of a language model falls with data, from two statistics of the text alone."""

from math import isfinite

from strobe.core.cards import law
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction


@law(predicts="exponent of the loss in training tokens", ref="arXiv:2602.07488", free_parameters=2)
def data_exponent(
    *, gamma: float, beta: float, gamma_err: float = 0.0, beta_err: float = 0.0, tol: float = 0.05
) -> Prediction:
    """The data-limited loss falls as D^−α with α = γ / (2 β): a lag is learned once its correlation stands out of the noise D^−½.

        H_n − H_∞ ~ n^−γ        |C_n| ~ n^−β        |C_n*| ~ D^−½  ⇒  n* ~ D^(1/2β)        L(D) − L(∞) ≈ H_n* − H_∞ ~ D^−γ/2β

    Args: gamma, the exponent at which the entropy of the next token given n falls with n; beta, that of the norm of the covariance of
    one-hot tokens n apart; their standard errors, carried into the tolerance: tol + 2 α √((δγ/γ)² + (δβ/β)²); tol, ours, of α.
    Regime (`when`): both statistics are power laws over the lags that matter (the fits do not miss their points, correlations stand out of
    their noise); training is limited by data alone (larger models or more steps do not help); a model that uses a lag once it is
    resolved (deep networks, models linear in their context). All of it is known without the loss at other D.
    Where it fails: tables of n-grams, which pay for a lag in V^n counts; texts whose correlation does not decay (unlike parts); β < 1/2 or
    memory so long that ½ is reached first. Others find that it depends on the vocabulary.
    Fitted: the two exponents, to the text, not to the training losses.
    Rivals: ½, the rate of a fixed number of resolved correlations; γ alone.
    Raises `BadOption` unless gamma, beta, tol > 0 and both errors are >= 0 and finite.
    Ref: Cagnetta and others, arXiv:2602.07488.

    >>> data_exponent(gamma=2.0, beta=1.5).value.__round__(3)
    0.667
    """
    if not (gamma > 0 and beta > 0 and tol > 0 and isfinite(gamma) and isfinite(beta)):
        raise BadOption(f"data_exponent needs gamma, beta, tol > 0, got {gamma}, {beta} and {tol}")
    if not (gamma_err >= 0 and beta_err >= 0 and isfinite(gamma_err) and isfinite(beta_err)):
        raise BadOption(f"gamma_err and beta_err are standard errors >= 0, got {gamma_err} and {beta_err}")
    alpha = gamma / (2 * beta)
    slack = tol + 2 * alpha * ((gamma_err / gamma) ** 2 + (beta_err / beta) ** 2) ** 0.5
    knobs = {"gamma": gamma, "beta": beta, "gamma_err": gamma_err, "beta_err": beta_err, "tol": tol}
    return Prediction(
        "exponent of the loss in tokens", alpha, slack, "correlations and entropies that decay as powers, training limited by data alone",
        fitted=2, law="strobe.laws.data_exponent:data_exponent", knobs=knobs, ref="arXiv:2602.07488",
    )  # fmt: skip
