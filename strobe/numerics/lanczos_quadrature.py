"""The spectral density of a symmetric operator by stochastic Lanczos quadrature, with what converges taken out exactly."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

CLOSED = 1e-3  # a Ritz pair whose residual is below this part of the spectrum's range counts as an eigenpair
MANY = 30.0  # times 1/dim: a node with more weight stands for several eigenvalues, and is left to the probes
SHORTER = 0.8  # the truncation is read off the same chains, cut to this part of their length


@dataclass(frozen=True, slots=True)
class Quadrature:
    """`found` (k,) eigenvalues known one by one to `within`, and for each probe the nodes and weights of the other dim - k.

    `nodes`, `weights`: one array a probe, weights summing to 1; `shorter`: the same of chains cut short.
    """

    dim: int
    found: np.ndarray
    within: np.ndarray
    nodes: list[np.ndarray]
    weights: list[np.ndarray]
    shorter: list[tuple[np.ndarray, np.ndarray]]
    matvecs: int

    def range(self) -> tuple[float, float]:
        """Least and largest of all nodes."""
        every = np.concatenate([self.found, *self.nodes])
        return float(every.min()), float(every.max())

    def mean(self, f: Callable[[np.ndarray], np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """(mean of f over all eigenvalues, its error); f maps (m,) to (m, ...).

        (1/dim) [Σ_found f(λ) + (dim − k) mean_probes Σ w f(node)]; the error is the standard error over probes (times
        √((n − 1)/(n − 3)), for so few tell their own spread badly) and, in
        quadrature, what cutting the chains to 80% changes and what the residuals of the found ones allow.
        """
        rest = (self.dim - len(self.found)) / self.dim
        each = np.stack([np.tensordot(w, f(x), 1) for x, w in zip(self.nodes, self.weights, strict=True)])
        cut = np.stack([np.tensordot(w, f(x), 1) for x, w in self.shorter])
        known = f(self.found).sum(0) / self.dim if len(self.found) else 0.0 * each[0]
        loose = np.abs(f(self.found + self.within) - f(self.found)).sum(0) / self.dim if len(self.found) else 0.0
        n = len(each)
        few = ((n - 1) / (n - 3) / n) ** 0.5 if n > 3 else 0.0  # the variance of Student's t; of one chain all is known
        spread = few * each.std(0, ddof=1) if n > 3 else np.zeros_like(each[0])
        return known + rest * each.mean(0), np.hypot(rest * np.hypot(spread, (each - cut).mean(0)), loose)


def lanczos_quadrature(
    matvec: Callable[[Tensor], Tensor],
    dim: int,
    *,
    probes: int = 4,
    steps: int = 40,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Quadrature:
    """Lanczos chains of `steps` products from `probes` random unit vectors, each orthogonalised in full.

    The eigenpairs that the first chain found (residual below 1e-3 of the range) are split off: they count 1/dim each, without
    the chance of a probe's weight on them, and the later chains run in what is left. A probe's nodes are the eigenvalues of its
    tridiagonal matrix, its weights the squared first components.
    Memory: dim x (steps + found). Raises ValueError for dim, probes or steps too small, FloatingPointError.
    Ref: Golub and Welsch 1969 (Math. Comp. 23, 221); Ubaru, Chen and Saad 2017 (SIAM J. Matrix Anal. 38, 1075).

    >>> d = torch.linspace(0, 1, 400)
    >>> q = lanczos_quadrature(lambda v: d * v, 400, probes=8, steps=20)
    >>> mean, err = q.mean(lambda x: x)
    >>> bool(abs(mean - 0.5) < 3 * err), q.matvecs
    (True, 160)
    """
    if dim < 1 or probes < 4 or steps < 2:
        raise ValueError(f"needs dim >= 1, probes >= 4 and steps >= 2, got {dim}, {probes} and {steps}")
    gen = generator if generator is not None else torch.Generator().manual_seed(0)
    kept, found, within = torch.empty(0, dim, dtype=dtype, device=device), np.empty(0), np.empty(0)
    nodes, weights, shorter, spent = [], [], [], 0
    for probe in range(probes):
        if len(kept) == dim:
            break
        g = torch.randn(dim, generator=gen, dtype=dtype, device=gen.device).to(device)
        V, alpha, beta = _chain(matvec, g, min(steps, dim - len(kept)), kept)
        spent += len(alpha)
        values, y = _tridiagonal(alpha, beta)
        if probe == 0:
            span = max(float(values[-1] - values[0]), float(np.abs(values).max()) * 1e-6, 1e-30)
            left = np.abs(beta[-1] * y[-1]) + 30 * torch.finfo(dtype).eps * np.abs(values).max()
            closed = left < CLOSED * span if len(alpha) < dim else np.ones(len(values), bool)
            closed &= (y[0] ** 2 < MANY / dim) | (len(alpha) == dim)  # more of the probe than one eigenvector has
            found, within = values[closed], left[closed]
            kept = torch.linalg.qr(V.T @ torch.from_numpy(y[:, closed]).to(V))[0].T if closed.any() else kept
        else:
            closed = np.zeros(len(values), bool)
        nodes.append(values[~closed])
        weights.append(_normal(y[0, ~closed] ** 2))
        n = max(2, int(SHORTER * len(alpha)))
        less, z = _tridiagonal(alpha[:n], beta[:n])
        near = np.abs(less[:, None] - found).min(1) < CLOSED * span if probe == 0 and len(found) else np.zeros(n, bool)
        shorter.append((less[~near], _normal(z[0, ~near] ** 2)) if (~near).any() else (nodes[-1], weights[-1]))
    return Quadrature(dim, found, within, nodes, weights, shorter, spent)


def _normal(w: np.ndarray) -> np.ndarray:
    return np.asarray(w / max(w.sum(), 1e-300))


def _tridiagonal(alpha: np.ndarray, beta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    off = beta[: len(alpha) - 1]
    values, y = np.linalg.eigh(np.diag(alpha) + np.diag(off, 1) + np.diag(off, -1))
    return values, y


def _chain(
    matvec: Callable[[Tensor], Tensor], start: Tensor, steps: int, kept: Tensor
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """(vectors (m, dim), alpha (m,), beta (m,)) of a chain orthogonal to the rows of `kept`; shorter where it closes."""
    k = len(kept)
    B = torch.cat([kept, torch.empty(steps, len(start), dtype=start.dtype, device=start.device)])
    q, scale = start, 0.0
    alpha: list[float] = []
    beta: list[float] = []
    for j in range(steps):
        if j:  # most of it by the three terms, so that one pass over the basis does the rest
            q = q - alpha[-1] * B[k + j - 1] - (beta[-1] * B[k + j - 2] if j > 1 else 0.0)
        q = _out_of(B[: k + j], q)
        size = float(q.norm())
        if j:
            beta.append(size)
            if size <= 30 * torch.finfo(q.dtype).eps * scale:
                break
        B[k + j] = q / size
        w = matvec(B[k + j])
        a = float(w @ B[k + j])
        if not np.isfinite(a):
            raise FloatingPointError(f"matrix-vector product {j + 1} is not finite")
        alpha.append(a)
        scale = max(scale, float(w.norm()))
        q = w
    else:
        beta.append(float(_out_of(B, q).norm()))
    return B[k : k + len(alpha)], np.array(alpha), np.array(beta)


def _out_of(B: Tensor, q: Tensor) -> Tensor:
    """q without what lies in the rows of B; once more where digits cancelled (Parlett, Kahan)."""
    after = float(q.norm())
    for _ in range(3 if len(B) else 0):
        before = after
        q = q - B.T @ (B @ q)
        after = float(q.norm())
        if not 0 < after <= 0.7 * before:
            break
    return q
