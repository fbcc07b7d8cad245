"""Recursive feature machines as the formulas are written: a d x d metric, in double precision. Slow and obvious."""

import torch
from torch import Tensor


def dense_rfm(
    X: Tensor, y: Tensor, at: Tensor, *, bandwidth: float, ridge: float, iterations: int, centred: bool
) -> list[tuple[Tensor, Tensor]]:
    """[(AGOP, predictions at other rows)] of each iterate, with M scaled to a largest entry of 1."""
    at, X, y = at.double() - X.double().mean(0), X.double() - X.double().mean(0), y.double()
    n, d = X.shape
    M, found = torch.eye(d, dtype=torch.float64), []
    for _ in range(iterations + 1):
        gap = X[:, None] - X[None]
        D = torch.einsum("ijd,de,ije->ij", gap, M, gap).clamp_min(0).sqrt()
        D.fill_diagonal_(0)
        K = torch.exp(-D / bandwidth)
        alpha = torch.linalg.solve(K + ridge * torch.eye(n, dtype=torch.float64), y)
        W = torch.where(D > 1e-10, alpha[:, None] * K / D.clamp_min(1e-300), 0.0)
        g = torch.einsum("ij,ijd->jd", W, gap) @ M / bandwidth
        shifted = g - g.mean(0) if centred else g
        agop = shifted.T @ shifted / n
        away = at[:, None] - X[None]
        found.append((agop, torch.exp(-torch.einsum("ijd,de,ije->ij", away, M, away).sqrt() / bandwidth) @ alpha))
        M = agop / agop.max()
    return found
