"""Descent from above the edge: a rate at which it is thrown over to a flatter place, and a rate at which it diverges."""

from strobe.core.cards import law
from strobe.core.errors import BadOption, near
from strobe.core.prediction import Prediction

OF = ("kernel", "converged")


@law(predicts="the tangent kernel after training, or whether it converges", ref="arXiv:2003.02218", free_parameters=0)
def catapult(*, lr: float, kernel: float, of: str = "kernel") -> Prediction:
    """A wide network with one hidden linear layer, from a kernel λ₀ too sharp for its rate, ends flatter, or diverges.

        f = v·u x / √n,  loss ½ (f − y)²,  λ = (‖u‖² + ‖v‖²) x² / n
        lr λ₀ < 2: descends, λ ≈ λ₀;   2 < lr λ₀ < 4: the loss rises first, and ends at λ <= 2 / lr;   lr λ₀ > 4: diverges

    Args: lr; kernel, λ₀ at the start (of several examples its largest eigenvalue, over their number where the loss is their
    mean); of, "kernel": the last λ is at most 2 / lr (`side` below, tolerance 0.5% of it), or "converged": the share of starts that
    converge, 1 or 0, within 0.1.
    Regime (`when`): full batch, squared error with its ½, width well above (4 − lr λ₀)⁻², and for "kernel" 2 < lr λ₀ < 4; both are
    known before training. Where it fails: near 4 at small width; ReLU networks, whose upper limit is nearer 12 (there
    "converged" is refuted: arXiv:2003.02218, section 3).
    Raises `BadOption` for lr or kernel <= 0, lr λ₀ outside (2, 4) where the kernel is asked for, or at 4 exactly.
    Ref: Lewkowycz et al., arXiv:2003.02218, section 2, equations 7 and 8.

    >>> catapult(lr=0.3, kernel=10.0).value, catapult(lr=0.5, kernel=10.0, of="converged").value
    (6.666666666666667, 0.0)
    """
    if of not in OF:
        raise BadOption(f"catapult speaks of {' and '.join(OF)}, not of {of!r}; {near(of, OF)}")
    if not (lr > 0 and kernel > 0):
        raise BadOption(f"catapult needs lr > 0 and kernel > 0, got lr = {lr}, kernel = {kernel}")
    size = lr * kernel
    if size == 4 or (of == "kernel" and not 2 < size < 4):
        raise BadOption(
            f"lr times the kernel is {size:.3g}: a catapult has it between 2 and 4; below nothing is thrown"
        )
    knobs = {"lr": lr, "kernel": kernel, "of": of}
    when = "one hidden linear layer, wide, full batch, squared error with its ½, constant lr"
    path, ref = "strobe.laws.catapult:catapult", "arXiv:2003.02218"
    if of == "converged":
        return Prediction("share of starts that converge", float(size < 4), 0.1, when, law=path, knobs=knobs, ref=ref)
    value = 2 / lr
    return Prediction(
        "kernel", value, 5e-3 * value, f"{when}; 2 < lr λ₀ < 4", side="below", law=path, knobs=knobs, ref=ref
    )
