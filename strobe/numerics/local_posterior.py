"""The posterior near a point, sampled without settings: metric, step and burn-in are found by the chains themselves."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strobe.numerics.chains import burn_in
from strobe.numerics.noise import Noise
from strobe.numerics.sgmcmc import (
    LOOK,
    REACH,
    Diverging,
    Draws,
    Energy,
    Metric,
    Target,
    Visit,
    hamiltonian,
    langevin,
    stiffness,
)

WARM = 0.35  # part of the budget that goes into finding the settings
STEP = 0.25  # largest ε: the metric's own scale is 1, and what is not quadratic there wants several steps
STIFF = 0.5  # a = ε λ / 2 on the stiffest direction met: unstable at 2, exact on quadratics below
EAGER, CALM = 0.5, 0.3  # powers of the metric's softness that slow the forgetting: to get there, then to measure
SOFT = 0.7  # of √ε, above which memory would be of a step or two, and is left out
FIRST = 0.1  # the same in the first window, when only the curvature at w* is known, which may be none
WINDOW = 16  # draws of the first window; each later one is twice as long
TURNS = 8, 4  # of power iteration, at first and then from the last direction
SEEN = 4  # one of so many draws is counted for the metric: neighbours say the same
RETREATS = 12  # twice as many where a chain ran against a wall, and did not fall
PAIRS = 6  # of batches that the heat is measured with, before and after
HEAT = 0.03  # energy that the noise of minibatches may add, of the whole
FAR = (10.0, 200.0)  # a chain has left where N ΔL > 10 P/2 + 200: it is about λ <= P/2


@dataclass(frozen=True)
class Sampled:
    """Draws after burn-in: excess losses (C, T), the first one's number, what `visit` gave, the end, and how it was done.

    `heat` (C,) is the energy N ΔL that the noise of minibatches added, by its own formula at the places of the end;
    `virial` (C, any) is (w - w*)·∂U over the number of free parameters, which is 1 in the mean for the posterior itself.
    """

    losses: np.ndarray
    first: int
    seen: list[Any]
    w: Tensor
    heat: np.ndarray
    virial: np.ndarray
    how: dict[str, Any]


@torch.no_grad()
def local_posterior(
    energy: Energy, target: Target, *, exact: bool, budget: int, free: Tensor | None = None, groups: Tensor | None = None,
    metropolis: bool = False, stiff: float = STIFF, seed: int = 0, visit: Visit | None = None,
    progress: Callable[[float], None] | None = None,
) -> Sampled:  # fmt: skip
    """Draws of exp(-N ΔL - γ/2 |w - w*|²) for each chain of `target`, from about `budget` gradients a chain.

    `energy` gives ΔL = L(w) - L(w*), on the batch of draw t unless `exact`. All chains start at w*. In windows that
    double in length, a third of the budget finds a diagonal metric (`Metric`) and the step, ε = 2 stiff / λ, for the
    largest eigenvalue λ that any chain meets (`stiffness`). A window whose chains leave is begun anew with an eighth of
    its step. With exact gradients the chains have memory exp(-2 √ε s), s < 1 where the metric's directions are not the
    posterior's (`Metric.softness`); with those of minibatches none, and ε is lowered until the energy that their noise
    adds, (ε/8) N² Σ Mᵢ Var(∂ᵢL), is below 3% of the whole. With `metropolis` the rest of the budget goes to Hamiltonian
    draws instead, which no step size biases (for exact gradients; several gradients a draw). Burn-in of the rest by
    `burn_in`. `free` (P,) or (C, P) is 0 where
    a parameter stays at w*; chains of the same number in `groups` (C,) share a step, all share the metric.
    Raises `Diverging` where no step keeps the chains near.
    """
    chains, one = len(target.nbeta), torch.ones_like(target.nbeta)
    start = target.center.repeat(chains, 1)
    free = torch.ones_like(target.center) if free is None else free.to(start)
    groups = torch.zeros(chains, dtype=torch.long) if groups is None else groups
    limit = FAR[0] * free.expand_as(start).sum(1) / 2 + FAR[1]
    noise, w, metric = Noise(seed, start.device), start.clone(), free / target.gamma.mean()
    spent, window, level, shrink, retreats, mean, soft = 0, WINDOW, FIRST, 1.0, 0, one, 1.0
    learn = Metric(target, free)

    def learning(v: Tensor, t: int) -> tuple[Tensor, Tensor]:
        loss, grad = energy(v, t)
        if t % SEEN == 0:
            learn.see(v, grad)
        return loss, grad

    def run(energy: Energy, step: Tensor, draws: int, visit: Visit | None = None, power: float = EAGER) -> Draws:
        h = step.sqrt()
        memory = torch.where(h < SOFT, (-2 * h * soft**power).exp(), 0.0) if exact else 0.0
        return langevin(
            energy, w, target, step=step, metric=metric, draws=draws, noise=noise, memory=memory, begin=spent,
            limit=limit, visit=visit,
        )  # fmt: skip

    def adjusted(draws: int, **options: Any) -> Draws:
        return hamiltonian(energy, w, target, step=step, metric=metric, draws=draws, noise=noise, seed=seed, **options)

    first = along = noise.fill(torch.empty_like(w))

    def stiffest(turns: int) -> Tensor:
        nonlocal along, spent
        found, along = stiffness(energy, w, target, metric, start=along, draw=spent, turns=turns)
        along = torch.where(along.isfinite(), along, first)
        spent += turns + 1
        if not bool(found.isfinite().all()):
            raise Diverging(int((~found.isfinite())[:, 0].nonzero()[0]), 0, float("nan"))
        return _each(found, groups, "amax")

    lam = stiffest(TURNS[0])
    while spent < WARM * budget:
        learn, begun, old = Metric(target, free), w.clone(), metric
        try:
            got = run(learning, 2 * shrink * level / lam, window)
            metric = learn.value(metric) * free
            lam = stiffest(TURNS[1])
        except Diverging as e:
            retreats, shrink, spent, metric = retreats + 1, shrink / 8, spent + window, old
            if retreats > (2 * RETREATS if e.last > 0 else RETREATS):
                raise
            w = begun if shrink == 1 / 8 else start.clone()  # the window's own start may be what is too far
            continue
        spent += window
        soft, shrink, late = learn.softness(), 1.0, torch.from_numpy(got.losses[:, -window // 2 :].mean(1)).to(one)
        mean = _each(target.nbeta * late[:, None], groups, "mean")
        window, level = min(2 * window, max(int(0.15 * budget), WINDOW)), min(level * 2.5, stiff)
        if progress:
            progress(min(spent / budget, 0.99))
    step, heat = (2 * level / lam).clamp(max=STEP), 0 * one
    if not exact:
        half = free.expand_as(w).sum(1, keepdim=True) / 2
        whole = torch.minimum(mean.clamp_min(1e-3), half)  # for heat is in the mean too
        heat = _each(_heat(energy, w, target, metric, spent), groups, "mean") / whole
        spent += 2 * PAIRS
        step = torch.minimum(step, HEAT / heat.clamp_min(1e-12))
    left, kept = max(budget - spent, 64), w.clone()
    if metropolis:
        step = (2 * step).sqrt()  # of a leap
        spent += adjusted(max(left // 100, 20), adapt=True).gradients
        got = adjusted(max(int((budget - spent) * float(step.max()) / REACH), 32), visit=visit)
        left = got.gradients
    while not metropolis:
        try:
            got = run(energy, step, left, visit, CALM)
            break
        except Diverging as e:
            retreats += 1
            if retreats > (2 * RETREATS if e.last > 0 else RETREATS):
                raise
            # at draw 0: where the windows ended may be too far itself, nothing looked there
            w, step = (kept if e.draw else start).clone(), step / 3
    w = got.w
    heat = heat if exact else _each(_heat(energy, w, target, metric, spent + left), groups, "mean") * step
    burnt = burn_in(got.losses)
    virial = got.virial[:, burnt // LOOK :]
    if virial.size:
        virial = virial / free.expand_as(w).sum(1, keepdim=True).double().cpu().numpy()
    how = {
        "chains": chains, "draws": got.losses.shape[1] - burnt, "burn_in": burnt, "warm_up": spent,
        "gradients": (spent + left + (0 if exact else 2 * PAIRS)) * chains,
        "step": float(step.max()), "stiffness": float((lam * step).max()) / 2, "retreats": retreats,
    }  # fmt: skip
    if got.accept is not None:
        how["accept"] = float(got.accept.mean())
    return Sampled(
        got.losses[:, burnt:], spent + burnt, got.seen[burnt:], w, heat[:, 0].double().cpu().numpy(), virial, how
    )


def _each(x: Tensor, groups: Tensor, reduce: str) -> Tensor:
    """The largest or the mean of each group's numbers (C, 1), at each of its chains."""
    groups = groups.to(x.device)
    out = x.new_zeros(int(groups.max()) + 1).scatter_reduce(0, groups, x[:, 0], reduce, include_self=False)
    return out[groups][:, None]


def _heat(energy: Energy, w: Tensor, target: Target, metric: Tensor, draw: int, pairs: int = PAIRS) -> Tensor:
    """(N²/8) Σ Mᵢ Var(∂ᵢL) over batches, of each chain: times ε it is the energy that their noise adds."""
    total = torch.zeros_like(target.nbeta)
    for i in range(pairs):
        apart = energy(w, draw + 2 * i)[1].clone() - energy(w, draw + 2 * i + 1)[1]
        total += (target.nbeta**2 * metric * apart.square()).sum(1, keepdim=True) / 2
    return total / pairs / 8
