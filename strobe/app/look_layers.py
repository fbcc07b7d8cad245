"""Looks between the layers of one example or text: attention patterns, where the heads are, the lens."""

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from strobe.app.look_language import best, check_top, shown, words
from strobe.app.look_parts import SIDE, Kit, nums, tensors
from strobe.app.look_trace import Call, Made, Trace
from strobe.core.errors import BadOption
from strobe.core.snapshot import Snapshot


def attention_layers(trace: Trace) -> list[Made]:
    """Every attention pattern, (H, T, T), in the order in which they were made; each is named once.

    A module that outputs a pattern names it by its site; otherwise it is the module in which the softmax ran.
    """
    averaged = {(m.path, 3) for m in trace.patterns if m.how == "multi_head_attention"}  # over heads, in its output
    made = [
        Made(call.at, f"{call.path}:out.{item}" if item else call.path, "output", x.detach())
        for call in trace.calls
        for item, x in tensors(call.out)
        if _is_pattern(x, 2) and (call.path, x.ndim) not in averaged
    ]
    found: list[Made] = []
    for m in made + [m for m in trace.patterns if _is_pattern(m.out, 1)]:
        twin = next((i for i, f in enumerate(found) if _same(m.out, f.out)), None)
        if twin is None:
            found.append(m)
        else:  # the name of the first, the place of the last
            found[twin] = replace(found[twin], at=max(m.at, found[twin].at))
    found.sort(key=lambda m: m.at)
    return [Made(m.at, m.path, m.how, m.out[0] if m.out.ndim == 4 else m.out) for m in found]


def _is_pattern(x: Tensor, least: int = 2) -> bool:
    """(1, H, T, T) or (H, T, T), not negative, rows that sum to 1 (a row that was masked whole does not count)."""
    if x.ndim not in (3, 4) or not x.is_floating_point() or x.shape[-1] != x.shape[-2] or x.shape[-1] < least:
        return False
    if x.ndim == 4 and x.shape[0] != 1:
        return False
    x = x.detach().float()
    kept = x[x.isfinite().all(-1)]
    return bool(len(kept) and (kept >= 0).all() and ((kept.sum(-1) - 1).abs() < 1e-2).all())


def attention(snap: Snapshot, kit: Kit, *, text: str | None = None, example: int = 0) -> dict[str, Any]:
    """The attention pattern of every head, rows are the tokens that look, columns what they look at; 4 digits.

    Where it was found: `how` is "output" (a module's), "softmax" (one that ran inside the module),
    "scaled_dot_product_attention" (computed again from q, k and mask) or "multi_head_attention" (torch's own).
    """
    with shown(snap, kit, text, example) as seen:
        layers = attention_layers(seen.trace)
        if not layers:
            raise BadOption(
                "no attention pattern was seen: nothing (heads, tokens, tokens) with rows that sum to 1 came out of a module, "
                "a softmax or scaled_dot_product_attention (flex and custom kernels hide theirs)"
            )
        size = min(SIDE, max(layer.out.shape[-1] for layer in layers))
        ids = None if seen.ids is None else seen.ids[:size]
        names = [{"id": i, "text": str(i)} for i in range(size)] if ids is None else words(kit, ids)
        return {
            "tokens": names[: layers[0].out.shape[-1]],
            "layers": [
                {"site": layer.path, "how": layer.how, "heads": _four(layer.out[:, :SIDE, :SIDE])} for layer in layers
            ],
            "truncated": seen.truncated or any(layer.out.shape[-1] > SIDE for layer in layers),
        }


def _four(pattern: Tensor) -> list[Any]:
    return pattern.double().nan_to_num().mul(1e4).round().div(1e4).cpu().tolist()


def head_sites(trace: Trace) -> list[dict[str, Any]]:
    """Where the heads of each attention layer can be edited one by one: site templates with {} for the head.

    Where they are an axis of a module's output, that; where they lie side by side before an output projection, its
    input; in `nn.MultiheadAttention`, which calls no module for it, the columns of the projection's weight.
    """
    found = []
    for m in attention_layers(trace):
        path, heads = m.path.partition(":")[0], len(m.out)
        holder = path.rpartition(".")[0] if m.how == "output" and ":" not in m.path else path
        inside = [c for c in trace.calls if c.at > m.at and c.path.startswith(f"{holder}." if holder else "")]
        if template := _template(m, holder, heads, inside):
            found.append({"site": template, "count": heads, "layer": holder})
    return found


def _template(m: Made, holder: str, heads: int, inside: list[Call]) -> str | None:
    size = m.out.shape[-1]
    for c in inside:
        x = c.first()
        if x is not None and x.ndim == 4 and x.shape[:3] == (1, heads, size) and c.path and not _is_pattern(x):
            return f"{c.path}@1[{{}}]"
    if m.how == "multi_head_attention":
        return f"{holder}.out_proj:param.weight/{heads}[{{}}]".lstrip(".")
    for c in reversed(inside) if ":" in m.path else inside:
        x, weight = c.given(), getattr(c.module, "weight", None)
        flat = x is not None and x.ndim == 3 and x.shape[:2] == (1, size) and x.shape[2] % heads == 0
        if flat and isinstance(weight, Tensor) and weight.ndim == 2:
            return f"{c.path}:in/{heads}[{{}}]"
    return None


# ---------------------------------------------------------------- the lens


