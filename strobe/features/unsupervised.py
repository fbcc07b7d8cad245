"""Directions at one site that move another most, found without labels: by the Jacobian, at a working size, or told apart by contrast."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from strobe.core.capture import Forward
from strobe.core.errors import BadOption, Diverged
from strobe.features.pushing import POSITIONS, Pushing, pushing

METHODS = ("melbo", "contrastive", "jacobian", "random")


@dataclass(frozen=True, slots=True, eq=False)
class Pushes:
    """vectors (m, d) of length `norm` at the source, the largest effect first.

    effect (m,): √(Σ ‖Z(θ) − Z(0)‖²) over inputs and tokens at the target; gain (m,): effect / (norm σ₁), above 1 where the network
    answers by more than its Jacobian does; sigma (s,), jacobian (s, d): the leading singular values and directions of that Jacobian, the
    limit of small norm; alike (m, m): |cos| of the effects.
    """

    source: str
    target: str
    norm: float
    vectors: Tensor
    effect: Tensor
    gain: Tensor
    sigma: Tensor
    jacobian: Tensor
    alike: Tensor

    @property
    def overlap(self) -> float:
        """Mean |cos| of the effects of two vectors: 1 where all do the same, 0 where none does what another does."""
        m = len(self.alike)
        return float((self.alike.sum() - self.alike.diagonal().sum()) / max(m * (m - 1), 1))


def unsupervised(
    model: nn.Module, inputs: Any, source: str, target: str, *, count: int = 4, norm: float, method: str = "melbo",
    orthogonal: bool = True, starts: int = 4, power: float = 2.0, root: float | None = None, steps: int = 100, lr: float = 0.05,
    temperature: float = 0.5, size: float = 1.0, passes: int = 15, mask: Tensor | None = None, forward: Forward | None = None,
    positions: int = POSITIONS, seed: int = 0, progress: Callable[[float], None] | None = None,
) -> Pushes:  # fmt: skip
    """Vectors θ of length `norm`, added to `source` at every token, that change `target` most.

        "melbo"        max (Σ_t ‖Z_t(θ) − Z_t(0)‖^p)^(1/q) over ‖θ‖ = norm, by Adam on the sphere from `starts` places, the best kept.
                       orthogonal: one after the other, each orthogonal to those before; the first two places are ± what the Jacobian moves
                       most of what is left, the others random. Otherwise each from random places of its own, all at once.
        "contrastive"  all at once, with f_ik = Z(x_i, θ_k) − Z(x_i, 0): min NT-Xent − size · mean_k ln ‖f_k‖. NT-Xent (cosines over
                       `temperature`): those of one k alike over inputs i, those of other k not. Cosines know no size; the second term does.
        "jacobian"     the leading right singular vectors of ∂Z/∂θ at 0, by block power iteration
        "random"       directions drawn uniformly, for comparison

    Args: inputs, a batch as the model takes it (tensor or mapping); power p, root q (default p); mask, forward, positions as in `pushing`.
    Cost: `passes` + steps × (forward and backward) of the network up to the target, `count` copies of the inputs passing together;
    orthogonal: `count` times that, of `starts` copies. `downstream` ranks what is found by what it does to the model's answer.
    Raises `BadOption`, `SiteNotFound`; `Diverged` where the target is not finite.
    Ref: Mack and Turner 2024 (MELBO); the limit of small norm is its first-order term; contrast: Dalva and Yanardag, arXiv:2312.05390,
    Yüksel et al., arXiv:2104.00820 (there the size of a step is given and the effect's is not watched).
    """
    if method not in METHODS or min(count, steps, passes, starts) < 1 or not 0 < norm < math.inf or power <= 0:
        raise BadOption(
            f"method is one of {', '.join(METHODS)}, with count, starts, steps and passes >= 1, norm and power > 0; got {method!r}, "
            f"{count}, {starts}, {steps}, {passes}, {norm}, {power}"
        )
    if not (temperature > 0 and size >= 0 and lr > 0):
        raise BadOption(f"temperature and lr are positive, size is not negative; got {temperature}, {lr}, {size}")
    with pushing(model, inputs, source, target, mask=mask, forward=forward, positions=positions) as push:
        if count > push.size:
            raise BadOption(f"{source} has {push.size} features; no {count} directions there are orthogonal")
        sigma, V = push.jacobian(max(count, 2), passes, seed)
        gen = torch.Generator().manual_seed(seed)

        def drawn(m: int) -> Tensor:
            return _unit(torch.randn(m, push.size, generator=gen)).to(V)

        def change(thetas: Tensor) -> Tensor:
            return push.effect(thetas).norm(dim=-1).pow(power).flatten(1).sum(1).pow(1 / (root or power))

        if method == "jacobian":
            found = norm * V[:count]
        elif method == "random":
            found = norm * drawn(count)
        elif method == "contrastive":
            if count < 2 or len(push.plain) < 2:
                raise BadOption("contrast needs two directions and two inputs or more")
            _, found = _climb(
                lambda t: -_contrast(push.effect(t), temperature, size)[None], norm * drawn(count), norm, steps, lr,
                progress=progress,
            )  # fmt: skip
        elif orthogonal:
            found = torch.empty(0, push.size).to(V)
            for k in range(count):
                rest = torch.linalg.svd(sigma[:, None] * _without(V, found), full_matrices=False)[2][:1]
                begin = torch.cat([rest, -rest, drawn(max(starts - 2, 0))])[:starts]
                value, best = _climb(change, _onto(begin, found, norm), norm, steps, lr, found)
                found = torch.cat([found, best[value.argmax()][None]])
                if progress is not None:
                    progress((k + 1) / count)
        else:
            value, best = _climb(change, norm * drawn(count * starts), norm, steps, lr, progress=progress)
            at = value.view(count, starts).argmax(1)
            found = best.view(count, starts, -1)[torch.arange(count, device=at.device), at]
        return measured(push, found, sigma, V)


def measured(push: Pushing, vectors: Tensor, sigma: Tensor, V: Tensor) -> Pushes:
    """What vectors (m, d) of one length do, the largest effect first."""
    with torch.no_grad():
        moved = push.effect(vectors).flatten(1)
    effect = moved.norm(dim=1)
    order = effect.argsort(descending=True)
    unit = moved[order] / effect[order, None].clamp_min(1e-30)
    norm = float(vectors[0].norm())
    return Pushes(
        str(push.source), str(push.target), norm, vectors[order], effect[order], effect[order] / (norm * sigma[0]),
        sigma, V, (unit @ unit.T).abs(),
    )  # fmt: skip


def _climb(
    value_of: Callable[[Tensor], Tensor], begin: Tensor, norm: float, steps: int, lr: float, before: Tensor | None = None,
    progress: Callable[[float], None] | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Adam up to the largest values on the sphere of vectors orthogonal to those before.

    value_of (m, d) -> (m,), each of its own vector, or (1,), of all together. Returns the best values and the vectors there: of each
    vector over the steps where values are its own, of the last step where they are not (an objective that pairs them up).
    """
    theta = begin.clone().requires_grad_()
    optimizer = torch.optim.Adam([theta], lr=lr * norm / math.sqrt(theta.shape[1]))
    best, there = torch.full((len(theta),), -math.inf, device=theta.device, dtype=theta.dtype), begin.clone()
    for step in range(steps + 1):
        value = value_of(theta)
        if not value.isfinite().all():
            raise Diverged(
                f"the change at the target is {value.tolist()} at step {step}: lower norm={norm:g} or lr={lr:g}"
            )
        with torch.no_grad():
            up = value.detach() > best
            best, there = (
                torch.where(up, value.detach(), best),
                torch.where(up.expand(len(theta))[:, None], theta, there),
            )
        if step == steps:
            break
        optimizer.zero_grad()
        (-value.sum()).backward()
        with torch.no_grad():
            assert theta.grad is not None
            theta.grad.sub_(theta * (theta.grad * theta).sum(1, keepdim=True) / norm**2)  # along the sphere
            optimizer.step()
            theta.copy_(_onto(theta, before, norm))
        if progress is not None:
            progress((step + 1) / steps)
    return best, there


def _contrast(f: Tensor, temperature: float, size: float) -> Tensor:
    """NT-Xent of effects f (m, inputs, ...), less size · mean ln of their sizes."""
    m, n = f.shape[:2]
    flat = f.flatten(2)
    unit = (flat / flat.norm(dim=2, keepdim=True).clamp_min(1e-30)).flatten(0, 1)
    own = torch.arange(m, device=f.device).repeat_interleave(n)
    self = torch.eye(m * n, dtype=torch.bool, device=f.device)
    same = (own[:, None] == own) & ~self
    cos = unit @ unit.T
    logits = (torch.where(same, cos, cos.abs()) / temperature).masked_fill(self, -math.inf)
    apart = -(logits.log_softmax(1).masked_fill(~same, 0).sum(1) / same.sum(1)).mean()
    return apart - size * flat.flatten(1).norm(dim=1).clamp_min(1e-30).log().mean()


def _unit(x: Tensor) -> Tensor:
    return x / x.norm(dim=-1, keepdim=True).clamp_min(1e-30)


def _without(x: Tensor, before: Tensor | None) -> Tensor:
    """x less its part in the span of orthogonal vectors."""
    if before is None or not len(before):
        return x
    B = _unit(before)
    return x - (x @ B.T) @ B


def _onto(x: Tensor, before: Tensor | None, norm: float) -> Tensor:
    return norm * _unit(_without(x, before))
