"""Where a classifier ends whose features are free: a simplex, in closed form."""

import numpy as np

from strobe.core.cards import law
from strobe.core.errors import BadOption, near
from strobe.core.prediction import Prediction

OF = ("loss", "norm", "cosine")


@law(predicts="loss, norms and angles of a collapsed classifier", ref="arXiv:2105.02375", free_parameters=0)
def feature_collapse(
    *, classes: int, weight_decay: float, of: str = "loss", width: int | None = None, rtol: float = 1e-4
) -> Prediction:
    """The minimum of cross-entropy with weight decay over the last layer W and over the features H themselves.

        min  CE(W H) + ½ λ (‖W‖² + ‖H‖² / n)      n examples in each of K classes, no bias
        →  all features of a class are one vector h_c = a e_c, and w_c = a e_c, with e_c the corners of a simplex, e_c·e_c' = −1/(K−1)
           x = ln((1 − λ (K−1)) / λ),  a² = x (K−1)/K,   loss = ln(1 + (K−1) e^{−x}) + λ K a²          for λ < 1/K; else 0 and ln K

    Args: classes K; weight_decay λ; of, "loss" (that minimum, decay included), "norm" (a, of each w_c and each class mean)
    or "cosine" (between class means); width of the features, at least K − 1, for a simplex to fit; rtol.
    Regime (`when`): features free to be anything, one class as large as the other, trained to a gradient below 1e-6.
    Where it fails: real networks, whose features cost something else: there it is a trend (`neural_collapse`). Rival: λ without the ½.
    Raises `BadOption` for fewer than 2 classes, λ <= 0, a width below K − 1, "cosine" at λ >= 1/K (no directions), an unknown `of`.
    Ref: Zhu and others, arXiv:2105.02375, theorem 3.1, and Mixon, Parshall and Pi, arXiv:2011.11619; x in closed form is ours.

    >>> round(feature_collapse(classes=4, weight_decay=5e-3).value, 6), round(feature_collapse(classes=4, weight_decay=0.3).value, 6)
    (0.094362, 1.386294)
    """
    if classes < 2 or int(classes) != classes or not (weight_decay > 0 and rtol > 0):
        raise BadOption(
            f"needs whole classes >= 2, weight_decay > 0 and rtol > 0, got {classes}, {weight_decay} and {rtol}"
        )
    if width is not None and width < classes - 1:
        raise BadOption(f"a simplex of {classes} corners needs a width of {classes - 1} or more, got {width}")
    if of not in OF:
        raise BadOption(f"feature_collapse speaks of {', '.join(OF)}, not of {of!r}; {near(of, OF)}")
    k, lam = classes, weight_decay
    free = lam < 1 / k
    if of == "cosine" and not free:
        raise BadOption(f"at weight_decay >= 1/classes all weights are 0: no directions; got {lam:g} for {k} classes")
    x = float(np.log((1 - lam * (k - 1)) / lam)) if free else 0.0
    a2 = x * (k - 1) / k
    value = {"loss": float(np.log1p((k - 1) * np.exp(-x)) + lam * k * a2), "norm": a2**0.5, "cosine": -1 / (k - 1)}[of]
    return Prediction(
        {"loss": "loss", "norm": "norm of class means and of classifier rows", "cosine": "cosine between class means"}[of],
        value, rtol * max(abs(value), 1e-2), "features free, classes of one size, trained until the gradient is below 1e-6",
        law="strobe.laws.feature_collapse:feature_collapse", ref="arXiv:2105.02375",
        knobs={"classes": classes, "weight_decay": weight_decay, "of": of, "width": width, "rtol": rtol},
    )  # fmt: skip
