"""Trace and diagonal of a symmetric operator from its products alone, with standard errors."""

from collections.abc import Callable

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]
SHARED = 1.25  # the estimates of one basis hang together: their spread alone was 0.8 of the true error at 15 columns


def orthonormal_image(matvec: Product, S: Tensor) -> Tensor:
    """An orthonormal basis (dim, s) of A S: what a sketch sees of the large eigenvectors. S (dim, s)."""
    return torch.linalg.qr(torch.stack([matvec(c) for c in S.T], 1))[0]


def signs(dim: int, count: int, gen: torch.Generator, like: Tensor) -> Tensor:
    """Random ±1, (dim, count)."""
    drawn = torch.randint(0, 2, (count, dim), generator=gen, device=gen.device)
    return (2 * drawn - 1).to(like).T


def diagonal(matvec: Product, Q: Tensor, Z: Tensor, groups: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """(estimate, standard error, A Q) of the diagonal of A (dim,), or of its sums over groups of entries.

        diag(A) = diag(Q Qᵀ A) + diag((I − Q Qᵀ) A)      the first exactly, the second as the mean of z ∘ (I − Q Qᵀ) A z

    Args: Q (dim, s) orthonormal; Z (dim, r) of random signs, r >= 2; groups (parts, dim) of weights: estimate and error are then
    of groups @ diag. Cost: s + r products. With Q (dim, 0) this is Hutchinson's estimator.
    Ref: Bekas, Kokiopoulou and Saad 2007; Baston and Nakatsukasa, arXiv:2201.10684 (Diag++).
    """
    AQ = torch.stack([matvec(c) for c in Q.T], 1) if Q.shape[1] else Q
    draws = []
    for z in Z.T:
        w = matvec(z)
        each = z * (w - Q @ (Q.T @ w))
        draws.append(each if groups is None else groups @ each)
    rest, exact = torch.stack(draws).double(), (Q * AQ).sum(1)
    known = (exact if groups is None else groups @ exact).double()
    return known + rest.mean(0), rest.std(0) / len(rest) ** 0.5, AQ


def trace(matvec: Product, Q: Tensor, Z: Tensor) -> tuple[float, float, Tensor]:
    """(tr A, its standard error given Q, A Q): Hutch++ with the sketch Q given.

        tr A = tr(Qᵀ A Q) + E[zᵀ (I − Q Qᵀ) A (I − Q Qᵀ) z]     the first exactly, the second as a mean over Z

    The terms of the mean are independent given Q, so their spread is a true standard error. Cost: s + r products.
    Ref: Meyer, Musco, Musco and Woodruff, arXiv:2010.09649, algorithm 1.

    >>> d = torch.tensor([100.0] + [1.0] * 99)
    >>> Q = orthonormal_image(lambda v: d * v, signs(100, 4, torch.Generator().manual_seed(0), d))
    >>> value, err, _ = trace(lambda v: d * v, Q, signs(100, 30, torch.Generator().manual_seed(1), d))
    >>> abs(value - 199) < 3 * err, err < 1
    (True, True)
    """
    AQ = torch.stack([matvec(c) for c in Q.T], 1) if Q.shape[1] else Q
    terms = []
    for z in Z.T:
        p = z - Q @ (Q.T @ z)
        terms.append((p @ matvec(p)).double())
    rest = torch.stack(terms)
    return float((Q * AQ).sum(dtype=torch.float64) + rest.mean()), float(rest.std() / len(rest) ** 0.5), AQ


def exchangeable_trace(matvec: Product, S: Tensor) -> tuple[float, float]:
    """(tr A, its standard error): XTrace, for every column of S the Hutch++ estimate from the others, all of one basis.

        Q = orth(A S);  s_i ∝ R⁻ᵀ e_i the direction of Q that column i alone brought,  P_i = Q (I − s_i s_iᵀ) Qᵀ
        t_i = tr(P_i A P_i) + z_iᵀ (I − P_i) A (I − P_i) z_i         value = mean t_i,  err = 1.25 sd(t_i) / √m

    Args: S (dim, m) of random signs, 2 <= m <= dim. Cost: 2 m products. The t_i are exchangeable; their spread is the authors'
    error estimate, and is enlarged here for they are not quite independent.
    Ref: Epperly, Tropp and Webber, arXiv:2301.07825, section 2.

    >>> d = torch.cat([torch.linspace(10, 100, 20), torch.ones(280)]).double()
    >>> value, err = exchangeable_trace(lambda v: d * v, signs(300, 30, torch.Generator().manual_seed(0), d))
    >>> abs(value - float(d.sum())) < 4 * err, err < 3
    (True, True)
    """
    Y = torch.stack([matvec(c) for c in S.T], 1)
    Q, R = torch.linalg.qr(Y)
    H = (Q.T @ torch.stack([matvec(c) for c in Q.T], 1)).double()
    R, m = R.double(), S.shape[1]
    keep = R.diagonal().abs() > 30 * torch.finfo(Y.dtype).eps * R.abs().max()  # what a column brought may be rounding
    if not bool(keep.all()):
        return _low_rank(matvec, S, Q, H)
    s = torch.linalg.solve_triangular(R.T, torch.eye(m, dtype=R.dtype, device=R.device), upper=False)
    s = s / s.norm(dim=0)
    W = (Q.T @ S).double()
    U = W - s * (s * W).sum(0)
    plain = (S.double() * Y.double()).sum(0)
    left = plain - 2 * (U * R).sum(0) + (U * (H @ U)).sum(0)
    t = H.trace() - (s * (H @ s)).sum(0) + left
    return float(t.mean()), SHARED * float(t.std() / m**0.5)


def _low_rank(matvec: Product, S: Tensor, Q: Tensor, H: Tensor) -> tuple[float, float]:
    """A S has fewer dimensions than columns: the basis holds all of A, up to rounding, and what is left is a plain mean."""
    rest = S - Q @ (Q.T @ S)
    terms = torch.stack([(z.double() @ matvec(z).double()) for z in rest.T])
    return float(H.trace() + terms.mean()), float(terms.std() / len(terms) ** 0.5)
