"""Directions that tell two groups of rows apart, each by its formula; all turn with the rows and scale with them."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit
from torch import Tensor
from torch.nn.functional import softplus

from strobe.numerics.rfm import Span

NEWTON = 800  # rows up to which a Cholesky factor of their Gram matrix is cheaper than passes of L-BFGS
SMALL = 1e-6  # of the gradient at which Newton's method ends


def difference_of_means(Z: Tensor, y: Tensor) -> Tensor:
    """v = mean of the rows with y > 0 minus mean of the others: (c, k) for y (c, n)."""
    on = (y > 0).to(Z)
    off = 1 - on
    return on @ Z / on.sum(1, keepdim=True) - off @ Z / off.sum(1, keepdim=True)


def ridge_path(Z: Tensor, y: Tensor, penalties: Sequence[float]) -> Tensor:
    """v = (ZᵀZ/n + λ s I)⁻¹ Zᵀy/n on centred rows and labels, s the mean square of a row: (penalties, c, k) for y (c, n).

    One Gram matrix, the smaller, serves every penalty and every labelling; a Cholesky factor each penalty (n³/3 where an
    eigendecomposition takes about 9 n³).
    """
    Z = Z - Z.mean(0)
    y = y.to(Z) - y.to(Z).mean(1, keepdim=True)
    n, k = Z.shape
    s = float(Z.square().sum() / n) or 1.0  # rows that are all the same: v = 0
    G = Z @ Z.T if n <= k else Z.T @ Z
    eye = torch.eye(len(G), dtype=G.dtype, device=G.device)
    roots = torch.linalg.cholesky(torch.stack([G + p * s * n * eye for p in penalties]))
    if n <= k:
        return torch.cholesky_solve(y.T.expand(len(penalties), -1, -1), roots).mT @ Z
    return torch.cholesky_solve((y @ Z).T.expand(len(penalties), -1, -1), roots).mT


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

    y (n,) is taken by its sign. From the heaviest penalty to the lightest, each starting at the last one's, in double: Newton's method in
    the span of the rows where there are few rows and many features, else L-BFGS (SciPy).
    """
    mean = Z.mean(0)
    X = (Z - mean).double()
    s = math.sqrt(float(X.square().sum()) / len(X))
    few = len(X) <= min(NEWTON, 2 * X.shape[1])
    found = (_newton if few else _lbfgs)(X / s, torch.where(y > 0, 1.0, -1.0).to(X), sorted(penalties, reverse=True))
    v = torch.stack([found[p][0] for p in penalties]) / s
    return v.to(Z), torch.stack([found[p][1] for p in penalties]).to(Z) - v.to(Z) @ mean


def _newton(X: Tensor, t: Tensor, penalties: Sequence[float]) -> dict[float, tuple[Tensor, Tensor]]:
    """v = Xᵀa, f = X v + b: each step solves (K + nλ W⁻¹) a + b = f + W⁻¹g with Σ a = 0, K = XXᵀ, g = tσ(−tf), W = σ(f)σ(−f)."""
    n, K, found = len(X), X @ X.T, {}
    a, b, f = torch.zeros_like(t), t.new_zeros(()), torch.zeros_like(t)

    def loss(a: Tensor, f: Tensor, p: float) -> float:
        return float(softplus(-t * f).mean() + p / 2 * (a @ (K @ a)))

    for p in penalties:
        now = loss(a, f, p)
        for _ in range(100):
            g = t * torch.sigmoid(-t * f)
            e = p * a - g / n
            if float(e @ (K @ e)) <= SMALL**2 and abs(float(g.mean())) <= SMALL:
                break
            w = (torch.sigmoid(f) * torch.sigmoid(-f)).clamp_min(1e-12).sqrt()
            B = w[:, None] * K * (w / (n * p))
            B.diagonal().add_(1)
            u = torch.cholesky_solve(torch.stack([w * f + g / w, w], 1), torch.linalg.cholesky(B))
            shift = (w @ u[:, 0]) / (w @ u[:, 1])
            da, db, step = w * (u[:, 0] - shift * u[:, 1]) / (n * p) - a, shift - b, 1.0
            df = K @ da + db
            while (then := loss(a + step * da, f + step * df, p)) > now + 1e-15 and step > 1e-6:
                step /= 2
            a, b, f, now = a + step * da, b + step * db, f + step * df, then
        found[p] = (X.T @ a, b)
    return found


def _lbfgs(X: Tensor, t: Tensor, penalties: Sequence[float]) -> dict[float, tuple[Tensor, Tensor]]:
    x, sign = X.cpu().numpy(), t.cpu().numpy()
    n, k = x.shape
    start, found = np.zeros(k + 1), {}
    for p in penalties:

        def value(w, p=p):  # type: ignore[no-untyped-def]
            margin = sign * (x @ w[:k] + w[k])
            pull = -sign * expit(-margin) / n
            loss = np.logaddexp(0, -margin).mean() + p / 2 * (w[:k] @ w[:k])
            return loss, np.append(x.T @ pull + p * w[:k], pull.sum())

        start = minimize(value, start, jac=True, method="L-BFGS-B", options={"maxiter": 300, "gtol": 1e-5}).x
        found[p] = (torch.from_numpy(start[:k]).to(X), torch.tensor(start[k]).to(X))
    return found


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
