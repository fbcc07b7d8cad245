"""Take a site out of the network: replace what it carries by zero or by its mean."""

from collections.abc import Callable

from torch import Tensor

from strobe.core import cards
from strobe.core.errors import BadOption


@cards.edit(at="site", ref="arXiv:2211.00593")
def ablate(*, to: str = "zero") -> Callable[[Tensor], Tensor]:
    """Replace the activations at a site: x ← 0, or x ← mean of x over the batch (the first dimension).

    Args: `to` is "zero" or "mean" (mean ablation keeps the site's average contribution).
    Raises `BadOption` for anything else. Ref: Wang et al. 2022 (arXiv:2211.00593) for mean against zero ablation.

    >>> import torch
    >>> ablate()(torch.ones(2, 3)).sum().item(), ablate(to="mean")(torch.tensor([[1.0], [3.0]])).flatten().tolist()
    (0.0, [2.0, 2.0])
    """
    if to not in ("zero", "mean"):
        raise BadOption(f"ablate to 'zero' or 'mean', got {to!r}")
    if to == "zero":
        return lambda x: x.new_zeros(x.shape)
    return lambda x: x.mean(0, keepdim=True).expand_as(x)
