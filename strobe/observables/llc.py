"""The local learning coefficient of a snapshot: how degenerate the place is that training has found."""

from collections.abc import Sequence

from strobe.core.cards import observable
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot
from strobe.core.stacked import StackedLoss
from strobe.observables.local_draws import judged, order, sampled, settings


@observable(symbol="λ̂", of="snapshot", cost="chains x budget gradients", ref="arXiv:2308.12108")
def llc(
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
    """The local learning coefficient λ̂ at the snapshot's parameters w*, at inverse temperature N.

        λ̂ = N E[L(w) - L(w*)],   w ~ exp(-N L(w) - (γ/2) |w - w*|²)                 N = nβ: `nbeta`, γ: `gamma`

    with L the loss over all of the snapshot's data. Step size, preconditioner and burn-in are found by the chains
    (`strobe.numerics.local_posterior`); what is chosen is a budget, gradients of each chain.

    Args: `nbeta`, default n / log n, with `n` the number of examples in the data, or as given; `gamma`, default the
    parameters per |w*|², between 1 and 10,000: a displacement as long as w* itself is one that is allowed; `batch`,
    examples a gradient is of: all, up to 512 and 32 MiB of activations, else 8 to 128, about 8 MiB (a size that leaves
    least over: `how["examples"]` are used),
    with losses, and gradients where that is cheap, as differences from those of w* on the same batch;
    `chains`, default 64 for small models down to 8; `names` of parameters that vary, default all trainable.
    Err: one standard error of the mean over draws and chains, autocorrelation and disagreement of chains included, with
    half of what the noise of minibatches may add (as much is taken off the value), and what the chains are off their rest. It is
    of λ̂ at this N and γ: how far that is from the learning coefficient λ (for N → ∞) it leaves out, and that the data
    stand for a population.
    `how` holds what was chosen and seen, and `flags`: sentences on what makes the number doubtful, none where it is
    not. A negative value is never without one: then chains found a lower loss, and w* is no minimum at this scale.
    `how["variance"]` is N² Var(ΔL), which is λ too where the multiplicity is 1 and every gradient of all the data.
    Cost: chains x budget gradients, in stacks; the memory of `chains` copies of parameters and activations.
    Regime: w* near a local minimum. Raises `BadOption`, and `Diverged` where no step keeps the chains near w*.
    Ref: Lau, Furman, Wang, Murfet, Wei, arXiv:2308.12108, equation 14; departures: sampler, calibration, pairing.

    >>> import torch
    >>> x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    >>> net = torch.nn.Linear(3, 1, bias=False)
    >>> data = x, net(x).detach()
    >>> snap = Snapshot(net, lambda m, d: (m(d[0]) - d[1]).square().mean() / 2, data)
    >>> got = llc(snap, nbeta=1000, gamma=1, budget=500)
    >>> abs(got.value - 1.5) < 3 * got.err < 0.15, got.how["flags"]                             # d/2: it is regular
    (True, [])
    """
    loss = StackedLoss(snap, names=names)
    chosen = settings(loss, snap, nbeta, gamma, n, batch, chains, budget)
    got, energy = sampled(snap, loss, chosen, seed)
    said = judged(got, order(got, energy), chosen, len(loss.center))
    c = said.mean
    how = {
        "nbeta": chosen.nbeta, "gamma": chosen.gamma, **got.how, "gradients": got.how["gradients"] + energy.anchors,
        "examples": energy.used, "heat": round(said.heat, 4), "unrest": round(said.off, 4), "rhat": round(c.rhat, 4),
        "ess": round(c.ess, 1), "variance": c.variance, "distance": float((got.w - loss.center).norm(dim=1).mean()),
        "exact_gradients": chosen.batch is None,
        "flags": said.flags,
    }  # fmt: skip
    return Reading(c.mean, c.err, "", how)
