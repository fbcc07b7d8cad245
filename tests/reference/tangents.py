"""The tangent kernel one gradient at a time."""

import torch
from torch import Tensor, nn


def slow_ntk(model: nn.Module, x: Tensor, other: Tensor | None = None, names: set[str] | None = None) -> Tensor:
    """(n, k, m, k): every example alone, every output alone."""
    params = [p for k, p in model.named_parameters() if p.requires_grad and (names is None or k in names)]

    def jacobian(rows: Tensor) -> Tensor:
        found = []
        for one in rows:
            out = model(one[None]).flatten()
            grads = [
                torch.autograd.grad(o, params, retain_graph=True, allow_unused=True, materialize_grads=True)
                for o in out
            ]
            found.append(torch.stack([torch.cat([g.flatten() for g in gs]) for gs in grads]))
        return torch.stack(found)

    a = jacobian(x)
    b = a if other is None else jacobian(other)
    return torch.einsum("ikp,jlp->ikjl", a, b)
