"""What the symmetries of a network keep along gradient flow: the balance of linear layers, the charge of rectified units."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from strobe.core.cards import observable
from strobe.core.errors import BadOption, SiteNotFound, near
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot


@observable(
    symbol="Q_l", of="snapshot", cost="one product of each layer's matrix, no forward pass", ref="arXiv:1810.02281"
)
def balancedness(snap: Snapshot, *, layers: Sequence[str], whole: bool = False) -> Reading:
    """How far consecutive linear layers are from balanced: the Frobenius norm of each conserved matrix, an array (pairs,).

        Q_l = W_l W_lᵀ + b_l b_lᵀ − W_{l+1}ᵀ W_{l+1}        constant along gradient flow of any loss

    Args: `layers`, module paths of `nn.Linear` in the order of the forward pass, with nothing between two of them;
    `whole`: of two layers, the matrix Q itself (h, h). `snap.data` is not used.
    Err: rounding, 4 ε (|W_l|² + |W_{l+1}|²) with ε of the parameters' type.
    Regime: any model; that the number is conserved needs linear layers that follow each other, and no weight decay.
    Raises `BadOption` for fewer than two layers, or sizes that do not meet; `SiteNotFound` for an unknown path.
    Ref: Arora, Cohen and Hazan, arXiv:1802.06509, theorem 1; Arora and others, arXiv:1810.02281, definition 1 (without biases).

    >>> net = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    >>> for layer, w in zip(net, (3.0, 2.0)): _ = nn.init.constant_(layer.weight, w)
    >>> balancedness(Snapshot(net, None, None), layers=["0", "1"]).value.tolist()
    [5.0]
    """
    weights = _weights(snap.model, layers, (nn.Linear,))
    if whole and len(weights) != 2:
        raise BadOption(f"the whole matrix is of one pair of layers, got {len(weights)} layers")
    found, errs = [], []
    for (inn, bias, _), (nxt, _, _) in pairwise(weights):
        rows = inn if bias is None else torch.cat([inn, bias[:, None]], 1)
        found.append((rows @ rows.T - nxt.T @ nxt).double().cpu().numpy())
        errs.append(4 * torch.finfo(inn.dtype).eps * float(inn.square().sum() + nxt.square().sum()))
    if whole:
        return Reading(found[0], np.full(found[0].shape, errs[0]), "θ²", {"layers": list(layers)})
    return Reading(np.array([np.linalg.norm(q) for q in found]), np.array(errs), "θ²", {"layers": list(layers)})


@observable(
    symbol="q_j", of="snapshot", cost="one sum over two layers' weights, no forward pass", ref="arXiv:2012.04728"
)
def rescale_charges(snap: Snapshot, *, layers: Sequence[str]) -> Reading:
    """The charge of every hidden unit between two layers, an array (units,).

        q_j = |w_in,j|² + b_j² − |w_out,j|²        constant along gradient flow: scaling unit j in and out undoes itself

    Args: `layers`, the paths of the layer into the units and of the one out of them, `nn.Linear` or an ungrouped
    convolution. `snap.data` is not used.
    Err: rounding, 4 ε (|w_in,j|² + |w_out,j|²).
    Regime: conserved where what is between the two is homogeneous of degree 1 (ReLU, leaky ReLU, nothing, max or average
    pooling), without normalisation, dropout, or weight decay. Raises `BadOption`, `SiteNotFound`.
    Ref: Du, Hu and Lee, arXiv:1806.00900, theorem 2.1; Kunin and others, arXiv:2012.04728, section 3.

    >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    >>> _ = nn.init.constant_(net[0].weight, 3.0), nn.init.constant_(net[2].weight, 2.0)
    >>> rescale_charges(Snapshot(net, None, None), layers=["0", "2"]).value.tolist()
    [5.0, 5.0]
    """
    if len(layers) != 2:
        raise BadOption(f"charges are of the units between two layers, got {len(layers)}")
    (inn, bias, _), (_, _, out) = _weights(snap.model, layers, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d))
    into, away = inn.double().square().sum(1), out.double().square().sum(1)
    if bias is not None:
        into = into + bias.double().square()
    err = 4 * torch.finfo(inn.dtype).eps * (into + away)
    return Reading((into - away).cpu().numpy(), err.cpu().numpy(), "θ²", {"layers": list(layers)})


def _weights(model: nn.Module, layers: Sequence[str], kinds: Any) -> list[tuple[Tensor, Tensor | None, Tensor]]:
    """Of each layer: one row for each unit it makes, its bias, one row for each unit it takes."""
    known, found = dict(model.named_modules()), []
    if isinstance(layers, str) or len(layers) < 2:
        raise BadOption(f"name at least two consecutive layers, got {layers!r}")
    for path in layers:
        if path not in known:
            raise SiteNotFound(f"the model has no module {path!r}; {near(path, known)}")
        layer: Any = known[path]
        if not isinstance(layer, kinds) or getattr(layer, "groups", 1) != 1:
            raise BadOption(
                f"{path} is a {type(layer).__name__}, and not one of {', '.join(k.__name__ for k in kinds)}"
            )
        w, b = layer.weight.detach(), layer.bias
        found.append((w.flatten(1), None if b is None else b.detach(), w.transpose(0, 1).flatten(1)))
    for i in range(len(found) - 1):
        made, taken = len(found[i][0]), len(found[i + 1][2])
        if made != taken:
            raise BadOption(
                f"{layers[i]} makes {made} units and {layers[i + 1]} takes {taken}: they do not follow each other"
            )
    return found