def lens(snap: Snapshot, kit: Kit, *, text: str | None = None, example: int = 0, top: int = 1) -> dict[str, Any]:
    """What the model would say if it stopped early: each state of the residual stream through last norm and unembedding.

        logits_l = U norm(x_l);  the loss of a row is that of these logits, in nats per token

    The unembedding is the matrix product whose output is the logits, the norm the module whose output is its input;
    the rows are the input of the first block, the output of each, and what the norm is given where that is none of
    them: the last row is always the model's own output. Ref: nostalgebraist 2020, the logit lens.
    Regime: a model whose blocks write to one stream; early rows are read in the last layer's basis, which they need
    not use. `exact`: the unembedding's output is the model's own logits (no soft cap or scale comes after it).
    """
    check_top(top)
    with shown(snap, kit, text, example) as seen, torch.no_grad():
        ids, logits = seen.language()
        trace = seen.trace
        unembed = _unembedding(trace, logits)
        path, norm, last = _norm(trace, unembed)
        stream = _stream(trace, last, path)
        if not stream or not _same(stream[-1][1], last):
            stream.append((f"{path or unembed.path}:in", last))
        found = []
        for site, x in stream:
            out = unembed.again(norm(x))[0]  # type: ignore[misc]
            found.append({"site": site, "top": best(kit, out, top), "loss": [None, *nums(seen.losses(out))]})
        return {
            "tokens": words(kit, ids),
            "rows": found,
            "norm": path,
            "unembed": unembed.path or _name_of(snap.model, unembed.weight),
            "exact": torch.equal(unembed.out[0], logits),
            "truncated": seen.truncated,
        }


def _name_of(model: nn.Module, weight: Tensor | None) -> str:
    """The name of the parameter that was multiplied with, where a product ran outside of any module's own call."""
    return next(
        (k for k, p in model.named_parameters() if weight is not None and p.data_ptr() == weight.data_ptr()), ""
    )


def _unembedding(trace: Trace, logits: Tensor) -> Made:
    fits = [p for p in trace.products if p.out.ndim == 3 and p.out.shape == (1, *logits.shape) and p.given is not None]
    exact = [p for p in fits if torch.equal(p.out[0], logits)]
    if not fits:
        raise BadOption("no matrix product makes the logits, so there is no unembedding to look through")
    return (exact or fits)[-1]


def _norm(trace: Trace, unembed: Made) -> tuple[str | None, Callable[[Tensor], Tensor], Tensor]:
    """The last norm, what made the unembedding's input, if that was a norm outside of any block; and what it was given."""
    x = unembed.given
    assert x is not None
    makers = [c for c in trace.calls if (y := c.first()) is not None and _same(y, x)]
    if makers and _is_norm(makers[0].module, x.shape[-1]) and not _in_block(trace, makers[0].path, x.shape):
        given = makers[0].given()
        if given is not None:
            return makers[0].path, makers[0].module, given
    made = next((m for m in trace.norms if m.out is x and not makers), None)
    if made and made.again and made.given is not None:
        return made.how, made.again, made.given
    return None, lambda h: h, x


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.shape == b.shape and torch.equal(a, b))


def _is_norm(module: nn.Module, width: int) -> bool:
    own = list(module.parameters())
    return bool(re.search("norm", type(module).__name__, re.I)) or bool(own and all(p.shape == (width,) for p in own))


def _keeps(call: Call, shape: Any) -> bool:
    """Does this call map the residual stream to the residual stream?"""
    x, y = call.given(), call.first()
    return x is not None and y is not None and x.shape == shape and y.shape == shape and bool(call.path)


def _blocks(trace: Trace, shape: Any, norm: str | None) -> list[Call]:
    """The blocks: children of the outermost list of modules that keep the stream's shape, else outermost such modules."""
    keep = [c for c in trace.calls if _keeps(c, shape) and c.path != norm]
    modules = dict(trace.model.named_modules())
    lists = {
        c.path.rpartition(".")[0]: c.path.count(".")
        for c in keep
        if isinstance(modules.get(c.path.rpartition(".")[0]), nn.ModuleList | nn.Sequential | nn.ModuleDict)
    }
    if lists:
        outer = {p for p, depth in lists.items() if depth == min(lists.values())}
        keep = [c for c in keep if c.path.rpartition(".")[0] in outer]
    else:
        keep = [c for c in keep if not any(c.path.startswith(f"{k.path}.") for k in keep)]
    return sorted(keep, key=lambda c: c.at)


def _in_block(trace: Trace, path: str, shape: Any) -> bool:
    return any(path.startswith(f"{b.path}.") for b in _blocks(trace, shape, path))


def _stream(trace: Trace, last: Tensor, norm: str | None) -> list[tuple[str, Tensor]]:
    """States of the residual stream by site, in order, each state once."""
    blocks = _blocks(trace, last.shape, norm)
    if not blocks:
        embedded = [c for c in trace.calls if (y := c.first()) is not None and y.shape == last.shape and c.path]
        return [(c.path, x) for c in embedded[:1] if (x := c.first()) is not None]
    first = blocks[0].given()
    assert first is not None
    makers = [c.path for c in trace.calls if c.path and (y := c.first()) is not None and _same(y, first)]
    found = [(makers[0] if makers else f"{blocks[0].path}:in", first)]
    for c in blocks:
        y = c.first()
        if y is not None and not _same(y, found[-1][1]):
            found.append((c.path, y))
    return found
