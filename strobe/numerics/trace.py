"""Trace and diagonal of a symmetric operator from its products alone, with standard errors."""

from collections.abc import Callable

import torch
from torch import Tensor

Product = Callable[[Tensor], Tensor]


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
