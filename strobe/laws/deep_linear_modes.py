"""When a deep linear network learns each mode of its task."""

from collections.abc import Sequence

import numpy as np

from strobe.core.cards import law
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction


@law(predicts="mode_strengths", ref="arXiv:1312.6120", free_parameters=0)
def deep_linear_modes(
    *,
    singular_values: Sequence[float],
    start: float,
    lr: float,
    steps: Sequence[int],
    depth: int = 2,
    rtol: float | None = None,
) -> Prediction:
    """Strength of each mode after so many steps of gradient descent: a curve (len(steps), modes).

        L = 2:  u(t) = s / (1 + (s/u₀ − 1) e^{−2 s t})         t = lr · step
        L > 2:  du/dt = L u^{2 − 2/L} (s − u),  u(0) = u₀

    for the loss L = ½‖M − W_L…W_1‖²_F (summed; without the ½ every rate doubles) on whitened inputs.

    Args: `singular_values` s of the teacher, `start` u₀ > 0 of every mode, `lr`, `steps` to predict at, `depth` L;
    tolerance `rtol` · s, by default 2% for two layers and 3% for more: descent with a finite step follows the flow to
    about lr · L · s^{2 − 2/L}, measured as at most 1.7% of s at lr = 2e-3 with s <= 4.
    Regime: balanced, aligned start (W_lᵀ… share singular vectors with M, equal strengths in all layers); plain
    full-batch gradient descent; lr · L · s^{2 − 2/L} ≪ 1.
    Where it fails: an unbalanced start (`deep_linear(imbalance=…)` learns sooner), momentum, a large lr.
    Raises `BadOption` where lr · L · s^{2 − 2/L} >= 2: there descent diverges at the solution and no curve is claimed.
    Ref: Saxe, McClelland and Ganguli, arXiv:1312.6120, equations 7 to 9 (there τ = 1/lr, and a rate of 2s for this ½).

    >>> p = deep_linear_modes(singular_values=[2.0], start=0.01, lr=0.01, steps=[0, 10_000])
    >>> p.value.round(3).tolist()
    [[0.01], [2.0]]
    """
    s, at = np.asarray(singular_values, float), np.asarray(steps, float)
    if s.ndim != 1 or not len(s) or not (s > 0).all():
        raise BadOption(f"singular_values are positive numbers, one for each mode, got {singular_values}")
    if at.ndim != 1 or not len(at) or not (at >= 0).all():
        raise BadOption(f"steps are numbers >= 0, got {steps}")
    if depth < 2 or not start > 0 or not lr > 0 or not (rtol is None or rtol > 0):
        raise BadOption(
            f"needs depth >= 2 and start, lr, rtol > 0, got depth={depth}, start={start}, lr={lr}, rtol={rtol}"
        )
    stiff = lr * depth * float(s.max()) ** (2 - 2 / depth)
    if stiff >= 2:
        raise BadOption(f"lr · L · s^(2 − 2/L) = {stiff:.3g} >= 2: descent diverges at the solution; lower lr")
    share = (0.02 if depth == 2 else 0.03) if rtol is None else rtol
    value = _two(s, start, lr * at) if depth == 2 else _deep(s, start, lr * at, depth)
    return Prediction(
        of="mode_strengths",
        value=value,
        tol=np.broadcast_to(share * s, value.shape).copy(),
        when=f"balanced, aligned start at {start:g}; whitened inputs; full-batch gradient descent on ½‖M − W‖²",
        law="strobe.laws.deep_linear_modes:deep_linear_modes",
        knobs={
            "singular_values": s.tolist(), "start": start, "lr": lr, "steps": [int(x) for x in at], "depth": depth,
            "rtol": rtol,
        },
        ref="arXiv:1312.6120",
        steps=at.astype(int).tolist(),
    )  # fmt: skip


@law(predicts="steps at which modes are half learned", ref="arXiv:1312.6120", free_parameters=0)
def mode_half_times(
    *, singular_values: Sequence[float], starts: Sequence[float], lr: float, rtol: float = 0.02
) -> Prediction:
    """The step at which each mode of a two-layer linear network reaches half its strength, also from a random small start.

        t½ = ln(s / u₀ − 1) / (2 s lr)        u₀ = ‖(W₁ v + W₂ᵀ u) / 2‖²  at the start, v and u the mode's singular vectors

    for L = ½‖M − W₂W₁‖²_F on whitened inputs. Only the growing half of a mode, (W₁ v + W₂ᵀ u) / 2, survives: the other half decays.
    Args: singular_values s; starts u₀ of each, from the weights before training; lr; rtol relative to each time.
    Regime (`when`): u₀ at most s / 20 for every mode, lr · 2s ≪ 1, plain descent; hidden width at least 8 times the number of modes.
    Where it fails: large starts; narrow layers, whose modes share hidden directions. Rival: u₀ = the variance of the start.
    Raises `BadOption` for u₀ above s / 20 or lr · 2s >= 2. Ref: Saxe and others, arXiv:1312.6120, equation 9 (balanced starts); the
    random start's u₀ is ours, from the linear flow at small weights.

    >>> mode_half_times(singular_values=[2.0], starts=[0.02], lr=0.01).value.round(1).tolist()          # ln 99 / 0.04
    [114.9]
    """
    s, u = np.asarray(singular_values, float), np.asarray(starts, float)
    if s.ndim != 1 or not len(s) or s.shape != u.shape or not (s > 0).all() or not (u > 0).all():
        raise BadOption(
            f"needs positive singular values and one positive start for each, got {singular_values} and {starts}"
        )
    if not (u <= s / 20).all():
        raise BadOption(f"starts are small, at most s / 20, got {u.tolist()} for s = {s.tolist()}")
    if not (lr > 0 and rtol > 0 and lr * 2 * s.max() < 2):
        raise BadOption(f"needs lr > 0 with lr · 2s < 2 and rtol > 0, got lr = {lr}, rtol = {rtol}")
    value = np.log(s / u - 1) / (2 * s * lr)
    return Prediction(
        "steps at which modes are half learned", value, rtol * value,
        "small start, width >= 8 x modes, plain full-batch descent on ½‖M − W₂W₁‖²",
        law="strobe.laws.deep_linear_modes:mode_half_times", ref="arXiv:1312.6120",
        knobs={"singular_values": s.tolist(), "starts": u.tolist(), "lr": lr, "rtol": rtol},
    )  # fmt: skip


def _two(s: np.ndarray, start: float, t: np.ndarray) -> np.ndarray:
    return s / (1 + (s / start - 1) * np.exp(-2 * s * t[:, None]))


def _deep(s: np.ndarray, start: float, t: np.ndarray, depth: int) -> np.ndarray:
    """The flow by fourth-order Runge-Kutta on ln u, in steps of at most 0.02 / (L s^{2 − 2/L}), the fastest time."""

    def slope(y: np.ndarray) -> np.ndarray:
        u = np.exp(y)
        return np.asarray(depth * u ** (1 - 2 / depth) * (s - u))

    most = 0.02 / (depth * max(s.max(), start) ** (2 - 2 / depth))
    y, now, out = np.full(len(s), np.log(start)), 0.0, np.empty((len(t), len(s)))
    for i in np.argsort(t, kind="stable"):
        n = int(np.ceil((t[i] - now) / most))
        for _ in range(n):
            h = (t[i] - now) / n
            a = slope(y)
            b = slope(y + h / 2 * a)
            c = slope(y + h / 2 * b)
            y = y + h / 6 * (a + 2 * b + 2 * c + slope(y + h * c))
        now = t[i]
        out[i] = np.exp(y)
    return out
