"""Let some tokens teach only a part of a network: what passes forward stays, what comes back is stopped outside the part."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from strobe.core.errors import BadOption, StateMismatch
from strobe.edits.scale_direction import fitting, unit_of
from strobe.edits.steer import finite


def route(*, units: list[int], gate: list[float], above: float = 0.0) -> Callable[[Tensor], Tensor]:
    """Where the gate is open, gradients pass the site at `units` only: y = x, and ∂L/∂xᵢ = 0 there for every other i.

    The gate is open at the tokens where x · g / ‖g‖ > above (a concept's direction and threshold name what is to be learned apart).
    Nothing changes forward, bit for bit; taking the units out afterwards (`ablate`) takes with it what the routed tokens taught the
    layers below. Of a fork: {"act": "site", "site": "blocks.0.mlp.up", "edit": "strobe.edits.route:route", "kwargs": {...}}.
    Regime: the layers below the site; those above it, and paths around it (a residual stream), still learn: route each such site.
    Raises `BadOption`; `StateMismatch` at a site of another size.
    Ref: Cloud et al. 2024 (arXiv:2410.04332), section 3, the label read from the activations.

    >>> x = torch.tensor([[1.0, 2.0], [-1.0, 2.0]], requires_grad=True)
    >>> route(units=[0], gate=[1.0, 0.0])(x).sum().backward()
    >>> x.grad.tolist()
    [[1.0, 0.0], [1.0, 1.0]]
    """
    shut, level = unit_of(gate), finite("above", above)
    if not units or not all(isinstance(u, int) and not isinstance(u, bool) and u >= 0 for u in units):
        raise BadOption(f"units are numbers of features from 0, at least one, got {units!r}")

    def pass_some(x: Tensor) -> Tensor:
        fitting(shut, x)
        if max(units) >= x.shape[-1]:
            raise StateMismatch(f"unit {max(units)} is not at this site: it has {x.shape[-1]}")
        if not x.requires_grad:
            return x
        inside = torch.zeros(x.shape[-1], dtype=torch.bool, device=x.device)
        inside[units] = True
        is_open = (x.detach() @ shut.to(x) > level)[..., None]
        return torch.where(is_open & ~inside, x.detach(), x)

    return pass_some


def routing(concept: Any, units: list[int]) -> dict[str, Any]:
    """The plain edit that routes what tokens with the concept teach into `units` of its site: for `run.fork(step, edits=[...])`.

    `concept` is a `strobe.features.concept.Concept` with a linear score, or has its site, direction, mean and threshold; a token is
    routed where its score is above the threshold. Raises as `route` does.
    """
    above = float(concept.threshold) + float(concept.mean @ concept.direction)
    kwargs = {"units": units, "gate": concept.direction.tolist(), "above": above}
    route(**kwargs)
    label = f"routed into {len(units)} of {len(concept.mean)} at {concept.site}"
    return {"act": "site", "site": concept.site, "edit": "strobe.edits.route:route", "kwargs": kwargs, "label": label}
