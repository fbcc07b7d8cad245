"""Turn one direction of a site up, down or off, and leave what is orthogonal to it."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from strobe.core import cards
from strobe.core.errors import BadOption, StateMismatch


@cards.edit(at="site", ref="arXiv:2406.11717")
def scale_direction(
    *, direction: list[float], factor: float = 0.0, mean: list[float] | None = None
) -> Callable[[Tensor], Tensor]:
    """Scale what a site carries along one direction: x ← x + (factor − 1) ((x − mean)·u) u, u = direction/‖direction‖.

    Along the last dimension, at every token and example alike. factor 0 takes the direction out (what is left lies at
    the mean along it), 1 changes nothing, 2 doubles it.

    Args: `direction` as plain numbers, of any length but zero; `mean` of the activations, 0 where not given.
    Raises `BadOption` for an empty, zero or not finite direction, mean or factor, and for a mean of another size;
    `StateMismatch` at a site whose last dimension has another size than the direction.
    Ref: Arditi et al. 2024 (arXiv:2406.11717) for taking a direction out; Turner et al. 2023 (arXiv:2308.10248) for
    moving along one.

    >>> scale_direction(direction=[0.0, 2.0])(torch.tensor([[1.0, 3.0]])).tolist()
    [[1.0, 0.0]]
    >>> scale_direction(direction=[0.0, 2.0], factor=2.0, mean=[0.0, 1.0])(torch.tensor([[1.0, 3.0]])).tolist()
    [[1.0, 5.0]]
    """
    unit, middle = unit_of(direction), None if mean is None else numbers("mean", mean)
    if middle is not None and len(middle) != len(unit):
        raise BadOption(f"the direction has {len(unit)} numbers and the mean {len(middle)}; give as many of each")
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not math.isfinite(factor):
        raise BadOption(f"scale_direction needs a finite factor, got {factor!r}")

    def along(x: Tensor) -> Tensor:
        fitting(unit, x)
        if factor == 1:
            return x
        u = unit.to(x)
        centred = x if middle is None else x - middle.to(x)
        return x + (factor - 1) * (centred * u).sum(-1, keepdim=True) * u

    return along


def unit_of(direction: object) -> Tensor:
    """The direction at length 1, in double precision. Raises `BadOption` for none, zeros, or what is not finite."""
    unit = numbers("direction", direction)
    if not unit.any():
        raise BadOption("a direction of zeros points nowhere; give one with an entry other than 0")
    unit /= unit.abs().max()  # so that neither the squares of large entries nor those of small ones are lost
    return unit / unit.norm()


def fitting(unit: Tensor, x: Tensor) -> None:
    """Raises `StateMismatch` where the last dimension of `x` has another size than the direction."""
    if not x.ndim or x.shape[-1] != len(unit):
        raise StateMismatch(
            f"the direction has {len(unit)} numbers, but the last dimension at this site has size "
            f"{x.shape[-1] if x.ndim else 0} (shape {tuple(x.shape)})"
        )


def numbers(what: str, given: object) -> Tensor:
    """A list of finite numbers as a tensor. Raises `BadOption`."""
    plain = isinstance(given, list | tuple) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and -1e300 < v < 1e300 for v in given
    )
    if not plain or not given:
        raise BadOption(f"{what} is a list of finite numbers, at least one, got {str(given)[:80]}")
    return torch.tensor(given, dtype=torch.float64)
