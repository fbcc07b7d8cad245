"""What the next example will cost a Bayesian: WAIC, and the singular fluctuation by which training flatters."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from strobe.core.cards import observable
from strobe.core.data import count, examples_in
from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot
from strobe.core.stacked import StackedLoss
from strobe.numerics.jackknife import jackknife
from strobe.numerics.local_posterior import WARM
from strobe.observables.local_draws import judged, order, sampled, settings
from strobe.observables.local_visits import Losses, lean, mixed, pace, traces

ROOM = 1 << 27  # losses that are kept: 512 MB
WILD = 0.4  # variance of one example's loss from which its term is not to be trusted (Vehtari and others)


@observable(symbol="WAIC", of="snapshot", cost="chains x budget gradients, twice at most", ref="arXiv:1004.2316")
def waic(
    snap: Snapshot,
    *,
    gamma: float | None = None,
    n: int | None = None,
    examples: Any = None,
    batch: int | None = None,
    chains: int | None = None,
    budget: int = 2000,
    names: Sequence[str] | None = None,
    seed: int = 0,
) -> Reading:
    """The widely applicable information criterion at β = 1: the loss that Bayes prediction is to expect, nats an example.

        WAIC = -1/n Σ log E_w e^{-ℓᵢ(w)} + V/n,   V = Σ Var_w ℓᵢ(w),    w ~ exp(-Σ ℓᵢ(w) - (γ/2) |w - w*|²)

    with ℓᵢ the negative log-likelihood of example i. Its mean over data sets is that of the generalisation loss up to
    1/n²; so is that of leaving one out.

    Args: `n` examples that the posterior has seen (its N), default those in the data; `examples`, the rows that the sum is
    over, default all of the data; `gamma`, the localisation, with the others as in `llc`; four chains or more.
    Err: one standard error over draws and chains (jackknife over chains), with what heat of minibatches and want of rest
    may add. That the data are one sample is left out: `how["data_err"]` is that part, the spread of the terms over √n.
    `how` holds the training loss of Bayes prediction T ("training"), that of one draw in the mean ("gibbs"), V, ν = V/2
    ("nu", with its err), and `flags`: as for `llc`; examples whose loss varies by more than 0.4, for which V is
    unsure; a loss of all data that is not the mean of the examples'.
    Cost: as `llc`, and every few draws the losses of all examples of all chains in one pass, as much again at most;
    memory for examples x chains x 30 to 700 visits. Raises `BadOption`, `Diverged`.
    Regime: w* near a local minimum that the posterior at β = 1 stays around; examples independent given w.
    Ref: Watanabe, arXiv:1004.2316, equation 6; flags: Vehtari, Gelman and Gabry, arXiv:1507.04544.

    >>> import torch
    >>> x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    >>> y = x.sum(1, keepdim=True) + torch.randn(200, 1, generator=torch.Generator().manual_seed(1))
    >>> net = torch.nn.Linear(3, 1, bias=False)
    >>> _ = net.weight.data.copy_(torch.linalg.lstsq(x, y).solution.T)
    >>> snap = Snapshot(net, lambda m, d: (m(d[0]) - d[1]).square().mean() / 2, (x, y))
    >>> got = waic(snap, gamma=1e-3, budget=500)
    >>> abs(got.value - got.how["at_center"] - 3 / 200) < 0.003                  # d/n above the least loss, as AIC has it
    True
    """
    value, err, how = _measured(snap, gamma, n, examples, batch, chains, budget, names, seed)
    return Reading(float(value[0]), float(err[0]), "nats", how)


@observable(symbol="ν", of="snapshot", cost="chains x budget gradients, twice at most", ref="arXiv:1004.2316")
def singular_fluctuation(
    snap: Snapshot,
    *,
    gamma: float | None = None,
    n: int | None = None,
    examples: Any = None,
    batch: int | None = None,
    chains: int | None = None,
    budget: int = 2000,
    names: Sequence[str] | None = None,
    seed: int = 0,
) -> Reading:
    """The singular fluctuation ν at β = 1: by how much, times n, training loss flatters a Bayesian on either side.

        ν = V/2,   V = Σ Var_w ℓᵢ(w),    w ~ exp(-Σ ℓᵢ(w) - (γ/2) |w - w*|²)

    For a regular model that holds the truth ν = λ = d/2; where it is singular ν and λ part. Above the loss of the truth,
    in the mean over data sets and times n: Bayes prediction λ on new data, λ - 2ν on its own; one draw λ + ν and λ - ν.
    `how` as for `waic`, of which this is the other half, in one trace on the strip; so are arguments, cost and flags.
    Err: one standard error over draws and chains (jackknife over chains), with what heat of minibatches and want of rest
    may add. That the data are one sample is left out: `how["data_err_nu"]`.
    Ref: Watanabe, arXiv:1004.2316, equations 13 and 14.

    >>> import torch
    >>> x = torch.randn(400, 3, generator=torch.Generator().manual_seed(0))
    >>> y = x.sum(1, keepdim=True) + torch.randn(400, 1, generator=torch.Generator().manual_seed(1))
    >>> net = torch.nn.Linear(3, 1, bias=False)
    >>> _ = net.weight.data.copy_(torch.linalg.lstsq(x, y).solution.T)
    >>> snap = Snapshot(net, lambda m, d: (m(d[0]) - d[1]).square().mean() / 2, (x, y))
    >>> abs(singular_fluctuation(snap, gamma=1e-3, budget=500).value - 1.5) < 0.3                             # d/2
    True
    """
    value, err, how = _measured(snap, gamma, n, examples, batch, chains, budget, names, seed)
    return Reading(float(value[1]), float(err[1]), "", how)


def _measured(
    snap: Snapshot, gamma: float | None, n: int | None, examples: Any, batch: int | None, chains: int | None, budget: int,
    names: Sequence[str] | None, seed: int,
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:  # fmt: skip
    """(WAIC, ν), their errors, and how."""
    loss = StackedLoss(snap, names=names)
    data = snap.data if examples is None else examples
    total, size = count(data), examples_in(snap.data)
    n = n or size
    if n < 2:
        raise BadOption("the data hold no examples to count, so the posterior has no n: give n")
    chosen = settings(loss, snap, float(n), gamma, n, batch, chains, budget)
    every = pace(chosen, size, total)
    keep = int((1 - WARM) * budget / every) * chosen.chains
    if chosen.chains < 4 or keep * total > ROOM:
        raise BadOption(
            f"an error over chains needs four of them, got chains = {chosen.chains}" if chosen.chains < 4 else
            f"the losses of {total} examples in {chosen.chains} chains would take {keep * total >> 18} MB: give `examples` of at "
            f"most {ROOM // keep}, or fewer chains"
        )  # fmt: skip
    with snap.quiet():
        look = Losses(loss, {"the examples": data}, chosen.batch or size or total, apart=True)

    def visit(w: Tensor, t: int) -> np.ndarray | None:
        return None if t % every else look(w)

    got, energy = sampled(snap, loss, chosen, seed, visit=visit)
    said = judged(got, order(got, energy), chosen, len(loss.center))
    base = look.base[0].double().cpu().numpy()
    parts = np.stack([_moments(x) for x in traces(got)[0]])
    found, err = jackknife(parts, lambda m: _criteria(m, base, n))
    heat = lean(said) * np.array([abs(found[1]) / n * 2 + abs(found[3] - base.mean()) / 2, abs(found[1])])
    terms, wild = _terms(parts.mean(0), base)
    flags = [*said.flags, *_doubts(snap, loss, look, examples is None, wild)]
    how = {
        "n": n, "gamma": chosen.gamma, **got.how, "gradients": got.how["gradients"] + energy.anchors, "visits": len(traces(got)[1]),
        "training": float(found[2]), "gibbs": float(found[3]), "at_center": float(base.mean()), "V": float(2 * found[1]),
        "nu": float(found[1]), "nu_err": float(np.hypot(err[1], heat[1])), "data_err": float(terms.std() / total**0.5),
        "data_err_nu": float(n / 2 * wild.std() / total**0.5), "llc": said.mean.mean, "flags": flags,
    }  # fmt: skip
    return found[:2], np.hypot(err[:2], heat), how


def _moments(losses: np.ndarray) -> np.ndarray:
    """Means over a chain's visits (visits, n) of e^{-x}, x, x², for x the loss over that at w*: (3, n)."""
    x = losses.astype(np.float64)
    return np.stack([np.exp(-x).mean(0), x.mean(0), (x * x).mean(0)])


def _terms(m: np.ndarray, base: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each example's term of WAIC, and its variance."""
    spread = m[2] - m[1] ** 2
    return base - np.log(m[0]) + spread, spread


def _criteria(m: np.ndarray, base: np.ndarray, n: int) -> np.ndarray:
    """WAIC, ν, the training loss of Bayes prediction and of one draw."""
    terms, spread = _terms(m, base)
    return np.array([terms.mean(), n * spread.mean() / 2, (terms - spread).mean(), (base + m[1]).mean()])


def _doubts(snap: Snapshot, loss: StackedLoss, look: Losses, whole: bool, spread: np.ndarray) -> list[str]:
    doubts = []
    if many := int((spread > WILD).sum()):
        doubts.append(
            f"{many} of {len(spread)} examples have losses that vary by more than {WILD}: WAIC is unsure there"
        )
    if whole and (said := mixed(loss, look, snap)):
        doubts.append(f"{said}: it mixes or weighs them, so that the posterior is not that of independent examples")
    return doubts
