"""Directions at one site that move another most, found without labels: by the Jacobian, at a working size, or told apart by contrast."""

import math
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from strobe.core.capture import Forward, still
from strobe.core.errors import BadOption, Diverged
from strobe.core.site import Site
from strobe.core.tap import patch, tap

METHODS = ("melbo", "contrastive", "jacobian")


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


def unsupervised(
    model: nn.Module, inputs: Any, source: str, target: str, *, count: int = 4, norm: float, method: str = "melbo",
    power: float = 2.0, root: float | None = None, steps: int = 100, lr: float = 0.05, temperature: float = 0.5, passes: int = 15,
    forward: Forward | None = None, seed: int = 0, progress: Callable[[float], None] | None = None,
) -> Pushes:  # fmt: skip
    """Vectors θ of length `norm`, added to `source` at every token, that change `target` most.

        "melbo"        max (Σ_t ‖Z_t(θ) − Z_t(0)‖^p)^(1/q) over ‖θ‖ = norm, each orthogonal to those before; Adam on the sphere
        "contrastive"  all at once: f_ik = Z(x_i, θ_k) − Z(x_i, 0); those of one k alike over inputs i, those of other k not (NT-Xent)
        "jacobian"     the leading right singular vectors of ∂Z/∂θ at 0, by block power iteration

    Args: inputs, a batch as the model takes it (tensor or mapping), all of one length or padded alike; power p, root q (default p).
    Melbo starts at the Jacobian's directions: its maximum for small norms, and `passes` passes forward and back are cheap.
    Cost: `passes` + steps × (forward and backward) a vector. Raises `BadOption`, `SiteNotFound`; `Diverged` where the target is not finite.
    Ref: Mack and Turner 2024 (MELBO); the limit of small norm is its first-order term; contrast: Dalva and Yanardag, arXiv:2312.05390.
    """
    if method not in METHODS or count < 1 or not 0 < norm < math.inf or power <= 0 or steps < 1 or passes < 1:
        raise BadOption(
            f"method is one of {', '.join(METHODS)}, with count, steps and passes >= 1, norm and power > 0; got {method!r}, {count}, "
            f"{norm}, {power}, {steps}, {passes}"
        )
    with _moved(model, inputs, source, target, forward) as world:
        if count > world.size:
            raise BadOption(f"{source} has {world.size} features; no {count} directions there are orthogonal")
        sigma, V = world.jacobian(max(count, 2), passes, seed)
        if method == "jacobian":
            found = norm * V[:count]
        elif method == "contrastive":
            found = _contrast(world, V[:count], norm, steps, lr, temperature, seed, progress)
        else:
            found = _melbo(world, V[:count], norm, power, root or power, steps, lr, progress)
        with torch.no_grad():
            moved = torch.stack([world.effect(v).flatten() for v in found])
        effect = moved.norm(dim=1)
        order = effect.argsort(descending=True)
        unit = moved / effect[:, None].clamp_min(1e-30)
        alike = (unit @ unit.T).abs()[order][:, order]
        return Pushes(
            source, target, norm, found[order], effect[order], effect[order] / (norm * sigma[0]), sigma, V, alike
        )


class _World:
    """What adding a vector at the source does to the target."""

    def __init__(self, run: Callable[[Tensor | None], Tensor], size: int, like: Tensor) -> None:
        self.run, self.size, self.like = run, size, like
        with torch.no_grad():
            self.still = run(None)
        if not self.still.isfinite().all():
            raise Diverged("what the target carries is not finite before anything is added")

    def effect(self, theta: Tensor) -> Tensor:
        """(inputs, tokens, features) at the target less what is there without."""
        return self.run(theta) - self.still

    def forward(self, v: Tensor) -> Tensor:
        """J v."""
        zero = torch.zeros_like(v)
        try:
            return jvp(self.run, (zero,), (v,))[1].detach()
        except (NotImplementedError, RuntimeError):  # a layer without forward derivatives: a central difference
            small = 1e-2 * float(self.like.norm(dim=-1).mean()) / float(v.norm())
            with torch.no_grad():
                return (self.run(small * v) - self.run(-small * v)) / (2 * small)

    def back(self, u: Tensor) -> Tensor:
        """Jᵀ u."""
        theta = torch.zeros(self.size, dtype=self.like.dtype, device=self.like.device, requires_grad=True)
        return torch.autograd.grad(self.run(theta), theta, u)[0]

    def jacobian(self, count: int, passes: int, seed: int) -> tuple[Tensor, Tensor]:
        """Leading singular values (count,) and right singular vectors (count, d)."""
        count = min(count, self.size)
        gen = torch.Generator().manual_seed(seed)
        V = torch.linalg.qr(torch.randn(self.size, count, generator=gen))[0].to(self.like)
        for _ in range(passes):
            JV = [self.forward(v) for v in V.T]
            W = torch.stack([self.back(u) for u in JV], 1)
            V = torch.linalg.qr(W)[0]
        seen = torch.stack([self.forward(v).flatten() for v in V.T], 1)
        w, U = torch.linalg.eigh(seen.T @ seen)
        return w.flip(0).clamp_min(0).sqrt(), (V @ U.flip(1)).T


