"""What ran inside a model during one forward pass: every module call, every attention pattern, every matrix product."""

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from strobe.app.look_parts import tensors

_PRODUCTS = {"linear", "matmul", "__matmul__", "mm"}
_NORMS = {"layer_norm", "rms_norm"}


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One call of a module: `at` is its place in the order of beginnings, `out` what it returned."""

    at: int
    path: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    out: Any

    def first(self) -> Tensor | None:
        """The output, or the first tensor of it."""
        return next((t for _, t in tensors(self.out)), None)

    def given(self) -> Tensor | None:
        """The first input that is a tensor."""
        return next((t for t in (*self.args, *self.kwargs.values()) if isinstance(t, Tensor)), None)


@dataclass(frozen=True, slots=True, eq=False)
class Made:
    """A tensor made by a torch function in module `path`: an attention pattern, a product, a normalised stream."""

    at: int
    path: str
    how: str
    out: Tensor
    given: Tensor | None = None
    again: Callable[[Tensor], Tensor] | None = None  # the same function of another first argument
    weight: Tensor | None = None


class Trace(TorchFunctionMode):
    """Records while its block runs; `calls` are in the order in which they ended.

    Fused attention hides its pattern: it is computed again from what the kernel was given. Nothing is replaced:
    whoever calls gets what it asked for.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.calls: list[Call] = []
        self.patterns: list[Made] = []
        self.products: list[Made] = []
        self.norms: list[Made] = []
        self._stack: list[tuple[int, str]] = []
        self._n = 0

    def __enter__(self) -> "Trace":
        self._hooks = ExitStack()
        for path, module in self.model.named_modules():
            before = module.register_forward_pre_hook(partial(self._begin, path))
            after = module.register_forward_hook(partial(self._end, path), with_kwargs=True)
            self._hooks.callback(before.remove)
            self._hooks.callback(after.remove)
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.close()
        super().__exit__(*error)

    def root(self) -> Call | None:
        """The last call of the model itself."""
        return next((c for c in reversed(self.calls) if not c.path), None)

    def _tick(self) -> int:
        self._n += 1
        return self._n

    def _begin(self, path: str, module: nn.Module, args: Any) -> None:
        self._stack.append((self._tick(), path))

    def _end(self, path: str, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        at = self._n
        while self._stack:  # a call that raised inside its own forward left its beginning behind
            at, name = self._stack.pop()
            if name == path:
                break
        self.calls.append(Call(at, path, module, args, kwargs, out))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.multi_head_attention_forward:
            return self._heads(func, args, kwargs)
        out = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if name in ("softmax", "scaled_dot_product_attention"):
            pattern = out if name == "softmax" else _pattern(*args, **kwargs)
            self.patterns.append(Made(self._tick(), self._here(), name, pattern.detach()))
        elif name in _PRODUCTS | _NORMS and args and isinstance(out, Tensor):
            again = partial(_again, func, args[1:], kwargs)
            weight = next((a for a in args[1:] if isinstance(a, Tensor)), kwargs.get("weight"))
            made = Made(self._tick(), self._here(), name, out, args[0], again, weight)
            (self.products if name in _PRODUCTS else self.norms).append(made)
        return out

    def _here(self) -> str:
        return self._stack[-1][1] if self._stack else ""

    def _heads(self, func: Any, args: Any, kwargs: Any) -> Any:
        """`nn.MultiheadAttention`, with a pattern for each head, whatever its caller wanted to know."""
        bound = inspect.signature(func).bind(*args, **kwargs)
        wanted = bound.arguments.get("need_weights", True)
        mean = bound.arguments.get("average_attn_weights", True)
        bound.arguments |= {"need_weights": True, "average_attn_weights": False}
        out, pattern = func(*bound.args, **bound.kwargs)
        self.patterns.append(Made(self._tick(), self._here(), "multi_head_attention", pattern.detach()))
        return out, (pattern.mean(-3) if mean else pattern) if wanted else None


def _again(func: Any, rest: tuple[Any, ...], kwargs: dict[str, Any], x: Tensor) -> Tensor:
    return func(x, *rest, **kwargs)


@torch.no_grad()
def _pattern(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(q kᵀ · scale + mask): what `scaled_dot_product_attention` mixes the values with, before dropout."""
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scores = query.float() @ key.float().transpose(-1, -2) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        hidden = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(hidden, -torch.inf)
    if attn_mask is not None:
        scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
    return scores.softmax(-1)
