"""What training added to each weight matrix: how strongly it acts, in how many directions."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from strobe.core.cards import observable
from strobe.core.errors import BadOption, Diverged
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot

COLUMNS = ("action", "stable rank")


@observable(symbol="σ₁(ΔW)", of="snapshot", cost="one singular value decomposition a matrix", ref="arXiv:2310.17813")
def update_spectrum(
    snap: Snapshot, *, start: Mapping[str, Tensor], matrices: Sequence[str] | None = None
) -> Reading:  # fmt: skip
    """Two numbers of the change ΔW = W − W_start of each weight matrix, an array (matrices, 2); `how["columns"]` names them.

        action        σ₁(ΔW) √(fan_in / fan_out)     the most by which a unit-sized input entry changes a unit's output
        stable rank   Σσ² / σ₁²                      in how many directions

    Args: start, the parameters to compare with, by name (`model.state_dict()` of the untrained model, cloned); matrices, parameter
    names, by default all trainable ones of two dimensions or more, flattened to rows of the first.
    Err: 0: nothing random enters; the spread is that over seeds of training.
    Regime: inputs whose entries are of one size at every width. An unchanged matrix has action 0 and stable rank 0.
    Raises `BadOption` for a name that is no matrix or not in `start`, other shapes; `Diverged`.
    Ref: Yang, Simon and Bernstein, arXiv:2310.17813, condition 1: features are learned where ‖ΔW‖ = Θ(√(fan_out / fan_in)).

    >>> net = torch.nn.Linear(4, 2, bias=False)
    >>> start = {"weight": net.weight.detach().clone()}
    >>> _ = net.weight.data.add_(1.0)
    >>> update_spectrum(Snapshot(net, None, None), start=start).value.round(3).tolist()
    [[4.0, 1.0]]
    """
    params = snap.params()
    names = [n for n, p in params.items() if p.ndim >= 2] if matrices is None else list(matrices)
    if not names:
        raise BadOption("no trainable matrix: name some with matrices=[...]")
    if bad := [n for n in names if n not in params or params[n].ndim < 2]:
        raise BadOption(f"{bad[0]!r} is no trainable matrix; there are {[n for n, p in params.items() if p.ndim > 1]}")
    rows = []
    for n in names:
        if n not in start or start[n].shape != params[n].shape:
            raise BadOption(f"start has no {n!r} of shape {tuple(params[n].shape)}: give the same model's parameters")
        change = (params[n] - start[n].to(params[n])).flatten(1).double()
        if not torch.isfinite(change).all():
            raise Diverged(f"{n} has entries that are NaN or infinite")
        sigma = torch.linalg.svdvals(change).square()
        out, into = change.shape
        top = float(sigma[0])
        rows.append((float((top * into / out) ** 0.5), float(sigma.sum()) / top if top > 0 else 0.0))
    value = np.array(rows)
    return Reading(value, np.zeros_like(value), "", {"labels": names, "columns": list(COLUMNS)})
