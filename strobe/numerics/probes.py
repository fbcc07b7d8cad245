"""Directions that tell two groups of rows apart, each by its formula; all turn with the rows and scale with them."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor

from strobe.numerics.rfm import Span


def difference_of_means(Z: Tensor, y: Tensor) -> Tensor:
    """v = mean of the rows with y > 0 minus mean of the others: (c, k) for y (c, n)."""
    on = (y > 0).to(Z)
    off = 1 - on
    return on @ Z / on.sum(1, keepdim=True) - off @ Z / off.sum(1, keepdim=True)


def ridge_path(Z: Tensor, y: Tensor, penalties: Sequence[float]) -> Tensor:
    """v = (ZᵀZ/n + λ s I)⁻¹ Zᵀy/n on centred rows and labels, s the mean square of a row: (penalties, c, k) for y (c, n).

    One eigendecomposition of the smaller Gram matrix serves every penalty and every labelling.
    """
    Z = Z - Z.mean(0)
    y = y.to(Z) - y.to(Z).mean(1, keepdim=True)
    n, k = Z.shape
    s = float(Z.square().sum() / n)
    if n <= k:
        w, U = torch.linalg.eigh(Z @ Z.T)
        parts = y @ U
        return torch.stack([(parts / (w.clamp_min(0) + p * s * n)) @ U.T @ Z for p in penalties])
    w, U = torch.linalg.eigh(Z.T @ Z)
    parts = y @ Z @ U
    return torch.stack([(parts / (w.clamp_min(0) + p * s * n)) @ U.T for p in penalties])


def shrinkage(Z: Tensor, y: Tensor) -> float:
    """The share of tr S / k · I that Ledoit and Wolf mix into the covariance S of the rows within their groups, 0 to 1.

    δ = min(1, b² / d²), d² = ‖S − m I‖², b² = Σ_i ‖z_i z_iᵀ − S‖² / n², m = tr S / k, from the Gram matrix.
    Ref: Ledoit and Wolf 2004, lemmas 3.2 to 3.4.
    """
    Z = within(Z, y)
    n, k = Z.shape
    G = Z @ Z.T if n <= k else Z.T @ Z
    norms = Z.square().sum(1)
    trace, square = float(norms.sum()) / n, float(G.square().sum()) / n**2
    spread = square - trace**2 / k
    noise = (float(norms.square().sum()) / n - square) / n
    return 1.0 if spread <= 0 else min(1.0, noise / spread)


def within(Z: Tensor, y: Tensor) -> Tensor:
    """Rows less the mean of their group, y (n,)."""
    Z = Z.clone()
    for group in (y > 0, y <= 0):
        Z[group] -= Z[group].mean(0)
    return Z


def discriminant(Z: Tensor, y: Tensor) -> Tensor:
    """Fisher's direction v = ((1 − δ) S + δ tr S / k I)⁻¹ (mean₊ − mean₋), S within groups, δ by Ledoit and Wolf: (k,) for y (n,)."""
    delta = max(shrinkage(Z, y), 1e-6)
    W = within(Z, y)
    n, k = W.shape
    gap = difference_of_means(Z, y[None])[0]
    floor = delta * float(W.square().sum()) / n / k
    if k < n:
        A = (1 - delta) / n * W.T @ W
        A.diagonal().add_(floor)
        return torch.linalg.solve(A, gap)
    A = (1 - delta) / n * W @ W.T  # Woodbury, in the smaller space
    A.diagonal().add_(floor)
    return (gap - (1 - delta) / n * W.T @ torch.linalg.solve(A, W @ gap)) / floor


def principal_difference(Z: Tensor, y: Tensor, generator: torch.Generator) -> Tensor:
    """First principal component, uncentred, of differences of pairs drawn at random across the groups, of positive mean along it.

    The habit of representation engineering (Zou et al., arXiv:2310.01405): it follows what varies most, which need not be the concept.
    """
    on, off = (torch.nonzero(m)[:, 0] for m in (y > 0, y <= 0))
    m = min(len(on), len(off))
    on = on[torch.randperm(len(on), generator=generator)[:m]]
    off = off[torch.randperm(len(off), generator=generator)[:m]]
    D = Z[on] - Z[off]
    v = torch.linalg.eigh(D.T @ D)[1][:, -1] if D.shape[1] <= m else D.T @ torch.linalg.eigh(D @ D.T)[1][:, -1]
    v = v / v.norm()
    return v if float(D.mean(0) @ v) >= 0 else -v


def logistic_path(Z: Tensor, y: Tensor, penalties: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Minimisers of mean ln(1 + e^{−y (z·v + b)}) + λ/2 s ‖v‖² for each penalty, s the mean square of a row: v (penalties, k), b.

    y (n,) is taken by its sign. From the heaviest penalty to the lightest, each starting at the last one's; L-BFGS (SciPy), double.
    """
    X = (Z - Z.mean(0)).double().cpu().numpy()
    n, k = X.shape
    s = math.sqrt((X * X).sum() / n)
    X, t = X / s, torch.where(y > 0, 1.0, -1.0).double().cpu().numpy()
    start, found = np.zeros(k + 1), {}
    for p in sorted(penalties, reverse=True):

        def value(w, p=p):  # type: ignore[no-untyped-def]
            margin = t * (X @ w[:k] + w[k])
            pull = -t * expit(-margin) / n
            loss = np.logaddexp(0, -margin).mean() + p / 2 * (w[:k] @ w[:k])
            return loss, np.append(X.T @ pull + p * w[:k], pull.sum())

        start = minimize(value, start, jac=True, method="L-BFGS-B", options={"maxiter": 300, "gtol": 1e-5}).x
        found[p] = torch.from_numpy(start.copy())
    all_ = torch.stack([found[p] for p in penalties])
    return (all_[:, :k] / s).to(Z), all_[:, k].to(Z) - (all_[:, :k] / s).to(Z) @ Z.mean(0)


def closed_forms(span: Span, fold: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """Held-out scores of means, ridge and kernel at fixed settings for many labellings at once: three of (labellings, n).

    labels (labellings, n), true where on. Ridge penalty 0.1, Laplace kernel of bandwidth 1 (in root mean squared distances), ridge 1e-3.
    """
    Y = torch.from_numpy(np.where(labels, 1.0, -1.0)).to(span.Z)
    out = [np.zeros(Y.shape) for _ in range(3)]
    for f in np.unique(fold):
        train, hold = (torch.from_numpy(np.flatnonzero(m)) for m in (fold != f, fold == f))
        Z, H, y, part = span.Z[train], span.Z[hold], Y[:, train], span.part(train)
        K = torch.exp(-part.distances / part.size())
        K.diagonal().add_(1e-3)
        alpha = torch.linalg.solve(K, (y - y.mean(1, keepdim=True)).T)
        across = torch.exp(-span.distances[hold][:, train] / part.size())
        for got, s in zip(
            out, (difference_of_means(Z, y) @ H.T, ridge_path(Z, y, [0.1])[0] @ H.T, (across @ alpha).T), strict=True
        ):
            got[:, hold.numpy()] = s.numpy()
    return out
