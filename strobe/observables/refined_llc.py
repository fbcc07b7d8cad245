"""The local learning coefficient of each part of a network, all parts in one stack."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from strobe.core.cards import observable
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot
from strobe.core.stacked import StackedLoss
from strobe.observables.local_draws import judged, order, sampled, settings
from strobe.observables.local_parts import masks_of


@observable(symbol="λ̂(part)", of="snapshot", cost="parts x chains x budget gradients", ref="arXiv:2410.02984")
def refined_llc(
    snap: Snapshot,
    *,
    parts: Mapping[str, Sequence[str] | str] | None = None,
    nbeta: float | None = None,
    gamma: float | None = None,
    n: int | None = None,
    batch: int | None = None,
    chains: int = 4,
    budget: int = 1000,
    seed: int = 0,
) -> Reading:
    """λ̂ with only one part of the parameters free and the rest at w*, for each part; an array in their order.

        λ̂_C = N E[L(w) - L(w*)],   w_C ~ exp(-N L(w_C, w*) - (γ/2) |w_C - w*_C|²)                         C: a part

    On other data (a sub-distribution) it is the data-refined coefficient: give the snapshot those, with
    `dataclasses.replace(snap, data=...)`.

    Args: `parts` names each part and what it is made of: patterns of parameter names ("blocks.0.attn.*"), or sites of a
    piece of one ("blocks.0.attn.q:param.weight/4@0[2]": of 4 equal pieces along dimension 0 the third, a head's
    queries); by default every module that owns parameters is a part. `chains` of each part; the others as for `llc`,
    with γ from all trainable parameters. `how["labels"]` has the names, `how["flags"]` sentences by name.
    Err, Regime: as for `llc`, of each part. Raises `BadOption`, `SiteNotFound`, `Diverged`.
    Cost: all parts go through the model together, chains x parts copies; parts are small, so few chains each do.
    Ref: Wang, Hoogland, van Wingerden, Furman, Murfet, arXiv:2410.02984, section 3.

    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 2, bias=False), torch.nn.Linear(2, 2, bias=False))
    >>> x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    >>> snap = Snapshot(net, lambda m, d: (m(d[0]) - d[1]).square().mean(), (x, net(x).detach()))
    >>> got = refined_llc(snap, nbeta=1e5, gamma=1.0)                      # rank of each Jacobian / 2: 6/2 and 4/2
    >>> got.how["labels"], [round(v) for v in got.value]
    (['0', '1'], [3, 2])
    """
    whole = StackedLoss(snap)
    masks = masks_of(whole, parts)
    labels, count = list(masks), len(masks)
    chosen = settings(whole, snap, nbeta, gamma, n, batch, chains * count, budget)
    free = torch.stack(list(masks.values()))
    kept = {name: x.flatten(1) for name, x in whole.split(free).items() if bool(x.any())}  # no gradients of the others
    moves = [[n for n in kept if bool(kept[n][i].any())] for i in range(count) for _ in range(chains)]
    loss = StackedLoss(snap, names=list(kept), moves=moves)
    free = torch.cat(list(kept.values()), 1).repeat_interleave(chains, 0)
    groups = torch.arange(count).repeat_interleave(chains)
    got, energy = sampled(snap, loss, chosen, seed, free=free, groups=groups)
    batches = order(got, energy)
    values, errs, flags = [], [], {}
    for i, label in enumerate(labels):
        mine = slice(i * chains, (i + 1) * chains)
        said = judged(got, batches, chosen, int(masks[label].sum()), chains=mine)
        values.append(said.mean.mean)
        errs.append(said.mean.err)
        if said.flags:
            flags[label] = said.flags
    how = {
        "labels": labels, "parameters": [int(m.sum()) for m in masks.values()], "nbeta": chosen.nbeta, "gamma": chosen.gamma, **got.how,
        "gradients": got.how["gradients"] + energy.anchors, "chains": chains, "flags": flags,
    }  # fmt: skip
    return Reading(np.array(values), np.array(errs), "", how)
