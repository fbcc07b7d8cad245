"""The learning coefficient from the spread of the loss over the posterior, beside the one from its mean."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from strobe.core.cards import observable
from strobe.core.data import examples_in
from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot
from strobe.core.stacked import StackedLoss
from strobe.numerics.jackknife import jackknife
from strobe.observables.local_draws import judged, order, sampled, settings
from strobe.observables.local_visits import Losses, lean, pace, traces

APART = 0.25  # of the mean, from which a variance that differs is told


@observable(symbol="λ̂ᵥ", of="snapshot", cost="chains x budget gradients, twice at most", ref="arXiv:1208.6338")
def posterior_variance(
    snap: Snapshot,
    *,
    nbeta: float | None = None,
    gamma: float | None = None,
    n: int | None = None,
    batch: int | None = None,
    chains: int | None = None,
    budget: int = 2000,
    names: Sequence[str] | None = None,
    seed: int = 0,
) -> Reading:
    """The learning coefficient as the variance of the loss over the local posterior.

        λ̂ᵥ = N² Var(L(w)),   w ~ exp(-N L(w) - (γ/2) |w - w*|²)

    L over all of the snapshot's data at every draw that counts. It does not know L(w*): so it is right, where `llc` is
    negative, at a snapshot that is not the minimum of a valley the chains are in. At multiplicity 1 and N → ∞, N ΔL is
    Gamma(λ, 1), whose mean and variance are both λ; with directions of curvature h it is Σ ½ (N h / (N h + γ))², below
    `llc` where γ holds some of them. Where it is more than 25% off the mean, a flag says so. A multiplicity m hardly
    shows in it: it takes (m - 1) / log² N from the variance only.

    Args: as for `llc`; four chains or more.
    Err: one standard error, by the jackknife over chains, with what heat of minibatches and want of rest may add. Of λ̂ᵥ at
    this N and γ; about √(2λ + 6) times that of `llc` from the same draws: a check, and a second opinion.
    Cost: as `llc`; with minibatches every few draws the loss of all data, as much again. Raises as `llc`.
    Regime: as `llc`, but for w* at the minimum.
    Ref: Watanabe, arXiv:1208.6338 (E_β[nL] falls as λ/β, so that β² Var_β[nL] is λ); Imai 2019, Estimating real log canonical thresholds.

    >>> import torch
    >>> x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    >>> net = torch.nn.Linear(4, 1, bias=False)
    >>> snap = Snapshot(net, lambda m, d: (m(d[0]) - d[1]).square().mean() / 2, (x, net(x).detach()))
    >>> got = posterior_variance(snap, nbeta=1000, gamma=1, budget=800)
    >>> abs(got.value - 2) < 3 * got.err < 0.3                                                              # d/2
    True
    """
    loss = StackedLoss(snap, names=names)
    chosen = settings(loss, snap, nbeta, gamma, n, batch, chains, budget)
    if chosen.chains < 4:
        raise BadOption(f"an error over chains needs four of them, got chains = {chosen.chains}")
    visit = None
    if chosen.batch is not None:
        size = examples_in(snap.data)
        every = pace(chosen, size, size)
        with snap.quiet():
            look = Losses(loss, {"the data": snap.data}, chosen.batch)

        def visit(w: Tensor, t: int) -> np.ndarray | None:
            return None if t % every else look(w)

    got, energy = sampled(snap, loss, chosen, seed, visit=visit)
    said = judged(got, order(got, energy), chosen, len(loss.center))
    x = chosen.nbeta * (got.losses if visit is None else traces(got)[0][..., 0].astype(float))
    x = x - x.mean()
    value, err = jackknife(np.stack([x.mean(1), (x * x).mean(1)], 1), lambda m: m[1] - m[0] ** 2)
    mean, flags = said.mean, list(said.flags)
    if abs(float(value) - mean.mean) > APART * abs(mean.mean) + 2 * float(np.hypot(err, mean.err)):
        flags.append(
            f"mean {mean.mean:.3g} and variance {float(value):.3g} of N ΔL differ: gamma, not the loss, holds some directions, "
            "there are valleys of several kinds, or w* is no minimum"
        )
    how = {
        "nbeta": chosen.nbeta, "gamma": chosen.gamma, **got.how, "gradients": got.how["gradients"] + energy.anchors,
        "mean": mean.mean, "mean_err": mean.err, "flags": flags,
    }  # fmt: skip
    return Reading(float(value), float(np.hypot(err, lean(said) * value)), "", how)
