"""The slow, obvious ones: the whole Hessian by double differentiation, and LAPACK on it."""

import torch
from torch import Tensor

from strobe.core.snapshot import Snapshot


def dense_top(matrix: Tensor, k: int) -> Tensor:
    """The k largest eigenvalues of a symmetric matrix, descending, in float64."""
    return torch.linalg.eigvalsh((matrix + matrix.T).double() / 2).flip(0)[:k]


def dense_hessian(snap: Snapshot) -> Tensor:
    """(P, P), one `Snapshot.hvp` a column."""
    params = snap.params()
    sizes = [p.numel() for p in params.values()]
    columns = []
    for e in torch.eye(sum(sizes), dtype=next(iter(params.values())).dtype):
        v = {name: x.view_as(p) for (name, p), x in zip(params.items(), e.split(sizes), strict=True)}
        hv = snap.hvp(v)
        columns.append(torch.cat([hv[name].reshape(-1) for name in params]))
    return torch.stack(columns, 1)
