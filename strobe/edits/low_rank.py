"""A learned low-rank change of what a site carries, the weights left alone."""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from strobe.core import cards
from strobe.core.capture import frozen
from strobe.core.errors import BadOption, Diverged
from strobe.core.site import Site
from strobe.core.tap import patch, tap
from strobe.edits.scale_direction import fitting, numbers


@cards.edit(at="site", ref="arXiv:2404.03592")
def low_rank(
    *, rotation: list[list[float]], weight: list[list[float]], bias: list[float]
) -> Callable[[Tensor], Tensor]:
    """x ← x + Rᵀ (W x + b − R x): what lies in the r rows of R is replaced by W x + b.

    Args: rotation R (r, d) with orthonormal rows, weight W (r, d), bias b (r). Raises `BadOption`, `StateMismatch`.
    Ref: Wu et al. 2024 (arXiv:2404.03592), eq. 2 (LoReFT).
    """
    R, W = (torch.stack([numbers(k, row) for row in rows]) for k, rows in (("rotation", rotation), ("weight", weight)))
    b = numbers("bias", bias)
    if R.shape != W.shape or len(b) != len(R):
        raise BadOption(
            f"rotation and weight are (r, d) and bias (r,), got {tuple(R.shape)}, {tuple(W.shape)}, {tuple(b.shape)}"
        )
    if (R @ R.T - torch.eye(len(R)).to(R)).abs().max() > 1e-3:
        raise BadOption("the rows of rotation are orthonormal")

    def change(x: Tensor) -> Tensor:
        fitting(R[0], x)
        return _moved(x, R.to(x), W.to(x), b.to(x))

    return change


def _moved(x: Tensor, R: Tensor, W: Tensor, b: Tensor) -> Tensor:
    return x + (x @ (W - R).T + b) @ R


def fit_low_rank(
    model: nn.Module, site: str, loss: Callable[[nn.Module, Any], Tensor], batches: Iterable[Any], *, rank: int = 1, lr: float = 1e-2,
    seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """Learn R, W, b that lower the loss on the batches, one Adam step each; the model's own parameters stay as they are.

    It starts as the identity (W = R, b = 0). Returns the plain edit for `patch`, forks and journals. The model runs in eval mode.
    Raises `BadOption` for a rank above the features; `Diverged` for a loss that is not finite, with the step.
    """
    at = Site.parse(site)
    made: list[Tensor] = []
    gen = torch.Generator().manual_seed(seed)
    with frozen(model):
        for step, batch in enumerate(batches):
            if not made:
                with tap(model, [at]) as seen, torch.no_grad():
                    loss(model, batch)
                size, like = seen[str(at)].shape[-1], seen[str(at)]
                if not 1 <= rank <= size:
                    raise BadOption(f"rank is 1 to {size} at {site}, got {rank}")
                Q = torch.linalg.qr(torch.randn(size, rank, generator=gen))[0].to(like)
                made = [Q, torch.zeros(rank, size).to(like), torch.zeros(rank).to(like)]
                for t in made:
                    t.requires_grad_()
                steps = torch.optim.Adam(made, lr=lr)
            R = torch.linalg.qr(made[0])[0].T
            with patch(model, {at: partial(_moved, R=R, W=R + made[1], b=made[2])}):
                value = loss(model, batch)
            if not value.isfinite():
                raise Diverged(f"the loss is {float(value)} at step {step}: lower lr={lr}")
            steps.zero_grad()
            value.backward()
            steps.step()
    if not made:
        raise BadOption("there was no batch to learn from")
    Q, change, b = (t.detach().double() for t in made)
    R = torch.linalg.qr(Q)[0].T
    kwargs = {"rotation": R.tolist(), "weight": (R + change).tolist(), "bias": b.tolist()}
    edit = "strobe.edits.low_rank:low_rank"
    return {"act": "site", "site": str(at), "edit": edit, "kwargs": kwargs, "label": f"rank {rank} at {at}"}
