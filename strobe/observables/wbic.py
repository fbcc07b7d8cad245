"""The free energy of the place where training is: WBIC, the loss of all examples, averaged at temperature log n."""

from collections.abc import Sequence
from math import log

from strobe.core.cards import observable
from strobe.core.data import examples_in
from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot
from strobe.core.stacked import StackedLoss
from strobe.observables.local_draws import judged, order, sampled, settings
from strobe.observables.local_visits import Losses


@observable(symbol="WBIC", of="snapshot", cost="chains x budget gradients", ref="arXiv:1208.6338")
def wbic(
    snap: Snapshot,
    *,
    gamma: float | None = None,
    n: int | None = None,
    batch: int | None = None,
    chains: int | None = None,
    budget: int = 2000,
    names: Sequence[str] | None = None,
    seed: int = 0,
) -> Reading:
    """The widely applicable Bayesian information criterion around the snapshot, in nats for all n examples.

        WBIC = E_β[n L(w)] = n L(w*) + λ̂ log n,   w ~ exp(-β n L(w) - (γ/2) |w - w*|²),   β = 1 / log n

    with L the mean negative log-likelihood of the snapshot's data: what it says of a loss that is none (accuracy, a
    squared error without its noise) has no unit of evidence. To compare two snapshots, take one γ and one n: the lower
    WBIC has the larger share of the posterior, to log n and but for terms of order 1.

    Args: `n` examples that the posterior has seen, default those in the data, which then stand for more; `gamma`, the
    localisation, as in `llc`, with the others.
    Err: one standard error of λ̂ log n over draws and chains, as for `llc`. Left out: that the data are one sample (n L(w*)
    of another differs by √n), and terms of order log log n and 1 between WBIC and the free energy.
    `how` holds n L(w*) ("loss_term"), λ̂ ("llc"), its err, and `flags` as for `llc`.
    Cost: chains x budget gradients, in stacks, and one loss of all data. Regime: w* near a local minimum, n >= 3.
    Raises `BadOption`, and `Diverged` where no step keeps the chains near w*.
    Ref: Watanabe, arXiv:1208.6338, definition 1 and theorem 4; departures: one neighbourhood, a normal prior around w*.

    >>> import torch
    >>> x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    >>> net = torch.nn.Linear(3, 1, bias=False)
    >>> snap = Snapshot(net, lambda m, d: (m(d[0]) - d[1]).square().mean() / 2, (x, net(x).detach()))
    >>> got = wbic(snap, gamma=1e-3, budget=500)
    >>> abs(got.value - 1.5 * log(100)) < 3 * got.err < 0.6                                        # (d/2) log n
    True
    """
    loss = StackedLoss(snap, names=names)
    size = n or examples_in(snap.data)
    if size < 3:
        raise BadOption("log n of WBIC needs three examples or more: give n, or data that hold examples to count")
    chosen = settings(loss, snap, size / log(size), gamma, size, batch, chains, budget)
    with snap.quiet():
        base = float(Losses(loss, {"the data": snap.data}, chosen.batch or 0).base)
    got, energy = sampled(snap, loss, chosen, seed)
    said = judged(got, order(got, energy), chosen, len(loss.center))
    c = said.mean
    how = {
        "n": size, "nbeta": chosen.nbeta, "gamma": chosen.gamma, "loss_term": size * base, "llc": c.mean, "llc_err": c.err,
        **got.how, "gradients": got.how["gradients"] + energy.anchors, "rhat": round(c.rhat, 4), "ess": round(c.ess, 1),
        "flags": said.flags,
    }  # fmt: skip
    return Reading(size * base + log(size) * c.mean, log(size) * c.err, "nats", how)
