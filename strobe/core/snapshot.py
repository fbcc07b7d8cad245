"""A model at one moment, with the loss and the data to measure it on."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp
from torch.nn.attention import SDPBackend, sdpa_kernel


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
        return functional_call(host, {f"model.{k}": v for k, v in params.items()}, (self.data,))

    def hvp(self, v: dict[str, Tensor]) -> dict[str, Tensor]:
        """H v, the loss Hessian times a vector: forward over reverse, about four gradients. The slow, obvious one."""
        with self.quiet(), sdpa_kernel(SDPBackend.MATH):  # fused attention has no second derivative
            return jvp(grad(self.loss_at), (self.params(),), (v,))[1]

    @contextmanager
    def quiet(self) -> Iterator[nn.Module]:
        """The model in `mode`, with parameters, buffers, modes, gradients and random states put back on exit."""
        modes = {m: m.training for m in self.model.modules()}
        buffers = {b: b.detach().clone() for b in self.model.buffers()} if self.mode == "train" else {}
        grads = {p: p.grad for p in self.model.parameters()}
        devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
        self.model.train(self.mode == "train")
        try:
            with torch.random.fork_rng(devices=devices), torch.enable_grad():
                yield self.model
        finally:
            for module, training in modes.items():
                module.training = training
            with torch.no_grad():
                for b, kept in buffers.items():
                    b.copy_(kept)
            for p, g in grads.items():
                p.grad = g


class _Host(nn.Module):
    def __init__(self, model: nn.Module, loss: Callable[[nn.Module, Any], Tensor]) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, data: Any) -> Tensor:
        return self.loss(self.model, data)
