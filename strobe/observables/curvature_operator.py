"""Products with the Hessian, the Gauss-Newton matrix or the empirical Fisher matrix, of all parameters or of a part."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from strobe.core.data import count, rows
from strobe.core.errors import BadOption, near
from strobe.core.snapshot import HessianOperator, Snapshot, keep_heap
from strobe.core.stacked import StackedLoss
from strobe.observables.local_parts import masks_of

OF = ("hessian", "gauss_newton", "empirical_fisher")
Outputs = Callable[[nn.Module, Any], Tensor]
OutputLoss = Callable[[Tensor, Any], Tensor]
Part = str | Sequence[str] | None


@dataclass(frozen=True, slots=True)
class Operator:
    """v -> A v on flat vectors of `dim` entries; `gradient` is the loss's, where the engine has it."""

    product: Callable[[Tensor], Tensor]
    dim: int
    dtype: torch.dtype
    device: torch.device
    gradient: Tensor | None = None

    def __call__(self, v: Tensor) -> Tensor:
        return self.product(v)


@contextmanager
def curvature_operator(
    snap: Snapshot,
    *,
    of: str = "hessian",
    outputs: Outputs | None = None,
    loss_of_outputs: OutputLoss | None = None,
    part: Part = None,
) -> Iterator[Operator]:
    """The matrix A of the kind `of`, of the parameters in `part`, as an operator through one kept graph.

        hessian            ∂² loss / ∂θ²                                       about 2 gradients a product
        gauss_newton       Jᵀ (∂² ℓ / ∂z²) J,   z = outputs(model, data),  loss = ℓ(z, data)        about 3
        empirical_fisher   1/n Σᵢ gᵢ gᵢᵀ,  gᵢ the gradient of the loss of example i alone             about 3

    Args: outputs(model, data) -> z, any shape, and loss_of_outputs(z, data) -> the scalar loss: needed by "gauss_newton" only,
    whose split of the loss is a choice (for a softmax or Gaussian likelihood with z its natural parameters it is the true
    Fisher matrix); checked against snap.loss. "empirical_fisher" takes the data's own labels, and needs data that can be taken
    apart into examples and a loss that is a mean over them. `part`: patterns of parameter names ("blocks.0.*") or sites of a
    piece of one, as `parts` of `refined_llc`; the diagonal block of A that these own.
    Raises `BadOption`, `SiteNotFound`.
    """
    if of not in OF:
        hint = (
            'the true Fisher matrix of a softmax or Gaussian loss is "gauss_newton"' if of == "fisher" else near(of, OF)
        )
        raise BadOption(f"of is one of {', '.join(OF)}, got {of!r}; {hint}")
    if of != "gauss_newton" and (outputs or loss_of_outputs):
        raise BadOption(f'outputs and loss_of_outputs belong to of="gauss_newton", not to {of!r}')
    if of == "gauss_newton" and not (outputs and loss_of_outputs):
        raise BadOption(
            'of="gauss_newton" splits the loss in two: give outputs=lambda model, data: model(data[0]) and '
            "loss_of_outputs=lambda z, data: cross_entropy(z, data[1]), or whatever yours are"
        )
    params = snap.params()
    if not params:
        raise BadOption(f"{type(snap.model).__name__} has no parameter with requires_grad: it has no curvature")
    names, index = _block(snap, part, params)
    total = sum(params[n].numel() for n in names)
    dtype = reduce(torch.promote_types, [params[n].dtype for n in names])
    device = params[names[0]].device

    def inside(product: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        if index is None:
            return product

        def narrow(v: Tensor) -> Tensor:
            whole = torch.zeros(total, dtype=v.dtype, device=v.device)
            whole[index] = v
            return product(whole)[index]

        return narrow

    dim = total if index is None else len(index)
    if of == "hessian":
        with snap.hvp_operator(None if part is None else names) as hvp:
            slope = hvp.gradient().detach()
            yield Operator(inside(hvp), dim, dtype, device, slope if index is None else slope[index])
        return
    keep_heap()
    with snap.quiet(), sdpa_kernel(SDPBackend.MATH):
        free = {k: p.requires_grad_() if k in names else p for k, p in params.items()}
        points = [free[n] for n in names]
        if of == "gauss_newton":
            assert outputs is not None
            assert loss_of_outputs is not None
            z = replace(snap, loss=outputs).loss_at(free)
            loss = loss_of_outputs(z, snap.data)
            _same(loss, snap.loss_at(params))
            middle: Callable[[Tensor], Tensor] = _outer(z, lambda z: loss_of_outputs(z, snap.data))
        else:
            z = _each(snap, free)
            _same(z.mean(), snap.loss_at(params), "the mean of the losses of single examples")
            middle = lambda v: v / len(z)  # noqa: E731
        if not z.requires_grad:
            raise BadOption("the outputs do not depend on the trainable parameters through autograd")
        jacobian = _Jacobian(points, z)
        try:
            yield Operator(inside(lambda v: jacobian.back(middle(jacobian(v)))), dim, dtype, device)
        finally:
            jacobian.close()


def parameters_in(snap: Snapshot, part: Part = None) -> int:
    """How many parameters the part has. Raises `BadOption`, `SiteNotFound`."""
    params = snap.params()
    names, index = _block(snap, part, params)
    return sum(params[n].numel() for n in names) if index is None else len(index)


def _block(snap: Snapshot, part: Part, params: dict[str, Tensor]) -> tuple[list[str], Tensor | None]:
    """Names of the parameters in the part, in order, and which of their entries; None: all of them."""
    if part is None:
        return list(params), None
    whole = StackedLoss(snap)
    mask = masks_of(whole, {"part": part})["part"]
    views = {n: v.reshape(-1) > 0 for n, v in whole.split(mask).items()}
    names = [n for n in params if bool(views[n].any())]
    flat = torch.cat([views[n] for n in names])
    return names, None if bool(flat.all()) else flat.nonzero()[:, 0]


def _outer(z: Tensor, loss: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """v -> (∂² ℓ / ∂z²) v at the outputs."""
    at = z.detach().requires_grad_()
    (slope,) = torch.autograd.grad(loss(at), [at], create_graph=True)
    if not slope.requires_grad:
        return torch.zeros_like
    inner = HessianOperator([at], [slope])
    return lambda v: inner(v.reshape(-1)).view_as(v)


def _each(snap: Snapshot, free: dict[str, Tensor]) -> Tensor:
    """The loss of every example alone, (n,), in the graph: side by side where vmap can, else one after the other."""
    n = count(snap.data)
    leaves, spec = pytree.tree_flatten(snap.data)
    moved = [x for x in leaves if isinstance(x, Tensor)]

    def one(*tensors: Tensor) -> Tensor:
        rest = iter(tensors)
        data = pytree.tree_unflatten([next(rest) if isinstance(x, Tensor) else x for x in leaves], spec)
        return replace(snap, data=data).loss_at(free).reshape(())

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            singles = [x[:, None] if x.ndim else x for x in moved]
            return vmap(one, in_dims=tuple(0 if x.ndim else None for x in moved))(*singles)
    except Exception:  # a model that vmap cannot take, or data inside an object
        return torch.stack([replace(snap, data=rows(snap.data, i, i + 1)).loss_at(free).reshape(()) for i in range(n)])


def _same(a: Tensor, b: Tensor, what: str = "loss_of_outputs(outputs(model, data), data)") -> None:
    a, b = a.detach(), b.detach()
    if a.numel() != 1 or not torch.allclose(a.reshape(()).double(), b.reshape(()).double(), rtol=1e-3, atol=1e-6):
        said = f"{float(a):.6g}" if a.numel() == 1 else f"a tensor of shape {tuple(a.shape)}"
        raise BadOption(f"{what} is {said}, but the snapshot's loss is {float(b):.6g}: it is of another function")


class _Jacobian:
    """v -> J v and u -> Jᵀ u of outputs z by points, through one kept graph (J v as the gradient of uᵀ -> Jᵀ u)."""

    def __init__(self, points: Sequence[Tensor], z: Tensor) -> None:
        self.points, self.z = list(points), z
        self.u = torch.zeros_like(z, requires_grad=True)
        self.pulled = torch.autograd.grad(
            z, self.points, self.u, create_graph=True, allow_unused=True, materialize_grads=True
        )
        self.sizes = [p.numel() for p in points]

    def __call__(self, v: Tensor) -> Tensor:
        pairs = [
            (g, x.view_as(g).to(g)) for g, x in zip(self.pulled, v.split(self.sizes), strict=True) if g.requires_grad
        ]
        got = torch.autograd.grad([g for g, _ in pairs], self.u, [x for _, x in pairs], retain_graph=True)
        return got[0].detach()

    def back(self, u: Tensor) -> Tensor:
        got = torch.autograd.grad(self.z, self.points, u, retain_graph=True, allow_unused=True, materialize_grads=True)
        return torch.cat([g.detach().reshape(-1) for g in got])

    def close(self) -> None:
        self.points, self.pulled, self.z, self.u = [], (), self.z.detach(), self.u.detach()
