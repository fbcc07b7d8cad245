"""Which training examples move which predictions, without a Hessian: covariances of losses over the posterior."""

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
from strobe.numerics.covariance import covariances
from strobe.numerics.local_posterior import WARM
from strobe.observables.local_draws import judged, order, sampled, settings
from strobe.observables.local_visits import Losses, lean, mixed, pace, traces

ROOM = 1 << 27  # losses that are kept: 512 MB


@observable(symbol="BIF", of="snapshot", cost="chains x budget gradients, twice at most", ref="arXiv:2509.26544")
def influence(
    snap: Snapshot,
    *,
    queries: Any = None,
    examples: Any = None,
    nbeta: float | None = None,
    gamma: float | None = None,
    n: int | None = None,
    batch: int | None = None,
    chains: int | None = None,
    budget: int = 2000,
    names: Sequence[str] | None = None,
    correlation: bool = False,
    seed: int = 0,
) -> Reading:
    """The Bayesian influence of each training example on the loss of each query, (examples, queries).

        BIF_ij = -Cov(ℓᵢ(w), ℓⱼ(w)),     w ~ exp(-N L(w) - (γ/2) |w - w*|²)

    with ℓ the loss of one example alone, L that of all of the snapshot's data. It is dE[ℓⱼ]/dβᵢ, where βᵢ weighs ℓᵢ in
    exp(-Σ βᵢ ℓᵢ): one more copy of example i among n moves query j's mean loss by (N/n) BIF_ij, to first order.
    Negative: i teaches what j needs; positive: i and j contradict each other. No Hessian is inverted: where it can be,
    N BIF tends to the classical influence function, -∂ℓᵢ H⁻¹ ∂ℓⱼ, as N grows.

    Args: `queries`, data of the same form (default the examples themselves: a symmetric matrix); `examples`, the rows,
    default all of the data, from which the chains draw in any case; `correlation`: -Corr(ℓᵢ, ℓⱼ) instead, between -1
    and 1, for examples whose losses vary by different orders; the others as for `llc`.
    Err: one standard error over draws and chains (batch means of the products; `strobe.numerics.covariance`), with what
    heat of minibatches and chains that still move may add. `how["flags"]` as for `llc`, and where the loss of all is
    not the mean of the examples' (it then mixes them, or weighs them). Raises `BadOption` where data cannot be taken
    apart by the first dimension of their tensors, or are too many to keep; `Diverged`.
    Cost: as `llc`, and every few draws the losses of all examples and queries of all chains in one pass, as much
    again at most; memory for (examples + queries) x chains x 30 to 700 visits.
    Regime: as `llc`; the loss of an example depends on that example alone (eval mode, no statistics of the batch).
    Ref: Kreer, Wu, Adam, Furman, Hoogland, arXiv:2509.26544, the local BIF; departures: sampler, errors.

    >>> import torch
    >>> x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> y = torch.tensor([[1.0], [-1.0], [1.0], [1.1]])                          # 0 and 1 contradict, 2 and 3 agree
    >>> net = torch.nn.Linear(2, 1, bias=False)
    >>> _ = net.weight.data.copy_(torch.tensor([[0.0, 1.05]]))
    >>> snap = Snapshot(net, lambda m, d: (m(d[0]) - d[1]).square().mean() / 2, (x, y))
    >>> got = influence(snap, nbeta=40, gamma=1.0, budget=500)
    >>> np.sign(np.round(got.value / got.err / 6)).tolist()
    [[-1.0, 1.0, 0.0, 0.0], [1.0, -1.0, 0.0, 0.0], [0.0, 0.0, -1.0, -1.0], [0.0, 0.0, -1.0, -1.0]]
    """
    loss = StackedLoss(snap, names=names)
    rows = snap.data if examples is None else examples
    sets = {"the examples": rows} | ({} if queries is None else {"the queries": queries})
    for data in sets.values():
        count(data)
    size, total = examples_in(snap.data), sum(map(count, sets.values()))
    chosen = settings(loss, snap, nbeta, gamma, n, batch, chains, budget)
    every = pace(chosen, size, total)
    keep = int((1 - WARM) * budget / every) * chosen.chains
    if keep * total > ROOM:
        raise BadOption(
            f"the losses of {total} examples in {chosen.chains} chains would take {keep * total >> 18} MB: give `examples` and "
            f"`queries` of at most {ROOM // keep} together, or fewer chains"
        )
    with snap.quiet():
        look = Losses(loss, sets, chosen.batch or size or total, apart=True)

    def visit(w: Tensor, t: int) -> np.ndarray | None:
        return None if t % every else look(w)

    got, energy = sampled(snap, loss, chosen, seed, visit=visit)
    seen, at = traces(got)
    one = seen[..., : look.columns[0]]
    two = one if queries is None else seen[..., look.columns[0] :]
    cov = covariances(one, two, correlation=correlation)
    llc = judged(got, order(got, energy), chosen, len(loss.center))
    flags = llc.flags
    if cov.widen > 2:
        flags.append(
            f"chains disagree on covariances {cov.widen:.1f} times more than their draws: give a larger budget"
        )
    if examples is None and (said := mixed(loss, look, snap)):
        flags.append(f"{said}: it mixes or weighs them, so that one more copy of an example is not what BIF says")
    how = {
        "nbeta": chosen.nbeta, "gamma": chosen.gamma, **got.how, "gradients": got.how["gradients"] + energy.anchors, "visits": len(at),
        "llc": llc.mean.mean, "widen": round(cov.widen, 3), "correlation": correlation, "flags": flags,
    }  # fmt: skip
    err = np.hypot(cov.err, (0.0 if correlation else lean(llc)) * np.abs(cov.value))
    return Reading(-cov.value, err, "", how)
