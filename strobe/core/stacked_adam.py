"""Adam on many copies of a model side by side, each at learning rates of its own."""

from typing import Any

from torch import Tensor, div, zeros_like

from strobe.core.errors import BadOption
from strobe.core.stacked import StackedLoss


class StackedAdam:
    """One step a call: what `torch.optim.Adam` without decay does to each copy alone, up to rounding.

        m <- b1 m + (1 - b1) g,  v <- b2 v + (1 - b2) g²,  w <- w - lr / (1 - b1^t) m / (√(v / (1 - b2^t)) + eps)

    Args: f, the loss; w (C, P), moved in place; lr, a number or a tensor that broadcasts to w, (C, 1) or (C, P).
    Raises `BadOption` for betas outside [0, 1) or eps < 0.

    >>> import torch
    >>> from strobe.core.snapshot import Snapshot
    >>> net = torch.nn.Linear(2, 1, bias=False)
    >>> adam = StackedAdam(StackedLoss(Snapshot(net, lambda m, x: m(x).square().sum(), None)), torch.ones(3, 2), 0.1)
    >>> losses = adam.step(torch.ones(3, 4, 2))
    >>> losses.tolist(), round(float(adam.w[0, 0]), 4)
    ([16.0, 16.0, 16.0], 0.9)
    """

    def __init__(
        self, f: StackedLoss, w: Tensor, lr: float | Tensor, *, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8
    ) -> None:  # fmt: skip
        if not (0 <= betas[0] < 1 and 0 <= betas[1] < 1 and eps >= 0):
            raise BadOption(f"Adam takes betas in [0, 1) and eps >= 0, got {betas} and {eps}")
        self.f, self.w, self.lr, self.betas, self.eps = f, w, lr, betas, eps
        self.first, self.second, self.steps = zeros_like(w), zeros_like(w), 0

    def step(self, data: Any) -> Tensor:
        """The losses (C,) before the step; every tensor of the data has the copies first."""
        losses, g = self.f.own(self.w, data)
        self.steps += 1
        self.first.lerp_(g, 1 - self.betas[0])
        self.second.mul_(self.betas[1]).addcmul_(g, g, value=1 - self.betas[1])
        way = self._root()
        way = div(self.first, way, out=way)
        scale = -1 / (1 - self.betas[0] ** self.steps)
        if isinstance(self.lr, Tensor):
            self.w.addcmul_(self.lr, way, value=scale)
        else:
            self.w.add_(way, alpha=scale * self.lr)
        return losses

    def preconditioner(self) -> Tensor:
        """(C, P): what an update of the mean gradient is divided by, (1 − b1^t)(√(v / (1 − b2^t)) + eps)."""
        if not self.steps:
            raise BadOption("Adam has no preconditioner before its first step")
        return self._root().mul_(1 - self.betas[0] ** self.steps)

    def _root(self) -> Tensor:
        return (self.second / (1 - self.betas[1] ** self.steps)).sqrt_().add_(self.eps)
