"""A model at one moment, with the loss and the data to measure it on."""

import random
import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel

from strobe.core.errors import BadOption, StrobeError


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A model, its loss, the data, the step: two lines to make by hand from any model, no Run needed.

    `loss(model, data)` returns a scalar tensor. Every measurement runs inside `quiet()`, which leaves no trace on
    the model: `mode` "eval" (default) or "train" says in which mode the network is measured.
    """

    model: nn.Module
    loss: Callable[[nn.Module, Any], Tensor]
    data: Any
    step: int = 0
    mode: str = "eval"

    def params(self) -> dict[str, Tensor]:
        """The trainable parameters by name, detached, not copied."""
        return {k: p.detach() for k, p in self.model.named_parameters() if p.requires_grad}

    def loss_at(self, params: Mapping[str, Tensor]) -> Tensor:
        """The loss at other parameter values; works under torch.func transforms."""
        host = _Host(self.model, self.loss)
        given = {f"model.{k}": v for k, v in params.items()}
        if self.mode == "train":  # layers that update their statistics in place do it on copies
            given |= {f"model.{k}": b.clone() for k, b in self.model.named_buffers()}
        return functional_call(host, given, (self.data,))

    def hvp(self, v: dict[str, Tensor]) -> dict[str, Tensor]:
        """H v, the loss Hessian times a vector: forward over reverse, about four gradients. The slow, obvious one."""
        with self.quiet(), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():  # as in `hvp_operator`
            warnings.filterwarnings("ignore", ".*torch.jit.script", DeprecationWarning)  # torch 2.13's own jvp rules
            return jvp(grad(self.loss_at), (self.params(),), (v,))[1]

    @contextmanager
    def hvp_operator(self, names: Collection[str] | None = None) -> "Iterator[HessianOperator]":
        """v -> H v on flat vectors, in the order of `params()`: the fast one, for many products at one point.

        `names`: only these parameters vary, the block of H that they own; by default all.

        One forward and one differentiable backward are kept; each product is a single backward through them, about
        two gradients. The graph is freed on exit, after which the operator raises `StrobeError`. Raises
        `BadOption` without trainable parameters, or when the loss does not depend on them through autograd.

        >>> net = nn.Linear(2, 1, bias=False)
        >>> with Snapshot(net, lambda m, x: m(x).square().sum(), torch.eye(2)).hvp_operator() as hvp:
        ...     hvp(torch.tensor([1.0, 3.0])).tolist()
        [2.0, 6.0]
        """
        leaves = self.params()  # detached: the model's hooks do not fire
        free = {k: p.requires_grad_() for k, p in leaves.items() if names is None or k in names}
        if not free:
            raise BadOption(f"{type(self.model).__name__} has no parameter with requires_grad: there is no Hessian")
        keep_heap()
        with self.quiet(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            loss = self.loss_at(leaves)
            if not loss.requires_grad:
                raise BadOption("the loss does not depend on the trainable parameters through autograd")
            points = list(free.values())
            grads = torch.autograd.grad(loss, points, create_graph=True, allow_unused=True, materialize_grads=True)
            operator = HessianOperator(points, grads)
            del loss, grads, points, leaves, free
            try:
                yield operator
            finally:
                operator.close()

    @contextmanager
    def quiet(self) -> Iterator[nn.Module]:
        """The model in `mode`, with parameters, buffers, modes, gradients and random states put back on exit."""
        modes = {m: m.training for m in self.model.modules()}
        buffers = {b: b.detach().clone() for b in self.model.buffers()} if self.mode == "train" else {}
        grads = {p: p.grad for p in self.model.parameters()}
        python, legacy = random.getstate(), np.random.get_state()
        devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
        for p in grads:
            p.grad = None  # a backward inside would add to it in place
        self.model.train(self.mode == "train")
        try:
            with torch.random.fork_rng(devices=devices), torch.enable_grad():
                yield self.model
        finally:
            random.setstate(python)
            np.random.set_state(legacy)
            for module, training in modes.items():
                module.training = training
            with torch.no_grad():
                for b, kept in buffers.items():
                    b.copy_(kept)
            for p, g in grads.items():
                p.grad = g


def keep_heap() -> None:
    """Have glibc keep what is freed: a freed mapping of 31 MiB raises its threshold of trimming to twice that.

    Otherwise each product gives its activations back to the system and faults the same pages in again, a quarter of
    its time on a small convolution. The block is never touched, so it costs nothing, and other C libraries ignore it.
    Ref: mallopt(3), M_MMAP_THRESHOLD, "dynamic adjustment".
    """
    torch.empty(31 << 20, dtype=torch.uint8)


class HessianOperator:
    """Hessian-vector products through one kept graph; made by `Snapshot.hvp_operator`."""

    def __init__(self, points: Sequence[Tensor], grads: Sequence[Tensor]) -> None:
        self._points, self._grads = list(points), list(grads)
        self._sizes = [p.numel() for p in points]
        self._live = [i for i, g in enumerate(grads) if g.requires_grad]  # a linear parameter's gradient is constant

    def __call__(self, v: Tensor) -> Tensor:
        """H v, (parameters,) -> (parameters,)."""
        self._check()
        if v.shape != (sum(self._sizes),):
            raise BadOption(f"a product takes a flat vector of {sum(self._sizes)} numbers, got shape {tuple(v.shape)}")
        if not self._live:
            return torch.zeros_like(v)
        parts, grads = v.split(self._sizes), [self._grads[i] for i in self._live]
        weights = [parts[i].view_as(g).to(g) for i, g in zip(self._live, grads, strict=True)]
        got = torch.autograd.grad(
            grads, self._points, weights, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        return torch.cat([h.detach().reshape(-1).to(v) for h in got])

    def gradient(self) -> Tensor:
        """The gradient of the loss at this point, (parameters,): the graph holds it anyway."""
        self._check()
        return torch.cat([g.detach().reshape(-1).to(self._points[0]) for g in self._grads])

    def close(self) -> None:
        """Free the graph."""
        self._points, self._grads = [], []

    def _check(self) -> None:
        if not self._points:
            raise StrobeError("this Hessian operator is closed: its graph was freed when the block ended")


class _Host(nn.Module):
    def __init__(self, model: nn.Module, loss: Callable[[nn.Module, Any], Tensor]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, data: Any) -> Tensor:
        return self.loss(self.model, data)
