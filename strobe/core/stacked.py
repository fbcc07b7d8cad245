"""The loss of a snapshot at many parameter values at once, with gradients: what batched samplers stand on."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import _pytree as pytree

from strobe.core.data import count, mapped, rows
from strobe.core.data import leaves as leaves_of
from strobe.core.errors import BadOption
from strobe.core.snapshot import Snapshot, keep_heap
from strobe.core.traced import graphed, traced

WAYS = ("graphed", "traced", "stacked", "turns", "loop")
LARGE = 200_000  # parameters of a copy, or
WIDE = 8 << 20  # bytes of its activations, from which copies take turns on a CPU: together they only outgrow its caches
MEMORY = 2 << 30  # bytes of activations that copies may hold together


def stacked(models: Sequence[torch.nn.Module]) -> Tensor:
    """The trainable parameters of models of one shape as rows (C, P), in the order of `StackedLoss`: copies, not views.

    >>> stacked([torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)]).shape
    torch.Size([2, 3])
    """
    return torch.stack([torch.cat([p.detach().reshape(-1) for p in m.parameters() if p.requires_grad]) for m in models])


class StackedLoss:
    """loss(w, data) of C copies of the trainable parameters, w (C, P), in one batched pass.

    `names` are the parameters that vary (all trainable ones by default), in the order of their numbers in w; the others
    stay as the snapshot has them. `center` (P,) is where the snapshot is.

    A call gives losses (C,) and gradients (C, P), `losses` the losses alone, `each` those of single examples (C, n). The
    first call with data of a shape chooses the first of five ways that gives the numbers of the last, at another point
    and on other data of the shape: "graphed" (on a GPU only: what is traced as one launch), "traced" (the batched forward
    and backward pass recorded once as a list of tensor
    operations and run again: no autograd), "stacked" (`vmap`), "turns" (one copy after another, the pass of one recorded:
    large ones on a CPU), "loop" (one copy after another; any model).
    `chunk` is how many copies go together, by default as many as hold their activations in 2 GiB. `moves` names
    the parameters each copy needs gradients of: the loop leaves the others' at 0, and stops where they begin.
    Use it inside `snap.quiet()`.
    Raises `BadOption` for no parameters, half precision, a loss that is not a number or does not depend on them.

    >>> net = torch.nn.Linear(2, 1, bias=False)
    >>> f = StackedLoss(Snapshot(net, lambda m, x: m(x).square().sum(), None))
    >>> loss, grad = f(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.eye(2))
    >>> loss.tolist(), grad.tolist()
    ([1.0, 4.0], [[2.0, 0.0], [0.0, 4.0]])
    """

    def __init__(
        self, snap: Snapshot, *, names: Sequence[str] | None = None, chunk: int | None = None, way: str | None = None,
        moves: Sequence[Sequence[str]] | None = None,
    ) -> None:  # fmt: skip
        known = snap.params()
        names = list(known) if names is None else list(names)
        if not names:
            raise BadOption(
                f"{type(snap.model).__name__} has no parameter with requires_grad: there is nothing to vary"
            )
        if odd := [n for n in names if n not in known]:
            raise BadOption(f"{odd[0]!r} is not a trainable parameter; there are {', '.join(list(known)[:8])}")
        self.values = {n: known[n] for n in names}
        for n, p in self.values.items():
            if not p.is_floating_point() or p.element_size() < 4:
                raise BadOption(
                    f"{n} is {str(p.dtype).removeprefix('torch.')}: chains of so few digits stand still or drift; "
                    "measure a float32 copy, copy.deepcopy(model).float()"
                )
        self.snap, self.chunk, self.way, self.moves = snap, chunk, way, moves
        self.sizes = [p.numel() for p in self.values.values()]
        self.center = torch.cat([p.reshape(-1) for p in self.values.values()])
        self._ready: dict[Any, Any] = {}

    def split(self, w: Tensor) -> dict[str, Tensor]:
        """Views of w (..., P) by parameter, each (..., shape)."""
        parts = w.split(self.sizes, dim=-1)
        return {n: x.view(*w.shape[:-1], *p.shape) for (n, p), x in zip(self.values.items(), parts, strict=True)}

    def losses(self, w: Tensor, data: Any) -> Tensor:
        """The losses alone, (C,), at about a third of the cost."""
        return self._chunked("losses", w, data)[0]

    def each(self, w: Tensor, data: Any) -> Tensor:
        """The loss of each example alone, as a batch of one: (C, n), at the cost of `losses`.

        Raises `BadOption` where the data cannot be taken apart by their first dimension.

        >>> f = StackedLoss(Snapshot(torch.nn.Linear(2, 1, bias=False), lambda m, x: m(x).square().mean(), None))
        >>> f.each(torch.tensor([[1.0, 0.0], [1.0, 2.0]]), torch.eye(2)).tolist()
        [[1.0, 0.0], [1.0, 4.0]]
        """
        count(data)
        return self._chunked("each", w, data)[0]

    def __call__(self, w: Tensor, data: Any) -> tuple[Tensor, Tensor]:
        loss, grad = self._chunked("gradients", w, data)
        return loss, grad

    def own(self, w: Tensor, data: Any) -> tuple[Tensor, Tensor]:
        """Losses and gradients of each copy on data of its own: every tensor of the data has the copies first, (C, ...).

        >>> f = StackedLoss(Snapshot(torch.nn.Linear(2, 1, bias=False), lambda m, x: m(x).square().sum(), None))
        >>> f.own(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.eye(2)[:, None])[0].tolist()
        [1.0, 4.0]
        """
        loss, grad = self._chunked("own", w, data)
        return loss, grad

    def _chunked(self, kind: str, w: Tensor, data: Any) -> tuple[Tensor, ...]:
        chunk = self.chunk or self._together(kind, w, data)
        part = (lambda i: rows(data, i, i + chunk)) if kind == "own" and chunk < len(w) else (lambda i: data)
        parts = [self._call(kind, w[i : i + chunk], part(i)) for i in range(0, len(w), chunk)]
        return parts[0] if len(parts) == 1 else tuple(torch.cat(p) for p in zip(*parts, strict=True))

    def activations(self, data: Any) -> int:
        """Bytes that one copy keeps on these data for its backward pass, parameters and data left out."""
        key = ("bytes", tuple(x.shape for x in leaves_of(data)))
        if key in self._ready:
            return int(self._ready[key])
        shared = {
            x.untyped_storage().data_ptr() for x in [*leaves_of(data), *self.snap.model.parameters(), self.center]
        }
        kept: dict[int, int] = {}

        def keep(x: Tensor) -> Tensor:
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            loss = self._one({n: x.detach().requires_grad_() for n, x in self.split(self.center).items()}, data)
        del loss
        self._ready[key] = sum(n for at, n in kept.items() if at not in shared)
        return int(self._ready[key])

    def _bytes(self, kind: str, data: Any) -> int:
        return self.activations(_of(data, 0) if kind == "own" else data)

    def _together(self, kind: str, w: Tensor, data: Any) -> int:
        """How many copies go at once; worked out once for data of a shape."""
        key = ("together", kind, len(w), tuple(x.shape for x in leaves_of(data)))
        if key not in self._ready:
            if len(w) == 1 or self._turns(kind, data):
                self._ready[key] = 1 if kind == "each" else len(w)  # which take turns anyway
            else:
                self._ready[key] = min(max(MEMORY // max(self._bytes(kind, data), 1), 1), len(w))
        return int(self._ready[key])

    def _turns(self, kind: str, data: Any) -> bool:
        if self.way is not None or self.center.device.type != "cpu":
            return self.way in ("turns", "loop")
        return len(self.center) > LARGE or self._bytes(kind, data) > WIDE

    def _call(self, kind: str, w: Tensor, data: Any) -> tuple[Tensor, ...]:
        leaves, spec = pytree.tree_flatten(data)
        if any(
            not isinstance(x, Tensor) and leaves_of(x) for x in leaves
        ):  # tensors inside an object of the user's own
            return self._loop(kind, w, data)
        given = tuple((x.shape, x.dtype) if isinstance(x, Tensor) else repr(x) for x in leaves)
        key = (kind, tuple(w.shape), spec, given)
        if key not in self._ready:
            self._ready[key] = self._choose(kind, w, leaves, spec)
        got: tuple[Tensor, ...] = self._ready[key](w, [x for x in leaves if isinstance(x, Tensor)])
        return got

    # ---------------------------------------------------------------- the ways

    def _one(self, params: dict[str, Tensor], data: Any) -> Tensor:
        loss = replace(self.snap, data=data).loss_at(params)
        if not isinstance(loss, Tensor) or loss.numel() != 1:
            shape = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
            raise BadOption(f"the loss must be one number, a mean over the batch; it gave {shape}")
        return loss.reshape(())

    def _loop(self, kind: str, w: Tensor, data: Any) -> tuple[Tensor, ...]:
        if kind == "losses":
            with torch.no_grad(), _slow_encoder():
                return (torch.stack([self._one(self.split(row), data) for row in w]),)
        if kind == "each":
            return (torch.stack([self.losses(w, rows(data, i, i + 1)) for i in range(count(data))], 1),)
        out, grads = [], torch.zeros_like(w)
        with torch.enable_grad():
            for i, (row, to) in enumerate(zip(w, grads, strict=True)):
                point, into = self.split(row.detach()), self.split(to)
                free = self.moves[i] if self.moves and len(self.moves) == len(w) else list(point)
                needed = [point[n].requires_grad_() for n in free]
                loss = self._one(point, _of(data, i) if kind == "own" else data)
                if not loss.requires_grad:
                    raise BadOption("the loss does not depend on the trainable parameters through autograd")
                got = torch.autograd.grad(loss, needed, allow_unused=True, materialize_grads=True)
                for n, g in zip(free, got, strict=True):
                    into[n].copy_(g)
                out.append(loss.detach())
        return torch.stack(out), grads

    def _choose(self, kind: str, w: Tensor, leaves: list[Any], spec: Any) -> Any:
        def rebuilt(tensors: Sequence[Tensor]) -> Any:
            rest = iter(tensors)
            return pytree.tree_unflatten([next(rest) if isinstance(x, Tensor) else x for x in leaves], spec)

        def loop(w: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
            return self._loop(kind, w, rebuilt(tensors))

        def stacked(w: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
            with sdpa_kernel(SDPBackend.MATH):  # which batches; the fused kernels do not
                if kind == "gradients":
                    data = rebuilt(tensors)
                    grads, losses = vmap(grad_and_value(lambda p: self._one(p, data)))(self.split(w))
                    return losses, torch.cat([g.reshape(len(w), -1) for g in grads.values()], 1)
                dims = tuple(0 if x.ndim else None for x in tensors)
                if kind == "own":
                    at = vmap(grad_and_value(lambda p, *x: self._one(p, rebuilt(x))), in_dims=(0, *dims))
                    grads, losses = at(self.split(w), *tensors)
                    return losses, torch.cat([g.reshape(len(w), -1) for g in grads.values()], 1)
                with torch.no_grad(), _slow_encoder():
                    if kind == "losses":
                        return (vmap(lambda p: self._one(p, rebuilt(tensors)))(self.split(w)),)
                    singles = [x[:, None] if x.ndim else x for x in tensors]  # examples inside: one product for all
                    each = lambda p: vmap(lambda *x: self._one(p, rebuilt(x)), in_dims=dims)(*singles)  # noqa: E731
                    return (vmap(each)(self.split(w)),)

        def turns(one: Any, w: Tensor, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
            losses, grads = w.new_empty(len(w)), torch.empty_like(w)
            into = self.split(grads).values()
            for i, row in enumerate(w):
                losses[i], *parts = one(row, _own(tensors, i) if kind == "own" else tensors)
                for to, g in zip(into, parts, strict=True):
                    to[i] = g
            return losses, grads

        def recorded(way: str) -> Any:
            if way == "stacked":
                return stacked
            if way == "turns":
                one = lambda row, tensors: self._gradient(row, rebuilt(tensors))  # noqa: E731
                return partial(turns, traced(one, w[0], _own(tensors, 0) if kind == "own" else tensors))
            made = traced(stacked, w, tensors)
            return graphed(made, w, tensors) if way == "graphed" else made

        keep_heap()
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        alone = kind != "each" and self._turns(kind, rebuilt(tensors))
        many = alone and 4 * self._bytes(kind, rebuilt(tensors)) > MEMORY  # the tracer keeps every one of them
        plain = kind == "losses" or self.moves or many if alone else self.way == "turns"  # the last: single examples
        if self.way == "loop" or plain:
            return loop
        g = torch.Generator().manual_seed(0)
        size = 1e-2 * self.center.abs().mean() + 1e-3
        apart = self.center + size * torch.randn(w.shape, generator=g, dtype=w.dtype).to(w)
        order = torch.randperm(max((len(x) for x in tensors if x.ndim), default=1), generator=g)
        other = [x[order[order < len(x)].to(x.device)] if x.ndim else x for x in tensors]
        if alone:  # one copy tells
            apart, other = apart[:1], [x[:1] if x.ndim else x for x in other] if kind == "own" else other
        few = slice(None) if kind != "each" else slice(4)
        moves, self.moves = self.moves, None  # the other ways give all gradients
        truth = loop(apart, [x[few] if x.ndim else x for x in other])
        self.moves = moves
        together = [way for way in WAYS[not w.is_cuda : -1] if (way == "turns") is alone]
        for way in together if self.way is None else [self.way]:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    made = recorded(way)
                    got = made(apart, other)
                    if all(_near(a[:, few] if kind == "each" else a, b) for a, b in zip(got, truth, strict=True)):
                        return made
            except Exception:  # a model that vmap or the tracer cannot take: the next way can
                if self.way is not None:
                    raise
        return loop

    def _gradient(self, row: Tensor, data: Any) -> tuple[Tensor, ...]:
        """Loss and gradients, one for each parameter, of one copy, without writing in place: to be recorded."""
        point = {n: x.requires_grad_() for n, x in self.split(row.detach()).items()}
        with torch.enable_grad():
            loss = self._one(point, data)
            got = torch.autograd.grad(loss, list(point.values()), allow_unused=True, materialize_grads=True)
        return loss.detach(), *got


def _own(tensors: Sequence[Tensor], copy: int) -> list[Tensor]:
    """Of tensors with the copies first, those of one."""
    return [x[copy] if x.ndim else x for x in tensors]


def _of(data: Any, copy: int) -> Any:
    """What one copy has of data with the copies first."""
    return mapped(data, lambda t: t[copy] if t.ndim else t)


@contextmanager
def _slow_encoder() -> Iterator[None]:
    """Without the fused pass that torch's own transformer layers take where there is no gradient.

    It does not batch, and on a GPU it reads biases that must lie at multiples of 16 bytes, which parts of a row need not.
    """
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _near(a: Tensor, b: Tensor) -> bool:
    scale = b.abs().amax(-1, keepdim=True) if b.ndim > 1 else b.abs() + 1e-3
    return bool(((a - b).abs() <= 2e-3 * scale + 1e-6).all())
