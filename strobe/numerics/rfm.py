"""Recursive feature machines in the span of their own examples: the exact algorithm at a cost that does not know the dimension."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

RANK = 64  # eigenvectors of a metric that are looked for first; all of them where those carry less than all but MISSED of its trace
MISSED = 1e-4
SURE = 1e3  # mean eigenvalue of a Gram matrix times that of its inverse, from which it is not factored without pivots
DROP = 1e-7  # of the largest weight: below it a direction is rounding


@dataclass(frozen=True, slots=True, eq=False)
class Span:
    """n rows in their own span: x_i = mean + Z_i Vᵀ with V orthonormal, k = min(n − 1, d) coordinates, and all their distances.

    Rows are centred in double precision, so a common offset leaves no trace. Made once, shared by every concept, bandwidth and subset.
    """

    mean: Tensor  # (d,)
    rows: Tensor  # (n, d), centred
    Z: Tensor  # (n, k)
    back: Tensor | None  # (n, k): V = rowsᵀ back; None where Z are the rows
    distances: Tensor  # (n, n)
    first: dict[tuple[float, float], Tensor] = field(default_factory=dict)  # Cholesky factors with M = I

    @classmethod
    def of(cls, X: Tensor) -> "Span":
        """Of rows (n, d). Cost: n² d, and where n <= d an eigendecomposition of n x n. Raises ValueError for what is not finite."""
        if X.ndim != 2 or len(X) < 2:
            raise ValueError(f"a span needs two rows of numbers or more, got shape {tuple(X.shape)}")
        if not X.isfinite().all():
            raise ValueError("rows must be finite")
        mean = X.double().mean(0)
        rows = (
            (X - mean if X.dtype == torch.float64 else (X.double() - mean).float())
            if len(X) * X.shape[1] < 1 << 24
            else X - mean.to(X)
        )
        back, Z = None, rows
        if len(X) <= X.shape[1]:
            Z, back = _triangular(rows) or _orthogonal(rows)
        return cls(mean, rows, Z, back, _distances(Z))

    def part(self, index: Tensor) -> "Span":
        """Of some of the rows, in the same coordinates: nothing is made anew."""
        return Span(self.mean, self.rows, self.Z[index], self.back, self.distances[index][:, index])

    def project(self, X: Tensor) -> tuple[Tensor, Tensor]:
        """Coordinates (m, k) of other rows, and the square of what of them lies outside the span, (m,)."""
        new = (X.double() - self.mean).to(self.rows)
        if self.back is None:
            return new, new.new_zeros(len(new))
        Z = (new @ self.rows.T) @ self.back
        return Z, (new.square().sum(1) - Z.square().sum(1)).clamp_min(0)

    def lift(self, E: Tensor) -> Tensor:
        """Directions in coordinates (..., k) as directions of the rows, (..., d)."""
        return E if self.back is None else (E @ self.back.T) @ self.rows

    def size(self) -> float:
        """Root of the mean squared distance of two rows: the unit of a bandwidth."""
        n = len(self.Z)
        return math.sqrt(float(self.distances.square().sum()) / (n * (n - 1)))


def _triangular(rows: Tensor) -> tuple[Tensor, Tensor] | None:
    """Coordinates by a Cholesky factor of the Gram matrix of n − 1 contrasts, a tenth of the work; None where it is not sure of them.

    H (n − 1, n) is orthonormal with H 1 = 0. With H G Hᵀ = L Lᵀ, Z = Hᵀ L and back = Hᵀ L⁻ᵀ.
    """
    n = len(rows)
    v = torch.full((n,), n**-0.5, dtype=rows.dtype, device=rows.device)
    v[0] += 1  # the reflection that takes 1/√n to −e₀: its other rows are the contrasts
    H = (torch.eye(n, dtype=rows.dtype, device=rows.device) - 2 * torch.outer(v, v) / (v @ v))[1:]
    contrasts = H @ rows
    G = contrasts @ contrasts.T
    L, info = torch.linalg.cholesky_ex(G)
    if info.any():
        return None
    back = torch.linalg.solve_triangular(L, H, upper=False).T
    sure = float(G.diagonal().sum() * back.square().sum()) < SURE * n**2  # the trace of G times that of its inverse
    return (H.T @ L, back) if sure else None


def _orthogonal(rows: Tensor) -> tuple[Tensor, Tensor]:
    """The same by eigenvectors, which leaves out what is rounding."""
    w, U = torch.linalg.eigh(rows @ rows.T)
    keep = int((w > 30 * torch.finfo(w.dtype).eps * w[-1]).sum())
    w, U = w[len(w) - keep :], U[:, len(w) - keep :]
    return U * w.sqrt(), U / w.sqrt()


@dataclass(frozen=True, slots=True, eq=False)
class Agop:
    """Average outer product of the gradients of c predictors, (1/n) Σ_j g_j g_jᵀ = directionsᵀ diag(weights) directions.

    directions (c, q, k) orthonormal, the largest weight (c, q) first; mean (c, k): the mean gradient; linearity (c,): its squared length
    over the mean squared length of a gradient: 1 where the predictors are linear, 0 where no direction is preferred in sign.
    """

    directions: Tensor
    weights: Tensor
    mean: Tensor
    linearity: Tensor


@dataclass(frozen=True, eq=False)
class Iterate:
    """One predictor for each of c concepts, f(x) = Σ_i α_i K_M(x, x_i), with M = BᵀB in coordinates of the span.

    alpha (c, n); root: B (c, r, k), None at the first, where M = I; thin: its rows are
    orthogonal. Gradients and `agop` are made when they are asked for.
    """

    span: Span
    bandwidth: float
    alpha: Tensor
    root: Tensor | None
    thin: bool
    centred: bool
    rank: int
    missed: float
    held: list[Tensor]  # rows through the root, their distances and kernel, until the gradients are made of them

    def predict(self, Z: Tensor, outside: Tensor | None = None) -> Tensor:
        """f at coordinates (m, k) of `Span.project`: (c, m)."""
        mine, far = self.span.Z, 0.0 if outside is None else outside[:, None]
        if self.root is None:
            D = (torch.cdist(Z, mine).square() + far).sqrt()
            return self.alpha @ torch.exp(-D / self.bandwidth).T
        a, b = Z @ self.root.mT, mine @ self.root.mT
        return (torch.exp(-torch.cdist(a, b) / self.bandwidth) @ self.alpha[:, :, None])[..., 0]

    @cached_property
    def gradients(self) -> tuple[Tensor, Tensor | None]:
        """Of the predictors at the rows, (c, n, r), along the orthonormal rows E (c, r, k), or, where it is None, along the coordinates."""
        flat, D, K = self.held or _seen(self.span, self.bandwidth)
        self.held.clear()
        W = K.div_(D.clamp_min(1e-30)).masked_fill_(D <= 1e-10, 0) * self.alpha[:, :, None]  # W_ij = α_i K_ij / D_ij
        G = (W.mT @ flat - W.sum(1)[:, :, None] * flat) / self.bandwidth
        if self.root is None:
            return G, None
        if not self.thin:
            return G @ self.root, None
        s = self.root.norm(dim=2, keepdim=True)
        return G * s.mT, self.root / s.clamp_min(1e-30)

    def _spread(self) -> Tensor:
        G = self.gradients[0]
        return G - G.mean(1, keepdim=True) if self.centred else G

    @cached_property
    def _leading(self) -> tuple[Tensor, Tensor] | None:
        A = self._spread()
        if min(A.shape[1:]) <= self.rank + 32:
            return _eigen(A)
        first = self.root is None and self.missed < 1  # its gradients hardly ever lie in a few directions
        return None if first else _sketch(A, self.rank, self.missed)

    @cached_property
    def agop(self) -> Agop:
        G, E = self.gradients
        mean = G.mean(1)
        linearity = mean.square().sum(1) * G.shape[1] / G.square().sum((1, 2)).clamp_min(1e-30)
        w, U = self._leading or _eigen(self._spread())
        if E is not None:
            U, mean = E.mT @ U, torch.einsum("cr,crk->ck", mean, E)
        return Agop(U.mT, w, mean, linearity)

    def next_root(self) -> tuple[Tensor, bool]:
        """B of the next metric but for its scale: a few orthogonal rows where the gradients span few directions, else all gradients."""
        if self._leading is None:
            return self._spread() / len(self.span.Z) ** 0.5, False
        return self.agop.directions * self.agop.weights.sqrt()[:, :, None], True


def rfm(
    span: Span, y: Tensor, *, bandwidth: float, ridge: float = 1e-3, iterations: int = 5, centred: bool = False, scale: str = "spread",
    rank: int = RANK, missed: float = MISSED,
) -> Iterator[Iterate]:  # fmt: skip
    """Iterates t = 0 .. iterations of a kernel machine whose metric M is learned from its own gradients, for c concepts at once.

        K_ij = exp(−√((x_i − x_j)ᵀ M_t (x_i − x_j)) / L)      α = (K + λ I)⁻¹ y      M_0 = I
        g_j  = −(1/L) Σ_i α_i (K_ij / D_ij) M_t (x_j − x_i)   M_{t+1} ∝ (1/n) Σ_j g_j g_jᵀ   (with `centred`, of g_j − ḡ)

    Gradients lie in the span of the centred rows, so M_t is held there as BᵀB: an iteration costs n³/3 + O(n² r), r the rows of B, and
    nothing in d. With g = mean + rest, the AGOP is ḡ ḡᵀ + Cov(g): the first part is what a linear concept leaves, and what centring
    takes away; the second what a concept of both signs leaves.

    Args: y (c, n) or (n,), as given (centre it where the classes differ in size); bandwidth L; ridge λ; scale: "spread", M is scaled to
    the mean squared distance that M = I has and L is in its root (turning or scaling the rows changes nothing); "max", the largest entry
    of M is 1 and L in units of the rows, as the paper's code has it. rank: eigenvectors looked for first, enough where they carry
    all but `missed` of the trace; else all are taken.
    Raises ValueError for bad options, FloatingPointError where K + λ I is not positive.
    Ref: Radhakrishnan et al. 2024 (Science 383, 1461); Beaglehole et al., arXiv:2502.03708, eq. 1-2, SI A. Departure: the span form, which
    is exact, and "spread".

    >>> X = torch.randn(60, 200, generator=torch.Generator().manual_seed(0))
    >>> *_, last = rfm(Span.of(X), X[:, 0].sign(), bandwidth=1.0, iterations=2)
    >>> last.agop.directions.shape[-1], last.alpha.shape
    (59, torch.Size([1, 60]))
    """
    y = y.reshape(1, -1) if y.ndim == 1 else y
    n = len(span.Z)
    if y.shape[1] != n or scale not in ("spread", "max") or bandwidth <= 0 or ridge <= 0 or iterations < 0 or rank < 1:
        raise ValueError(
            f'rfm needs y (concepts, {n}), bandwidth > 0, ridge > 0, iterations >= 0, rank >= 1 and scale "spread" or "max"; got y '
            f"{tuple(y.shape)}, {bandwidth}, {ridge}, {iterations}, {rank}, {scale!r}"
        )
    y, size = y.to(span.Z), span.size()
    L = bandwidth * size if scale == "spread" else bandwidth
    if (L, ridge) not in span.first:
        span.first[(L, ridge)] = _factor(torch.exp(span.distances / -L), ridge)
    now = Iterate(span, L, torch.cholesky_solve(y.T, span.first[(L, ridge)]).T, None, False, centred, rank, missed, [])
    yield now
    for _ in range(iterations):
        B, thin = now.next_root()
        if scale == "max":
            B = B / span.lift(B).square().sum(1).amax(1).clamp_min(1e-30).sqrt()[:, None, None]
        flat = span.Z @ B.mT
        if scale == "spread":
            spread = 2 * (n * flat.square().sum((1, 2)) - flat.sum(1).square().sum(1)) / (n * (n - 1))
            by = (size / spread.sqrt().clamp_min(1e-30))[:, None, None]
            B, flat = B * by, flat * by
        D = _distances(flat)
        K = torch.exp(D / -L)
        alpha = torch.cholesky_solve(y[:, :, None], _factor(K, ridge))[..., 0]
        now = Iterate(span, L, alpha, B, thin, centred, rank, missed, [flat, D, K])
        yield now


def _seen(span: Span, L: float) -> list[Tensor]:
    return [span.Z[None], span.distances[None], torch.exp(span.distances[None] / -L)]


def _distances(Z: Tensor) -> Tensor:
    """(..., n, k) -> (..., n, n), by a product; nothing on the diagonal."""
    q = Z.square().sum(-1)
    D = (
        torch.baddbmm(q[..., :, None] + q[..., None, :], Z, Z.mT, alpha=-2)
        if Z.ndim == 3
        else q[:, None] + q - 2 * Z @ Z.T
    )
    D.clamp_(min=0).diagonal(dim1=-2, dim2=-1).zero_()
    return D.sqrt_()


def _factor(K: Tensor, ridge: float) -> Tensor:
    A = K.clone()
    A.diagonal(dim1=-2, dim2=-1).add_(ridge)
    root, info = torch.linalg.cholesky_ex(A)
    if info.any() or not root.diagonal(dim1=-2, dim2=-1).isfinite().all():
        raise FloatingPointError(f"the kernel matrix plus {ridge} is not positive: raise ridge or lower the bandwidth")
    return root


def _eigen(A: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (c, q), the largest first, and vectors (c, k, q) of AᵀA / n, A (c, n, k), by the smaller Gram matrix."""
    n, k = A.shape[1:]
    if k <= n:
        w, V = torch.linalg.eigh(A.mT @ A / n)
    else:
        w, U = torch.linalg.eigh(A @ A.mT / n)
        V = A.mT @ U / (w.clamp_min(0) * n).sqrt().clamp_min(1e-30)[:, None]
    return _kept(w.flip(-1), V.flip(-1))


def _sketch(A: Tensor, rank: int, missed: float) -> tuple[Tensor, Tensor] | None:
    """The first `rank` eigenvalues (c, q) and vectors (c, k, q) of AᵀA / n, A (c, n, k); None where the rest is more than `missed`."""
    n, k = A.shape[1:]
    gen = torch.Generator(A.device).manual_seed(0)
    Q = torch.linalg.qr(A.mT @ (A @ torch.randn(k, rank + 16, generator=gen, dtype=A.dtype, device=A.device)))[0]
    Q = torch.linalg.qr(A.mT @ (A @ Q))[0]
    C = A @ Q
    w, U = torch.linalg.eigh(C.mT @ C / n)
    trace = A.square().sum((1, 2)) / n
    if not bool((trace - w.sum(-1) <= missed * trace).all()):
        return None
    return _kept(w.flip(-1)[:, :rank], (Q @ U.flip(-1))[..., :rank])


def _kept(w: Tensor, U: Tensor) -> tuple[Tensor, Tensor]:
    w = torch.where(w > DROP * w[:, :1], w, 0).clamp_min(0)
    keep = max(int((w > 0).sum(1).max()), 1)
    return w[:, :keep], U[..., :keep]
