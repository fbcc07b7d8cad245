"""The slow, obvious one: the gradient of every example alone."""

import torch

from strobe.core.snapshot import Snapshot


def noise_scale(snap: Snapshot) -> float:
    """tr Σ / |G|² from per-example gradients of (x, y) data, both with the sample's own bias taken out."""
    x, y = snap.data
    params = list(snap.model.parameters())
    rows = []
    for i in range(len(x)):
        grads = torch.autograd.grad(snap.loss(snap.model, (x[i : i + 1], y[i : i + 1])), params)
        rows.append(torch.cat([g.reshape(-1) for g in grads]).double())
    g = torch.stack(rows)
    trace = g.var(dim=0, unbiased=True).sum()
    return float(trace / (g.mean(0).square().sum() - trace / len(g)))
