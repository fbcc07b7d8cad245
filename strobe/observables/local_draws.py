"""Draws from the posterior around a snapshot, and what their mean is worth: what the learning coefficients share."""

import dataclasses
from dataclasses import dataclass
from math import log
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strobe.core.data import chosen, examples_in, mapped, rows
from strobe.core.errors import BadOption, Diverged
from strobe.core.snapshot import Snapshot
from strobe.core.stacked import StackedLoss
from strobe.numerics.chains import Chained, chained, drift
from strobe.numerics.local_posterior import HEAT, Sampled, local_posterior
from strobe.numerics.sgmcmc import Diverging, Target, Visit

WHOLE = 512  # examples up to which every gradient is of all the data, where
HEAVY = 32 << 20  # bytes of activations are not too many;
LIGHT = 8 << 20  # else of so many bytes,
BATCH = 8, 128  # and of no fewer or more examples
LONG = 10_000  # numbers of a row from which it is cheaper to subtract rows one by one than to gather them first
KEPT = 1 << 26  # numbers of gradients at w* that are kept, one for each batch: 256 MB


@dataclass(frozen=True)
class Settings:
    """What a user may choose, with the rest filled in. `batch` None: all the data at each draw."""

    nbeta: float
    gamma: float
    batch: int | None
    chains: int
    budget: int


