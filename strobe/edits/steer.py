"""Move what a site carries along a direction, or hold it there: everywhere or at some tokens, always or only while the model trains."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from strobe.core import cards
from strobe.core.errors import BadOption
from strobe.edits.scale_direction import fitting, numbers, unit_of

Edit = Callable[[Tensor], Tensor]


@cards.edit(at="site", ref="arXiv:2308.10248")
def steer(
    *, direction: list[float], by: float, first: int = 0, tokens: int | None = None, gate: list[float] | None = None, above: float = 0.0,
    only: str | None = None,
) -> Edit:  # fmt: skip
    """Add to what a site carries: x ← x + by · u, u = direction / ‖direction‖, at `tokens` tokens from `first` on where the gate is open.

    Args: by, in the units of the activations (`Concept.gap` is the distance of the two groups, `Concept.norm` the mean length: a dose is
    a share of one of them); first, the first token that is moved, negative from the last; tokens, how many (default all later ones);
    gate, a direction g, open at the tokens where x · g / ‖g‖ > above; only="train" moves it while the model trains and not when it is
    measured (preventative steering).
    by = 0 changes no bit. Raises `BadOption`; `StateMismatch` at a site of another size.
    Ref: Turner et al. 2023 (arXiv:2308.10248); the gate: Lee et al. 2024 (arXiv:2409.05907); while training: Chen et al. 2025
    (arXiv:2507.21509).

    >>> steer(direction=[0.0, 2.0], by=3.0)(torch.tensor([[1.0, 1.0]])).tolist()
    [[1.0, 4.0]]
    """
    unit, far = unit_of(direction), finite("by", by)
    shut = None if gate is None else unit_of(gate)
    if shut is not None and len(shut) != len(unit):
        raise BadOption(f"the direction has {len(unit)} numbers and the gate {len(shut)}; give as many of each")
    level = finite("above", above)
    if isinstance(first, bool) or not isinstance(first, int):
        raise BadOption(f"first is the number of a token, got {first!r}")
    if tokens is not None and (isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1):
        raise BadOption(f"tokens says how many are moved, at least 1, got {tokens!r}")

    def move(x: Tensor) -> Tensor:
        fitting(unit, x)
        if far == 0:
            return x
        step = (far * unit).to(x)
        if shut is not None:
            step = step * (x @ shut.to(x) > level)[..., None].to(x)
        if first == 0 and tokens is None:
            return x + step
        if x.ndim < 3:
            raise BadOption(
                f"first={first}, tokens={tokens} needs tokens (batch, tokens, features); the tensor here has shape {tuple(x.shape)}"
            )
        start = first if first >= 0 else x.shape[-2] + first
        at = torch.arange(x.shape[-2], device=x.device)
        at = (at >= start) & (at < (x.shape[-2] if tokens is None else start + tokens))
        return x + step * at[:, None].to(x)

    return _when(move, only)


@cards.edit(at="site", ref="arXiv:2310.01405")
def clamp(*, direction: list[float], value: float, mean: list[float] | None = None, only: str | None = None) -> Edit:
    """Hold what a site carries at a value along a direction: x ← x + (value − (x − mean)·u) u, at every token.

    value 0 with the mean of the activations takes the concept out (as `scale_direction` with factor 0 does). Raises as `steer`.
    Ref: Zou et al. 2023 (arXiv:2310.01405), section 3.

    >>> clamp(direction=[0.0, 1.0], value=5.0)(torch.tensor([[1.0, 2.0]])).tolist()
    [[1.0, 5.0]]
    """
    unit, to = unit_of(direction), finite("value", value)
    middle = None if mean is None else numbers("mean", mean)
    if middle is not None and len(middle) != len(unit):
        raise BadOption(f"the direction has {len(unit)} numbers and the mean {len(middle)}; give as many of each")

    def hold(x: Tensor) -> Tensor:
        fitting(unit, x)
        u = unit.to(x)
        along = (x if middle is None else x - middle.to(x)) @ u
        return x + (to - along)[..., None] * u

    return _when(hold, only)


def steering(
    concept: Any, dose: float, *, unit: str = "gap", only: str | None = None, first: int = 0
) -> dict[str, Any]:
    """The plain edit that steers by `dose` of a concept's own unit ("gap" or "norm"): for `run.fork(step, edits=[...])` and journals.

    `concept` is a `strobe.features.concept.Concept`, or has its site, direction, gap and norm. Raises `BadOption`.
    """
    if unit not in ("gap", "norm"):
        raise BadOption(
            f'a dose is in units of "gap" (between the groups) or "norm" (of the activations), got {unit!r}'
        )
    by = finite("dose", dose) * float(getattr(concept, unit))
    kwargs: dict[str, Any] = {"direction": concept.direction.tolist(), "by": by}
    kwargs |= {k: v for k, v in (("only", only), ("first", first)) if v}
    label = f"{'while it trains, ' if only == 'train' else ''}{dose:+g} {unit} at {concept.site}"
    return {"act": "site", "site": concept.site, "edit": "strobe.edits.steer:steer", "kwargs": kwargs, "label": label}


def preventative(concept: Any, dose: float = 1.0, *, unit: str = "gap") -> dict[str, Any]:
    """Steering towards the concept while the model trains, and not when it is measured or used: the training need not learn it then.

    Ref: Chen et al. 2025 (arXiv:2507.21509), section 5.
    """
    return steering(concept, dose, unit=unit, only="train")


def holding(concept: Any, dose: float = 0.0, *, only: str | None = None) -> dict[str, Any]:
    """The plain edit that holds a concept at `dose` gaps from the mean of the activations it was fitted on, 0: out of the network.

    With only="train" while it trains, and not when it is measured: concept ablation fine-tuning. Raises `BadOption`.
    Ref: Casademunt et al. 2025 (arXiv:2507.16795), section 3, with one direction.
    """
    value = finite("dose", dose) * float(concept.gap)
    kwargs: dict[str, Any] = {"direction": concept.direction.tolist(), "value": value, "mean": concept.mean.tolist()}
    kwargs |= {"only": only} if only else {}
    label = f"{'while it trains, ' if only == 'train' else ''}held at {concept.site}"
    return {"act": "site", "site": concept.site, "edit": "strobe.edits.steer:clamp", "kwargs": kwargs, "label": label}


def finite(what: str, value: object) -> float:
    """A finite number. Raises `BadOption`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadOption(f"{what} is a finite number, got {value!r}")
    return float(value)


def _when(edit: Edit, only: str | None) -> Edit:
    if only not in (None, "train"):
        raise BadOption(f'only is None or "train", got {only!r}')
    edit.only = only  # type: ignore[attr-defined]
    return edit
