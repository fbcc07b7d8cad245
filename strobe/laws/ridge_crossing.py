"""When a posterior over networks gives up ridge regression for the tasks it has seen: loss against complexity."""

from collections.abc import Sequence

import numpy as np

from strobe.core.cards import law
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction
from strobe.laws.free_energy import phase_change
from strobe.laws.incontext_predictors import incontext_predictors


@law(predicts="ln n", ref="arXiv:2501.17745", free_parameters=0)
def ridge_crossing(
    *, tasks: Sequence[Sequence[float]], length: int, noise: float, rise: float, factor: float = 2.0
) -> Prediction:
    """ln n, n sequences, at which a posterior over in-context regressors goes over from ridge to dMMSE.

        n ΔL = Δλ ln n,   ΔL = Σ_k [E (y_k − ridge_k)² − E (y_k − dMMSE_k)²] / 2σ²,   the larger root

    Ridge does without the tasks: its λ is lower by Δλ; dMMSE knows them: its loss is lower by ΔL nats a sequence. With more
    tasks ΔL falls, and the crossing moves beyond any n.

    Args: `tasks` (M, D); `length` K; `noise` σ², a variance; `rise` Δλ = λ(dMMSE) − λ(ridge) > 0, of the network, which this
    does not know; `factor` by which n may be off: terms of order 1 in the free energy are left out.
    Regime: a network with both predictors in its reach, a Gaussian likelihood of variance σ², the Bayes posterior. What steps of
    a descent correspond to n is another matter; that a descent passes in this order is what the paper shows.
    Raises `BadOption` where dMMSE is preferred at every n, or its loss is no lower than the draws behind it can tell.
    Ref: Carroll et al., arXiv:2501.17745; Watanabe 2009, main theorem 6.2, for each of the two.

    >>> few, many = ([[1.0], [-1.0]], [[-1.5], [-0.5], [0.5], [1.5]])
    >>> [round(ridge_crossing(tasks=t, length=4, noise=0.5, rise=20).value, 1) for t in (few, many)]
    [6.3, 7.6]
    """
    if not 0 < rise < float("inf"):
        raise BadOption(f"rise is λ of dMMSE less that of ridge, above 0 and finite; got {rise}")
    curves = [
        incontext_predictors(predictor=p, tasks=tasks, length=length, noise=noise).value for p in ("ridge", "dmmse")
    ]
    fall = float(np.sum(curves[0] - curves[1]) / (2 * noise))
    if fall < 1e-3 * length:
        raise BadOption(
            f"dMMSE is better than ridge by {fall:.2g} nats a sequence only: no crossing can be told from never"
        )
    said = phase_change(first=(fall, 0.0), second=(0.0, rise), names=("ridge", "dMMSE"), factor=factor)
    return Prediction(
        said.of, said.value, said.tol, when=said.when, law="strobe.laws.ridge_crossing:ridge_crossing", ref="arXiv:2501.17745",
        knobs={"tasks": np.asarray(tasks, float).tolist(), "length": length, "noise": noise, "rise": rise, "factor": factor},
    )  # fmt: skip