@contextmanager
def _moved(model: nn.Module, inputs: Any, source: str, target: str, forward: Forward | None) -> Iterator[_World]:
    at, to = Site.parse(source), Site.parse(target)
    at.module(model)
    to.module(model)
    wanted = {p: p.requires_grad for p in model.parameters()}

    def run(theta: Tensor | None) -> Tensor:
        edits: dict[str | Site, Any] = {} if theta is None else {at: lambda x: x + theta.to(x)}
        with patch(model, edits), tap(model, [at, to], grad=True) as seen:
            if forward is not None:
                forward(model, inputs)
            else:
                model(**inputs) if isinstance(inputs, dict) else model(inputs)
            if not last:
                last.append(seen[str(at)])
            return seen[str(to)]

    last: list[Tensor] = []
    try:
        for p in wanted:
            p.requires_grad_(False)
        with still(model), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*torch.jit.script", DeprecationWarning)  # torch 2.13's own jvp rules
            with torch.no_grad():
                run(None)
            yield _World(run, last[0].shape[-1], last[0].detach())
    finally:
        for p, was in wanted.items():
            p.requires_grad_(was)


def _melbo(
    world: _World,
    start: Tensor,
    norm: float,
    power: float,
    root: float,
    steps: int,
    lr: float,
    progress: Callable[[float], None] | None,
) -> Tensor:
    found: list[Tensor] = []
    for k, v in enumerate(start):
        theta = (norm * v).clone().requires_grad_()
        optimizer = torch.optim.Adam([theta], lr=lr * norm / math.sqrt(len(theta)))
        best = (-math.inf, theta.detach().clone())
        for _ in range(steps):
            value = world.effect(theta).norm(dim=-1).pow(power).sum().pow(1 / root)
            if not value.isfinite():
                raise Diverged(f"the change at the target is {float(value)}: lower norm={norm} or lr={lr}")
            if float(value.detach()) > best[0]:
                best = (float(value.detach()), theta.detach().clone())
            optimizer.zero_grad()
            (-value).backward()
            assert theta.grad is not None
            theta.grad.sub_(theta.detach() * (theta.grad @ theta.detach()) / norm**2)  # along the sphere
            optimizer.step()
            with torch.no_grad():
                theta.copy_(_on_sphere(theta, found, norm))
        found.append(best[1])
        if progress is not None:
            progress((k + 1) / len(start))
    return torch.stack(found)


def _on_sphere(theta: Tensor, before: list[Tensor], norm: float) -> Tensor:
    for b in before:
        theta = theta - b * (theta @ b) / (b @ b)
    return norm * theta / theta.norm().clamp_min(1e-30)


def _contrast(
    world: _World,
    start: Tensor,
    norm: float,
    steps: int,
    lr: float,
    temperature: float,
    seed: int,
    progress: Callable[[float], None] | None,
) -> Tensor:
    if len(start) < 2 or len(world.still) < 2:
        raise BadOption("contrast needs two directions and two inputs or more")
    gen = torch.Generator().manual_seed(seed)
    theta = torch.randn(start.shape, generator=gen).to(start)
    theta = (norm * theta / theta.norm(dim=1, keepdim=True)).requires_grad_()
    optimizer = torch.optim.Adam([theta], lr=lr * norm / math.sqrt(theta.shape[1]))
    m, n = len(start), len(world.still)
    own = torch.arange(m, device=start.device).repeat_interleave(n)
    same = (own[:, None] == own) & ~torch.eye(m * n, dtype=torch.bool, device=start.device)
    for step in range(steps):
        f = torch.cat([world.effect(t).flatten(1) for t in theta])
        unit = f / f.norm(dim=1, keepdim=True).clamp_min(1e-30)
        logits = (unit @ unit.T / temperature).masked_fill(
            torch.eye(m * n, dtype=torch.bool, device=f.device), -math.inf
        )
        value = -(logits.log_softmax(1).masked_fill(~same, 0).sum(1) / same.sum(1)).mean()
        if not value.isfinite():
            raise Diverged(f"the contrast is {float(value)} at step {step}: lower norm={norm} or lr={lr}")
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        with torch.no_grad():
            theta.mul_(norm / theta.norm(dim=1, keepdim=True).clamp_min(1e-30))
        if progress is not None:
            progress((step + 1) / steps)
    return theta.detach()
