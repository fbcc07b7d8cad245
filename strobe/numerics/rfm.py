"""Recursive feature machines in the span of their own examples: the exact algorithm at a cost that does not know the dimension."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

RANK = 64  # eigenvectors of a metric that are looked for first; all of them where those carry less than all but MISSED of its trace
MISSED = 1e-4
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
            w, U = torch.linalg.eigh(rows @ rows.T)
            keep = int((w > 30 * torch.finfo(w.dtype).eps * w[-1]).sum())
            w, U = w[len(w) - keep :], U[:, len(w) - keep :]
            Z, back = U * w.sqrt(), U / w.sqrt()
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
    """One predictor for each of c concepts, f(x) = Σ_i α_i K_M(x, x_i), with M = Eᵀ diag(s²) E.

    alpha (c, n); E (c, r, k) and s (c, r), None at the first, where M = I. `agop` is made when it is asked for.
    """

    span: Span
    bandwidth: float
    alpha: Tensor
    E: Tensor | None
    s: Tensor | None
    centred: bool
    rank: int
    missed: float
    held: list[Tensor]  # distances and kernel, until the gradients are made of them

    def predict(self, Z: Tensor, outside: Tensor | None = None) -> Tensor:
        """f at coordinates (m, k) of `Span.project`: (c, m)."""
        mine, far = self.span.Z, 0.0 if outside is None else outside[:, None]
        if self.E is None or self.s is None:
            D = (torch.cdist(Z, mine).square() + far).sqrt()
            return self.alpha @ torch.exp(-D / self.bandwidth).T
        a, b = (torch.einsum("nk,crk->cnr", x, self.E) * self.s[:, None] for x in (Z, mine))
        return (torch.exp(-torch.cdist(a, b) / self.bandwidth) @ self.alpha[:, :, None])[..., 0]

    @cached_property
    def agop(self) -> Agop:
        n, E, s = len(self.span.Z), self.E, self.s
        flat = self.span.Z[None] if E is None or s is None else torch.einsum("nk,crk->cnr", self.span.Z, E) * s[:, None]
        D, K = self.held or [self.span.distances[None], torch.exp(self.span.distances[None] / -self.bandwidth)]
        self.held.clear()
        W = K.div_(D.clamp_min(1e-30)).masked_fill_(D <= 1e-10, 0) * self.alpha[:, :, None]  # W_ij = α_i K_ij / D_ij
        G = (W.mT @ flat - W.sum(1)[:, :, None] * flat) / self.bandwidth  # gradients, along the rows of E
        G = G if s is None else G * s[:, None]
        middle = G.mean(1, keepdim=True)
        linearity = middle.square().sum((1, 2)) * n / G.square().sum((1, 2)).clamp_min(1e-30)
        w, U = _top(G - middle if self.centred else G, self.rank, self.missed)
        directions = U.mT if E is None else U.mT @ E
        mean = middle[:, 0] if E is None else torch.einsum("cr,crk->ck", middle[:, 0], E)
        return Agop(directions, w, mean, linearity)


def rfm(
    span: Span, y: Tensor, *, bandwidth: float, ridge: float = 1e-3, iterations: int = 5, centred: bool = False, scale: str = "spread",
    rank: int = RANK, missed: float = MISSED,
) -> Iterator[Iterate]:  # fmt: skip
    """Iterates t = 0 .. iterations of a kernel machine whose metric M is learned from its own gradients, for c concepts at once.

        K_ij = exp(−√((x_i − x_j)ᵀ M_t (x_i − x_j)) / L)      α = (K + λ I)⁻¹ y      M_0 = I
        g_j  = −(1/L) Σ_i α_i (K_ij / D_ij) M_t (x_j − x_i)   M_{t+1} ∝ (1/n) Σ_j g_j g_jᵀ   (with `centred`, of g_j − ḡ)

    Gradients lie in the span of the centred rows, so M_t is held there as Eᵀ diag(s²) E: an iteration costs n³/3 + O(n² r) and
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
    now = Iterate(span, L, torch.cholesky_solve(y.T, span.first[(L, ridge)]).T, None, None, centred, rank, missed, [])
    yield now
    for _ in range(iterations):
        E, w = now.agop.directions, now.agop.weights
        if scale == "max":
            s = (w / torch.einsum("cq,cqd->cd", w, span.lift(E).square()).amax(1, keepdim=True).clamp_min(1e-30)).sqrt()
        else:
            moved = torch.einsum("nk,cqk->cnq", span.Z, E) * w.sqrt()[:, None]
            spread = 2 * (n * moved.square().sum((1, 2)) - moved.sum(1).square().sum(1)) / (n * (n - 1))
            s = w.sqrt() * (size / spread.sqrt().clamp_min(1e-30))[:, None]
        D = _distances(torch.einsum("nk,cqk->cnq", span.Z, E) * s[:, None])
        K = torch.exp(D / -L)
        alpha = torch.cholesky_solve(y[:, :, None], _factor(K, ridge))[..., 0]
        now = Iterate(span, L, alpha, E, s, centred, rank, missed, [D, K])
        yield now


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
    if info.any() or not root.isfinite().all():
        raise FloatingPointError(f"the kernel matrix plus {ridge} is not positive: raise ridge or lower the bandwidth")
    return root


def _top(A: Tensor, rank: int, missed: float) -> tuple[Tensor, Tensor]:
    """Eigenvalues (c, q), the largest first, and vectors (c, r, q) of AᵀA / n, A (c, n, r): the first `rank` where the rest is rounding."""
    n, r = A.shape[1:]
    if min(n, r) > rank + 32:
        gen = torch.Generator(A.device).manual_seed(0)
        Q = torch.linalg.qr(A.mT @ (A @ torch.randn(r, rank + 16, generator=gen, dtype=A.dtype, device=A.device)))[0]
        Q = torch.linalg.qr(A.mT @ (A @ Q))[0]
        B = A @ Q
        w, U = torch.linalg.eigh(B.mT @ B / n)
        trace = A.square().sum((1, 2)) / n
        if bool((trace - w.sum(-1) <= missed * trace).all()):
            return _kept(w.flip(-1)[:, :rank], (Q @ U.flip(-1))[..., :rank])
    w, U = torch.linalg.eigh(A.mT @ A / n)
    return _kept(w.flip(-1), U.flip(-1))


def _kept(w: Tensor, U: Tensor) -> tuple[Tensor, Tensor]:
    w = torch.where(w > DROP * w[:, :1], w, 0).clamp_min(0)
    keep = max(int((w > 0).sum(1).max()), 1)
    return w[:, :keep], U[..., :keep]