def settings(
    loss: StackedLoss, snap: Snapshot, nbeta: float | None, gamma: float | None, n: int | None, batch: int | None,
    chains: int | None, budget: int,
) -> Settings:  # fmt: skip
    """The options of `llc`, checked, with its defaults. Raises `BadOption`."""
    size = examples_in(snap.data)
    n = n or size
    if nbeta is None:
        if n < 2:
            raise BadOption("the data hold no examples to count, so there is no n / log n: give nbeta, or n")
        nbeta = n / log(n)
    if gamma is None:
        gamma = float(np.clip(len(loss.center) / max(float(loss.center.square().sum()), 1e-12), 1.0, 1e4))
    chains = chains or int(np.clip(200_000 // len(loss.center), 8, 64))
    given = {"nbeta": (nbeta, 1e-9), "gamma": (gamma, 1e-9), "chains": (chains, 2), "budget": (budget, 200)}
    given["batch"] = (1 if batch is None else batch, 1)
    if low := [f"{k} = {v}" for k, (v, least) in given.items() if not least <= v < np.inf]:
        raise BadOption(
            f"draws around a snapshot need nbeta > 0, gamma > 0, chains >= 2, budget >= 200, batch >= 1; got {', '.join(low)}"
        )
    batch = batch or _batch(loss, snap, size)
    return Settings(nbeta, gamma, None if size <= batch else batch, chains, budget)


def _batch(loss: StackedLoss, snap: Snapshot, size: int) -> int:
    """Examples a gradient is of, by what one of them costs."""
    with snap.quiet():
        if size <= WHOLE and (size == 0 or loss.activations(snap.data) <= HEAVY):
            return max(size, 1)
        few = min(size, BATCH[0])
        each = loss.activations(rows(snap.data, 0, few)) / few
    return int(np.clip(LIGHT / max(each, 1), *BATCH))


def sampled(
    snap: Snapshot,
    loss: StackedLoss,
    chosen: Settings,
    seed: int,
    *,
    free: Tensor | None = None,
    groups: Tensor | None = None,
    nbetas: Tensor | None = None,
    visit: Visit | None = None,
) -> "tuple[Sampled, Energy]":
    """Draws around the snapshot, with what `visit` gave at each, and their energy. Raises `Diverged` with what to do.

    `nbetas` is N of each chain, where they differ.
    """
    nbeta = torch.full((chosen.chains,), chosen.nbeta) if nbetas is None else nbetas
    nbeta = nbeta.to(loss.center)[:, None]
    target = Target(loss.center, nbeta, torch.full_like(nbeta, chosen.gamma))
    with snap.quiet():
        energy = Energy(loss, snap.data, chosen, seed)
        try:
            got = local_posterior(
                energy, target, exact=chosen.batch is None, budget=chosen.budget, free=free, groups=groups,
                seed=seed + 1_000_003 * snap.step, visit=visit,
            )  # fmt: skip
        except Diverging as e:
            raise Diverged(
                f"around step {snap.step}: {e}; no step size keeps the chains near: is the loss finite around the snapshot? "
                f"A larger gamma (now {chosen.gamma:.4g}) holds them closer, a smaller nbeta (now {chosen.nbeta:.4g}) is warmer"
            ) from e
    return got, energy


class Energy:
    """Excess loss and gradient of every chain on the batch of a draw.

    The data are dealt into batches once; in as many draws as there are, each chain takes each once, in a new order. ΔL is
    the difference from w* on the same batch. So is the gradient's noise, g(w) - g(w*) + g of all at w*, where that takes a
    tenth of the budget at most; otherwise the gradient is the batch's own. Where all that is kept, chains are on
    different batches, so that what a batch adds at a draw is not added to all; else they share one.
    """

    def __init__(self, loss: StackedLoss, data: Any, settings: Settings, seed: int) -> None:
        size, batch, gradients = examples_in(data), settings.batch, settings.chains * settings.budget
        self.loss, self.seed, self.center, self.data = loss, seed, loss.center[None], data
        self.still = StackedLoss(loss.snap, names=list(loss.values), way="loop")  # for w* alone
        self.count, self.used, self.anchors = 1, size, 0
        if batch is not None:
            near = range(max(batch * 4 // 5, 1), min(batch * 5 // 4, size) + 1)
            each = min(near, key=lambda b: (size % b, abs(b - batch)))
            if each < size:
                self.count, self.used = size // each, size - size % each
                deal = torch.randperm(size, generator=torch.Generator().manual_seed(seed))[: self.used].view(-1, each)
                self.data = chosen(data, deal)
        self.order: tuple[int, Any] = (-1, None)
        self.known: dict[int, tuple[Tensor, Tensor | None]] = {}
        self.paired = 1 < self.count <= 0.1 * gradients
        self.apart = self.paired and self.count * loss.center.numel() <= KEPT
        self.slope = torch.zeros_like(self.center)
        if self.apart:
            self.bases, self.slopes = (
                loss.center.new_empty(self.count),
                loss.center.new_empty(self.count, loss.center.numel()),
            )
        for k in range(self.count if self.paired else 1):
            base, slope = self.still(self.center, self._batch(k))
            if not bool(base.isfinite().all() & slope.isfinite().all()):
                raise Diverged(
                    "the loss or its gradient at the snapshot is not finite: there is nothing to measure around"
                )
            self.slope.add_(slope, alpha=1 / self.count)
            self.anchors += 1
            if self.apart:
                self.bases[k], self.slopes[k] = base[0], slope[0]
        if self.apart:
            self.slopes.sub_(self.slope)

    def _batch(self, k: Any) -> Any:
        """Batch k; with k a tensor (C,), a batch for each chain."""
        return self.data if self.count == 1 else mapped(self.data, lambda t: t[k] if t.ndim else t)

    def _anchor(self, k: int) -> tuple[Tensor, Tensor | None]:
        if k not in self.known:
            if self.paired:
                self.anchors += 1
                return self.still(self.center, self._batch(k))
            self.known[k] = self.still.losses(self.center, self._batch(k)), None
        return self.known[k]

    def which(self, draw: int, chains: int) -> np.ndarray:
        """The batch of each chain at a draw, (C,)."""
        turn, at = divmod(draw, self.count)
        if self.order[0] != turn:
            self.order = turn, np.random.default_rng((self.seed, turn)).permutation(self.count)
        away = np.arange(chains) * self.count // chains if self.apart else np.zeros(chains, int)
        return np.asarray(self.order[1][(at + away) % self.count])

    def __call__(self, w: Tensor, draw: int) -> tuple[Tensor, Tensor]:
        ks = self.which(draw, len(w))
        if self.apart:
            each = torch.from_numpy(ks).to(w.device)
            loss, grad = self.loss.own(w, self._batch(each))
            if w.is_cuda or w.shape[1] < LONG:
                grad.sub_(self.slopes[each])
            else:
                for row, k in zip(grad, ks.tolist(), strict=True):
                    row.sub_(self.slopes[k])
            return loss - self.bases[each], grad
        k = int(ks[0])
        loss, grad = self.loss(w, self._batch(k))
        base, slope = self._anchor(k)
        return loss - base, grad if slope is None or self.count == 1 else grad.sub_(slope - self.slope)


def order(got: Sampled, energy: Energy) -> np.ndarray:
    """The batch of each chain at each draw, (C, T)."""
    chains, draws = got.losses.shape
    return np.stack([energy.which(got.first + t, chains) for t in range(draws)], 1)


def unrest(virial: np.ndarray, errors: float = 1.0) -> float:
    """How far the mean of (w - w*)·∂U over the number of parameters (C, T) is from 1, beyond so many standard errors.

    E (w - w*)·∂U = P holds for the posterior itself, by parts; chains that have not spread yet are below, those that a
    step or noise heats above.
    """
    if virial.size == 0:
        return 0.0
    v = virial.mean(axis=1)
    spread = float(v.std(ddof=1)) / np.sqrt(len(v)) if len(v) > 1 else 0.0
    return float(np.sign(v.mean() - 1) * max(abs(v.mean() - 1) - errors * spread, 0.0))


def mean_of(x: np.ndarray, batches: np.ndarray, heat: float, off: float) -> Chained:
    """Mean and error of draws (C, T) on the batches with these numbers (C, T), without their heat.

    What a batch adds at every draw is taken out where each was met twice; what chains that share their batches have left in
    common counts once. Of the heat half is taken off, and is error: batches that come once in a turn undo some of their noise,
    all of it where a turn is short. So are error a drift that is more than chance, between the halves, and half of what
    the chains are `off` their rest (see `unrest`), as a part of the value.
    """
    count = np.bincount(batches.ravel())
    widen = 1.0
    if len(count) > 1 and count.min() >= 2:
        effect = np.bincount(batches.ravel(), x.ravel()) / count
        x = x - (effect - effect.mean())[batches]
        widen = float(np.sqrt(count.min() / (count.min() - 1)))
    c = chained(x)
    shared = len(count) > 1 and bool((batches == batches[:1]).all())
    together = chained(x.mean(0, keepdims=True)).err if shared else 0.0
    moved, z = drift(x)
    apart = max(abs(moved) if abs(z) > 3 else 0.0, abs(off * c.mean) / 2)
    err = np.hypot(widen * max(c.err, together), np.hypot(heat / 2, apart))
    return dataclasses.replace(c, mean=c.mean - heat / 2, err=float(err))


@dataclass(frozen=True)
class Judged:
    """What the draws of some chains say of λ̂: N ΔL (C, T), its mean and error, heat, unrest, and what makes it doubtful."""

    x: np.ndarray
    mean: Chained
    heat: float
    off: float
    flags: list[str]


def judged(
    got: Sampled,
    batches: np.ndarray,
    chosen: Settings,
    size: int,
    *,
    chains: slice = slice(None),
    nbeta: float | None = None,
) -> Judged:
    """The mean over these `chains` (all), with `size` parameters free, at `nbeta` (the settings' own)."""
    x = (chosen.nbeta if nbeta is None else nbeta) * got.losses[chains]
    heat, virial = float(got.heat[chains].mean()), got.virial[chains]
    off = unrest(virial)
    mean = mean_of(x, batches[chains], heat, off)
    flags = flags_of(mean, x, heat, unrest(virial, 3.0), size, exact=chosen.batch is None)
    return Judged(x, mean, heat, off, flags)


def flags_of(c: Chained, x: np.ndarray, heat: float, off: float, size: int, *, exact: bool) -> list[str]:
    """What makes an estimate from draws (C, T) over `size` parameters doubtful, in sentences."""
    flags = []
    lowest = float(x.min()) if exact else float(x.mean(axis=1).min())  # a single batch may lie anywhere
    if c.mean < -2 * c.err or lowest < (-1 if exact else -1 - 3 * np.sqrt(c.variance * len(x) / c.ess)):
        flags.append(
            f"chains found a lower loss (N ΔL = {lowest:.3g}): the snapshot is not near a local minimum at this temperature"
        )
    elif c.mean < 0:
        flags.append("negative within its error: too little is known to tell it from 0")
    if c.mean > size / 2 + 2 * c.err:
        flags.append(f"above half the number of parameters, {size / 2:g}, which no minimum has: the chains left it")
    if c.rhat > 1.05:
        flags.append(f"the chains disagree (R-hat {c.rhat:.3f}): give a larger budget, or a larger gamma")
    moved, z = drift(x)
    if abs(z) > 4 and abs(moved) > 0.02 * abs(c.mean):
        flags.append(
            f"still drifting (by {moved:+.3g} between the halves, {z:+.1f} standard errors): give a larger budget"
        )
    if off < -0.05:
        flags.append(
            f"the chains have not spread yet (E (w - w*)·∂U is {-off:.0%} below its value at rest): give a larger budget"
        )
    if off > 0.05:
        flags.append(
            f"the chains are too hot (E (w - w*)·∂U is {off:.0%} above its value at rest): give a larger batch"
        )
    if c.ess < 50:
        flags.append(f"worth {c.ess:.0f} independent draws only: give a larger budget")
    if heat > 2 * HEAT * abs(c.mean):
        flags.append(f"the noise of minibatches adds up to {heat:.3g}: give a larger batch")
    return flags
