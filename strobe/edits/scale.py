"""Turn a site up or down."""

import math
from collections.abc import Callable

from torch import Tensor

from strobe.core import cards
from strobe.core.errors import BadOption


@cards.edit(at="site", ref="arXiv:2308.10248")
def scale(*, factor: float) -> Callable[[Tensor], Tensor]:
    """Multiply the activations at a site: x ← factor · x. Raises `BadOption` unless `factor` is finite.

    >>> import torch
    >>> scale(factor=0.5)(torch.ones(2)).tolist()
    [0.5, 0.5]
    """
    if not math.isfinite(factor):
        raise BadOption(f"scale needs a finite factor, got {factor}")
    return lambda x: x * factor
