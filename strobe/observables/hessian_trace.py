"""Trace and diagonal of a network's curvature: the sum of all eigenvalues, and each parameter's own."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strobe.core.cards import observable
from strobe.core.errors import BadOption, Diverged
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot
from strobe.core.stacked import StackedLoss
from strobe.numerics.trace import diagonal, exchangeable_trace, orthonormal_image, signs, trace
from strobe.observables.curvature_operator import Operator, OutputLoss, Outputs, Part, curvature_operator
from strobe.observables.local_parts import masks_of


@observable(symbol="tr H", of="snapshot", cost="2 vectors Hessian-vector products", ref="arXiv:2301.07825")
def hessian_trace(
    snap: Snapshot,
    *,
    of: str = "hessian",
    outputs: Outputs | None = None,
    loss_of_outputs: OutputLoss | None = None,
    part: Part = None,
    parts: Mapping[str, Sequence[str] | str] | str | None = None,
    vectors: int = 20,
    seed: int = 0,
) -> Reading:
    """The trace of the curvature: tr H of the loss Hessian, of all parameters or of a part; an array for several parts.

        tr H = mean over i of  tr(P_i H P_i) + zᵢᵀ (I − P_i) H (I − P_i) zᵢ        P_i projects onto H z_j, j ≠ i; z random signs

    Args: of, outputs, loss_of_outputs, part as for `curvature_operator`; parts, instead of part: a mapping of names to parts, or
    "modules" for every module that owns parameters: one set of vectors then gives the traces of all their blocks, as sums of the
    diagonal (`hessian_diagonal`), and `how["labels"]` names them; vectors, at least 8.
    Err: one standard error over the vectors; it leaves out the draw of the data. 0 where there are as many vectors as parameters.
    Cost: 2 vectors products; `HessianTraceTracker` needs fewer along a run.
    Raises `BadOption`, `SiteNotFound`, `Diverged`. Ref: Epperly, Tropp and Webber, arXiv:2301.07825 (XTrace); Baston and
    Nakatsukasa, arXiv:2201.10684, for several parts.

    >>> net = torch.nn.Linear(2, 1, bias=False)
    >>> snap = Snapshot(net, lambda m, x: m(x).square().sum(), torch.diag(torch.tensor([1.0, 3.0])))
    >>> print(hessian_trace(snap))
    20 ± 0 loss/θ²
    """
    if part is not None and parts is not None:
        raise BadOption("give part (one number) or parts (an array), not both")
    if vectors < 8:
        raise BadOption(f"vectors is at least 8 (the error is their spread), got {vectors}")
    gen = torch.Generator().manual_seed(seed + 1_000_003 * snap.step)
    with (
        curvature_operator(snap, of=of, outputs=outputs, loss_of_outputs=loss_of_outputs, part=part) as a,
        torch.no_grad(),
    ):
        how: dict[str, Any] = {"of": of, "products": 2 * vectors, "parameters": a.dim}
        if parts is None:
            value, err = _whole(a, vectors, gen)
            return _finite(Reading(value, err, "loss/θ²", how), snap)
        masks = masks_of(StackedLoss(snap), None if isinstance(parts, str) and parts == "modules" else _mapping(parts))
        Q, Z = _drawn(a, vectors // 2, vectors, gen)
        each, errs, _ = diagonal(a, Q, Z, torch.stack(list(masks.values())).to(Q))
    how |= {"labels": list(masks), "sizes": [int(m.sum()) for m in masks.values()]}
    return _finite(Reading(each.cpu().numpy(), errs.cpu().numpy(), "loss/θ²", how), snap)


def _whole(a: Operator, vectors: int, gen: torch.Generator) -> tuple[float, float]:
    like = torch.empty(0, dtype=a.dtype, device=a.device)
    try:
        if a.dim <= vectors:
            unit = torch.eye(a.dim, dtype=a.dtype, device=a.device)
            return float(sum(float(a(e) @ e) for e in unit)), 0.0
        return exchangeable_trace(a, signs(a.dim, vectors, gen, like))
    except RuntimeError as e:  # LAPACK refuses what is not finite
        raise Diverged(f"a product with the curvature is not finite, or {e}: look at an earlier step") from e


@observable(symbol="diag H", of="snapshot", cost="2 sketch + probes Hessian-vector products", ref="arXiv:2201.10684")
def hessian_diagonal(
    snap: Snapshot,
    *,
    of: str = "hessian",
    outputs: Outputs | None = None,
    loss_of_outputs: OutputLoss | None = None,
    part: Part = None,
    sketch: int = 10,
    probes: int = 40,
    seed: int = 0,
) -> Reading:
    """The diagonal of the curvature, one number for each parameter, in the order of `snap.params()`; an array (P,).

        diag H = diag(Q Qᵀ H) + mean over z of z ∘ (I − Q Qᵀ) H z         Q an orthonormal basis of H S, z and S random signs

    Args: of, outputs, loss_of_outputs and part as for `hessian_trace`; sketch, columns of S (0: Hutchinson's estimator); probes z.
    Err: one standard error over the probes, given Q, of each entry: of an entry it is of the size of the
    root of its row's squares over the probes, √(Σ_j≠i H_ij² / probes), so single small entries stay uncertain; sums over
    layers are better (`hessian_trace` with `parts`). Cost: 2 sketch + probes products.
    Raises `BadOption`, `SiteNotFound`, `Diverged`. Ref: Baston and Nakatsukasa, arXiv:2201.10684 (Diag++).

    >>> net = torch.nn.Linear(2, 1, bias=False)
    >>> snap = Snapshot(net, lambda m, x: m(x).square().sum(), torch.diag(torch.tensor([1.0, 3.0])))
    >>> hessian_diagonal(snap, sketch=2).value.round(4).tolist()
    [2.0, 18.0]
    """
    _check(sketch, probes)
    gen = torch.Generator().manual_seed(seed + 1_000_003 * snap.step)
    with (
        curvature_operator(snap, of=of, outputs=outputs, loss_of_outputs=loss_of_outputs, part=part) as a,
        torch.no_grad(),
    ):
        Q, Z = _drawn(a, sketch, probes, gen)
        each, errs, _ = diagonal(a, Q, Z)
    how = {"of": of, "products": 2 * Q.shape[1] + probes, "parameters": a.dim}
    return _finite(Reading(each.cpu().numpy(), errs.cpu().numpy(), "loss/θ²", how), snap)


class HessianTraceTracker:
    """`hessian_trace` along a run: each call's H Q is the next call's sketch, subspace iteration for nothing.

        tr H = tr(Qᵀ H Q) + mean over z of zᵀ (I − Q Qᵀ) H (I − Q Qᵀ) z        Q an orthonormal basis of the last call's H Q

    The first call costs 2 sketch + probes products, the later ones sketch + probes. Made to be watched:
    `rec.watch(HessianTraceTracker(), every=10)`; it names itself `hessian_trace`, whose number it is.
    Err: one standard error over the probes, which are independent of Q. Ref: arXiv:2010.09649 (Hutch++).

    >>> net = torch.nn.Linear(2, 1, bias=False)
    >>> snap = Snapshot(net, lambda m, x: m(x).square().sum(), torch.diag(torch.tensor([1.0, 3.0])))
    >>> track = HessianTraceTracker()
    >>> round(track(snap, sketch=2).value, 3), round(track(snap, sketch=2).value, 3)
    (20.0, 20.0)
    """

    card = hessian_trace.card  # type: ignore[attr-defined]

    def __init__(self) -> None:
        self.basis: Tensor | None = None
        self.__name__ = self.__qualname__ = "hessian_trace"

    def __call__(
        self, snap: Snapshot, *, of: str = "hessian", outputs: Outputs | None = None,
        loss_of_outputs: OutputLoss | None = None, sketch: int = 10, probes: int = 20, seed: int = 0,
    ) -> Reading:  # fmt: skip
        _check(sketch, probes)
        gen = torch.Generator().manual_seed(seed + 1_000_003 * snap.step)
        with curvature_operator(snap, of=of, outputs=outputs, loss_of_outputs=loss_of_outputs) as a, torch.no_grad():
            known = self.basis
            warm = known is not None and known.shape == (a.dim, min(sketch, a.dim))
            Q, Z = _drawn(a, sketch, probes, gen, known if warm else None)
            value, err, image = trace(a, Q, Z)
        how = {"of": of, "products": (1 if warm else 2) * Q.shape[1] + probes, "parameters": a.dim, "warm": warm}
        read = _finite(Reading(value, err, "loss/θ²", how), snap)
        self.basis = torch.linalg.qr(image)[0]
        return read


def _drawn(
    a: Operator, sketch: int, probes: int, gen: torch.Generator, known: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    like = torch.empty(0, dtype=a.dtype, device=a.device)
    S = signs(a.dim, min(sketch, a.dim), gen, like)
    try:
        Q = known if known is not None else orthonormal_image(a, S) if sketch else S
    except RuntimeError as e:  # LAPACK refuses what is not finite
        raise Diverged(f"a product with the curvature is not finite, or {e}: look at an earlier step") from e
    return Q, signs(a.dim, probes, gen, like)


def _check(sketch: int, probes: int) -> None:
    if sketch < 0 or probes < 4:
        raise BadOption(f"needs sketch >= 0 and probes >= 4 (the error is their spread), got {sketch} and {probes}")


def _mapping(parts: Mapping[str, Sequence[str] | str] | str) -> Mapping[str, Sequence[str] | str]:
    if isinstance(parts, str):
        raise BadOption(f'parts is "modules" or a mapping of names to patterns of parameter names, got {parts!r}')
    return parts


def _finite(read: Reading, snap: Snapshot) -> Reading:
    if not (np.isfinite(read.value).all() and np.isfinite(read.err).all()):
        raise Diverged(f"the curvature at step {snap.step} is not finite: look at an earlier step, or lower the lr")
    return read
