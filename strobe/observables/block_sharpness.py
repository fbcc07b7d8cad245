"""The sharpness of each layer or block of a network, of its own parameters alone."""

from collections.abc import Mapping, Sequence

import numpy as np

from strobe.core.cards import observable
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot
from strobe.core.stacked import StackedLoss
from strobe.observables.curvature_operator import OutputLoss, Outputs
from strobe.observables.local_parts import masks_of
from strobe.observables.sharpness import sharpness


@observable(symbol="λ₁(part)", of="snapshot", cost="parts x 15 to 50 Hessian-vector products", ref="arXiv:1611.07476")
def block_sharpness(
    snap: Snapshot,
    *,
    parts: Mapping[str, Sequence[str] | str] | None = None,
    of: str = "hessian",
    outputs: Outputs | None = None,
    loss_of_outputs: OutputLoss | None = None,
    tol: float = 1e-3,
    missed: float = 1e-3,
    seed: int = 0,
) -> Reading:
    """λ₁ of the diagonal block of the curvature that each part of the network owns; an array in their order.

        λ₁(H_CC)        H_CC = ∂² loss / ∂θ_C²,  C the parameters of a part, the others held where they are

    Args: `parts` names each part and what it is made of, as for `refined_llc` ({"first": "0.*"}); by default every module that owns
    parameters. The others as for `sharpness`. `how["labels"]` has the names, `how["sizes"]` the numbers of parameters.
    Err, Regime: as for `sharpness`, of each part; `how["converged"]` is True when all are. Every one is at most the whole network's λ₁.
    Cost: `how["hvps"]` products, each through the part's own layers and what comes after. Raises `BadOption`, `SiteNotFound`, `Diverged`.
    Ref: Sagun and others, arXiv:1611.07476, for the whole spectrum; a block is a principal submatrix of it.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False), torch.nn.Linear(1, 1, bias=False))
    >>> _ = [p.data.fill_(1.0) for p in net.parameters()]
    >>> got = block_sharpness(Snapshot(net, lambda m, x: m(x).square().sum() / 2, torch.ones(1, 2)))
    >>> got.how["labels"], got.value.round(3).tolist()
    (['0', '1'], [2.0, 4.0])
    """
    whole = StackedLoss(snap)
    masks = masks_of(whole, parts)
    owners: dict[str, list[str]] = {}
    if parts is None:
        for name in whole.values:
            owners.setdefault(name.rpartition(".")[0] or "(the model)", []).append(name)
    chosen: Mapping[str, Sequence[str] | str] = owners if parts is None else parts
    read = [
        sharpness(
            snap, part=what, of=of, outputs=outputs, loss_of_outputs=loss_of_outputs, tol=tol, missed=missed, seed=seed
        )
        for what in chosen.values()
    ]
    how = {
        "labels": list(chosen), "sizes": [int(m.sum()) for m in masks.values()], "of": of,
        "converged": all(r.how["converged"] for r in read), "hvps": sum(r.how["hvps"] for r in read),
    }  # fmt: skip
    return Reading(np.array([r.value for r in read]), np.array([r.err for r in read]), "loss/θ²", how)
