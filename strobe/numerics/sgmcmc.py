"""Sampling near a point with many chains at once: Langevin steps for noisy gradients, Hamiltonian ones for exact.

The target of every sampler here is, for each of C chains over P numbers,

    exp(-U(w)),    U(w) = N L(w) + (γ/2) |w - w*|²,

with N (`nbeta`, an inverse temperature times a sample size), γ (`gamma`) and the step size each of its own per chain,
so that temperatures and step sizes are run beside one another in one stack. `energy(w, t)` gives, for w (C, P) and the
draw t, the losses (C,) and their gradients (C, P), which it may let us overwrite; t chooses a minibatch, if there is one.
A diagonal preconditioner M ("metric", the posterior's variances roughly) rescales each coordinate; M = 0 freezes one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.linalg import vecdot

from strobe.numerics.noise import Noise

Energy = Callable[[Tensor, int], tuple[Tensor, Tensor]]
LOOK = 16  # steps between two looks at whether all is well
ACCEPT = 0.8  # Hamiltonian acceptance that is aimed at
LEAPS = 24  # most leapfrog steps of one draw, in the mean
REACH = 2.0  # length of a trajectory, in units of √M


@dataclass(frozen=True)
class Target:
    """Where and how warm to sample: the point w* (P,), N and γ of each chain (C, 1)."""

    center: Tensor
    nbeta: Tensor
    gamma: Tensor

    def force(self, w: Tensor, grad: Tensor) -> Tensor:
        """∂U of each chain, (C, P), overwriting `grad`."""
        return grad.mul_(self.nbeta).addcmul_(w, self.gamma).addcmul_(self.center.expand_as(w), self.gamma, value=-1)


@dataclass
class Draws:
    """What a sampler returns: `losses` (C, T) at each draw, float64, with the state it ended in."""

    losses: np.ndarray
    w: Tensor
    gradients: int  # gradients of one chain that it took
    accept: np.ndarray | None = None  # (C,) mean acceptance, where there is one
    seen: list[Any] = field(default_factory=list)
    virial: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))  # (w - w*)·∂U of each chain, every 16 draws


class Diverging(FloatingPointError):
    """A chain left the neighbourhood, or the numbers: which, and at which draw."""

    def __init__(self, chain: int, draw: int, last: float) -> None:
        super().__init__(f"chain {chain} left at draw {draw}; its loss before was {last:.6g}")
        self.chain, self.draw, self.last = chain, draw, last


Visit = Callable[[Tensor, int], Any]


@torch.no_grad()
def langevin(
    energy: Energy, w: Tensor, target: Target, *, step: Tensor, metric: Tensor, draws: int, noise: Noise, memory: Tensor | float = 0.0,
    begin: int = 0, limit: Tensor | float = float("inf"), visit: Visit | None = None,
) -> Draws:  # fmt: skip
    """Langevin dynamics without a Metropolis step, exact on quadratics for any stable step.

        w ← w - (ε/2) M ∂U(w) + √(ε M) (ξ + ξ') / 2                        ε: `step` (C, 1), M: `metric`, ξ' the next ξ

    The mean of two noises makes the stationary variance of a quadratic right at every ε (the usual step's is too large
    by 1/(1 - a/2), a = ε M h / 2), and the error for smooth U second order in ε instead of first. With `memory` c > 0
    the chain (each its own, (C, 1)) has a velocity that keeps the part c of itself each step (BAOAB; c = 0 is the line above): with exact
    gradients soft directions then need √(stiffest/softest) steps, not that ratio. Noise of a minibatch
    heats by (ε N / 2)² M Cov(∂L) a step, and more with memory.
    `w` (C, P) is overwritten. One gradient a draw; the loss kept at draw t is that of wₜ on batch t, which wₜ has not
    seen. `visit(w, t)` is called at each draw, and what it returns kept. Raises `Diverging` where N L passes `limit`.
    Ref: Leimkuhler and Matthews, arXiv:1203.5428, equations 1.8 (c = 0) and 3.

    >>> E = lambda w, t: (w.square().sum(1) / 2, w.clone())
    >>> one = torch.ones(64, 1)
    >>> T = Target(torch.zeros(3), 10 * one, one)
    >>> got = langevin(E, torch.zeros(64, 3), T, step=0.15 * one, metric=torch.ones(3), draws=2000, noise=Noise(0))
    >>> bool(abs(10 * got.losses[:, 500:].mean() - 3 / 2 * 10 / 11) < 0.05)         # (d/2) N h / (N h + γ), a = 0.83
    True
    """
    # each is as wide as its parts are, (C, 1), (1, P) or (C, P): a row for all costs a quarter less memory traffic
    nbeta, gamma, step = (_row(x) for x in (target.nbeta, target.gamma, step))
    root = (step * metric).sqrt()
    keep = torch.as_tensor(memory).to(w)
    moving = bool((keep > 0).any())
    half, turn = root / 2, root if moving else step * metric / 2
    drift, pull = turn * nbeta, turn * gamma
    center, v = target.center.expand_as(w), noise.fill(torch.empty_like(w))
    xi = torch.empty_like(w) if moving else v
    fresh = (1 - keep.square()).sqrt()
    losses, seen, virial = torch.empty(draws, len(w), device=w.device), [], []
    for t in range(draws):
        loss, grad = energy(w, begin + t)
        losses[t] = loss
        if visit is not None:
            seen.append(visit(w, begin + t))
        if t % LOOK == 0:
            u = w - center  # vecdot: einsum takes five to ten times as long over arrays this long and thin
            virial.append(target.nbeta[:, 0] * vecdot(u, grad) + target.gamma[:, 0] * vecdot(u, u))
        if moving:
            v.addcmul_(grad, drift, value=-1).addcmul_(torch.sub(w, center, out=xi), pull, value=-1)
            w.addcmul_(v, half)
            v.mul_(keep).addcmul_(noise.fill(xi), fresh)
        else:
            w.lerp_(center, pull.expand_as(w)).addcmul_(grad, drift, value=-1).addcmul_(v, half)
            noise.fill(v)
        w.addcmul_(v, half)
        if (t + 1) % LOOK == 0 or t + 1 == draws:
            _check(losses[: t + 1], limit / target.nbeta[:, 0])
    return Draws(
        losses.T.double().cpu().numpy(), w, draws, seen=seen, virial=torch.stack(virial, 1).double().cpu().numpy()
    )


def _row(x: Tensor) -> Tensor:
    """The numbers of each chain (C, 1), as (1, 1) where they are the same."""
    return x[:1] if bool((x == x[:1]).all()) else x


def _check(losses: Tensor, most: Tensor) -> None:
    good = losses[-LOOK:] < most  # NaN is not
    if bool(good.all()):
        return
    bad = ~(losses < most)
    draw = int(bad.any(1).nonzero()[0])
    chain = int(bad[draw].nonzero()[0])
    raise Diverging(chain, draw, float(losses[draw - 1, chain]) if draw else float("nan"))


@torch.no_grad()
def hamiltonian(
    energy: Energy, w: Tensor, target: Target, *, step: Tensor, metric: Tensor, draws: int, noise: Noise, seed: int = 0,
    reach: float = REACH, adapt: bool = False, visit: Visit | None = None, leaps: int | None = None,
) -> Draws:  # fmt: skip
    """Hamiltonian Monte Carlo with Metropolis acceptance: no error of the step size. One leap a draw is MALA.

        leapfrog of H = U(w) + |r|²/2 in w = √M v, h = `step`;  accepted with probability min(1, exp(H - H'))

    For exact gradients only (all the data in each). `reach` is the mean length of a trajectory in units of √M, its
    number of leaps uniform on 1 .. 2 reach/h - 1 (at most 2 · 24 - 1), the same for all chains; `leaps` fixes it. `adapt`
    moves h (in place) towards an acceptance of 0.8 by dual averaging. A proposal that is not finite is rejected.
    `w` is overwritten. Cost: `gradients` per chain. Raises `Diverging` where the start is not finite.
    Ref: Neal, arXiv:1206.1901; Hoffman and Gelman, arXiv:1111.4246, section 3.2 (dual averaging).
    """
    rng, root = np.random.default_rng(seed), metric.sqrt()
    loss, grad = energy(w, 0)
    _check(loss[None], torch.full_like(loss, torch.inf))
    force = target.force(w, grad.clone())
    potential = _potential(target, w, loss)
    losses, seen = torch.empty(draws, len(w), device=w.device), []
    accepted, spent, xi = torch.zeros(len(w), device=w.device), 1, torch.empty_like(w)
    dual = _Dual(step) if adapt else None
    for t in range(draws):
        mean = max(min(reach / float(step.max()), LEAPS), 1.0)
        count = leaps or int(rng.integers(1, max(2 * round(mean), 2)))
        r = noise.fill(xi).clone()
        before = potential + r.square().sum(1, dtype=torch.float64) / 2
        v, f, at = w.clone(), force, loss
        half = step / 2 * root
        whole = step * root
        r.addcmul_(f, half, value=-1)
        for i in range(count):
            v.addcmul_(r, whole)
            at, f = energy(v, 0)
            f = target.force(v, f)
            r.addcmul_(f, half if i == count - 1 else whole, value=-1)
        spent += count
        after = _potential(target, v, at)
        # a proposal that is not finite has an energy that is not, and is refused
        ratio = (
            (before - after - r.square().sum(1, dtype=torch.float64) / 2).nan_to_num(nan=-np.inf).clamp_(max=0).exp()
        )
        took = torch.from_numpy(rng.random(len(w))).to(ratio) < ratio
        accepted += ratio.float()
        w[took], force, loss = v[took], torch.where(took[:, None], f, force), torch.where(took, at, loss)
        potential = torch.where(took, after, potential)
        losses[t] = loss
        if visit is not None:
            seen.append(visit(w, t))
        if dual is not None:
            dual.learn(float(ratio.mean()))
    if dual is not None:
        dual.settle()
    return Draws(losses.T.double().cpu().numpy(), w, spent, (accepted / max(draws, 1)).cpu().numpy(), seen)


def _potential(target: Target, w: Tensor, loss: Tensor) -> Tensor:
    apart = (w - target.center).square().sum(1, dtype=torch.float64)
    return target.nbeta[:, 0] * loss.double() + target.gamma[:, 0] / 2 * apart


class _Dual:
    """Dual averaging of log h, shared by the chains (their ratios stay)."""

    def __init__(self, step: Tensor) -> None:
        self.step, self.base = step, step.clone()
        self.t, self.gap, self.log, self.mean = 0, 0.0, 0.0, 0.0
        self.aim = np.log(2.0)  # steps are tried larger first

    def learn(self, accept: float) -> None:
        self.t += 1
        part = 1 / (self.t + 10)
        self.gap = (1 - part) * self.gap + part * (ACCEPT - accept)
        self.log = self.aim - np.sqrt(self.t) / 0.2 * self.gap
        weight = self.t**-0.75
        self.mean = weight * self.log + (1 - weight) * self.mean
        torch.mul(self.base, float(np.exp(self.log)), out=self.step)

    def settle(self) -> None:
        torch.mul(self.base, float(np.exp(self.mean)), out=self.step)


@torch.no_grad()
def stiffness(
    energy: Energy, w: Tensor, target: Target, metric: Tensor, *, start: Tensor, draw: int = 0, turns: int = 10
) -> tuple[Tensor, Tensor]:
    """The largest eigenvalue of √M ∂²U √M at each chain's place, (C, 1), and its direction, (C, P), from `start` (C, P).

    By power iteration on differences of gradients, `turns` and one of them: from below, to a few percent where one
    eigenvalue stands out or the start is near.
    """
    root = metric.sqrt().expand_as(w)
    v = start * (root > 0)
    at = target.force(w, energy(w, draw)[1].clone()).clone()
    size = (w - target.center).norm(dim=1, keepdim=True) + 0.1 * target.center.norm() + 1e-2
    best = torch.zeros(len(w), 1, dtype=w.dtype, device=w.device)
    for _ in range(turns):
        v = v / v.norm(dim=1, keepdim=True).clamp_min(1e-30)
        move = root * v
        delta = 1e-2 * size / move.norm(dim=1, keepdim=True).clamp_min(1e-30)
        there = torch.addcmul(w, move, delta)
        v = root * (target.force(there, energy(there, draw)[1].clone()) - at) / delta
        best = torch.maximum(best, v.norm(dim=1, keepdim=True).nan_to_num(nan=torch.inf))
    return best, v


class Metric:
    """A diagonal metric learnt from the draws: √(E(w - w*)² / E(∂U)²), coordinate by coordinate, over chains and time.

    It is the variance where a coordinate stands alone, and right before that is reached, for both then grow together.
    Ref: the mass matrix of nutpie (Seyboldt and others), the diagonal minimum of the Fisher divergence, about w*.
    """

    def __init__(self, target: Target, free: Tensor) -> None:
        self.target, self.free = target, free
        self.spread, self.power, self.n = (torch.zeros_like(target.center, dtype=torch.float64) for _ in range(3))

    def see(self, w: Tensor, grad: Tensor) -> None:
        """Count the places of all chains, given the gradients of the loss there."""
        u = w - self.target.center
        self.spread += vecdot(u, u, dim=0)
        force = u.mul_(self.target.gamma).addcmul_(grad, self.target.nbeta)
        if self.free.ndim > 1:  # the force on what a chain does not move says nothing
            force *= self.free
        self.n += len(w) if self.free.ndim == 1 else (self.free > 0).sum(0)
        self.power += vecdot(force, force, dim=0)

    def value(self, old: Tensor) -> Tensor:
        """The metric (P,); `old` where a coordinate did not move."""
        good = (self.spread > 0) & (self.power > 0)
        return torch.where(good, (self.spread / self.power).sqrt().clamp(1e-12, 1e12), old.double()).to(old)

    def softness(self) -> float:
        """The median over coordinates of 1 / √(E(w - w*)² E(∂U)²), at most 1.

        One where coordinates stand alone; else about how much softer the softest direction is than the metric has it.
        """
        good = (self.spread > 0) & (self.power > 0)
        if not bool(good.any()):
            return 1.0
        return float((self.n / (self.spread * self.power).sqrt())[good].clamp(max=1).median())
