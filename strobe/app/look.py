"""Looks: what a page shows of a model at one step. Each is a function of a snapshot that returns plain data.

    look(snap, kit, **args) -> dict; floats finite (None where not), 5 significant digits, pictures at most 256 x 256

They work on any `nn.Module`: module paths are the user's own. A look leaves no trace on the model (`Snapshot.quiet`).
This file: the model itself. look_language.py and look_layers.py: one text through it. look_examples.py and
look_dose.py: many examples, and what an edit does to them; look_directions.py and look_concept.py: which directions there
are to edit; look_front.py: what an edit leaves of a trait, and what it costs.
"""

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from strobe.app.look_concept import concept
from strobe.app.look_directions import directions
from strobe.app.look_dose import dose
from strobe.app.look_examples import MOST, PerExample, examples
from strobe.app.look_front import front
from strobe.app.look_language import shown, tokens
from strobe.app.look_layers import attention, head_sites, lens
from strobe.app.look_parts import Kit, kit_of, moments, num, picture, real, tensors
from strobe.core.data import examples_in
from strobe.core.errors import BadOption, NameNotFound, SiteNotFound, near
from strobe.core.site import Site
from strobe.core.snapshot import Snapshot
from strobe.core.tap import tap

__all__ = ["VIEWS", "Kit", "activation", "kit_of", "look", "modules", "parameter"]

BINS = 24
SAMPLED = 1 << 20  # entries of a parameter that its histogram counts


def look(view: str, snap: Snapshot, kit: Kit | None = None, **args: Any) -> dict[str, Any]:
    """The look called `view`. Raises `NameNotFound` with near misses, `BadOption` for an argument it does not take."""
    if view not in VIEWS:
        raise NameNotFound(f"there is no look {view!r}; {near(view, VIEWS)}")
    return VIEWS[view](snap, kit or Kit(), **args)


# ---------------------------------------------------------------- the module tree


def modules(snap: Snapshot, kit: Kit) -> dict[str, Any]:
    """The module tree: sites with the shapes they have on the whole probe, parameters, and their gradients.

    `grad_norm` is ‖∂L/∂w‖ of the loss on the whole probe. `loss.err` is the standard error over examples, where the
    loss is the mean (or the sum) of its examples' losses, else None. Cost: two forwards and a backward.
    """
    sites: dict[str, dict[str, list[int]]] = {}
    with snap.quiet() as model:
        named = dict(model.named_modules())
        with ExitStack() as hooks:
            for path, module in named.items():
                hooks.callback(module.register_forward_hook(partial(_note_shapes, sites, path)).remove)
            loss = snap.loss(model, snap.data)
        grads = _gradients(model, loss)
        trace, language = _one(snap, kit)
        return {
            "modules": [_module(path, m, sites.get(path, {}), grads) for path, m in named.items()],
            "total": sum(p.numel() for p in model.parameters()),
            "language": language,
            "examples": examples_in(snap.data),
            "heads": head_sites(trace) if trace else [],
            "loss": {"value": num(loss), "err": _loss_err(snap, float(loss.detach()))},
        }


def _note_shapes(sites: dict[str, Any], path: str, module: nn.Module, args: Any, out: Any) -> None:
    for item, x in tensors(out):
        sites.setdefault(path, {})[f"{path}:out.{item}" if item else path] = list(x.shape)


def _gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    wanted = {k: p for k, p in model.named_parameters() if p.requires_grad}
    if not wanted or not loss.requires_grad or loss.ndim:
        return {}
    got = torch.autograd.grad(loss, list(wanted.values()), allow_unused=True)
    return {k: g for k, g in zip(wanted, got, strict=True) if g is not None}


def _module(path: str, module: nn.Module, sites: dict[str, list[int]], grads: dict[str, Tensor]) -> dict[str, Any]:
    own = dict(module.named_parameters(recurse=False))
    return {
        "path": path,
        "kind": type(module).__name__,
        "params": sum(p.numel() for p in own.values()),
        "depth": path.count(".") + 1 if path else 0,
        "sites": [{"site": s, "shape": shape} for s, shape in sites.items()],
        "weights": [_weights(k, p, grads.get(f"{path}.{k}" if path else k)) for k, p in own.items()],
    }


def _weights(name: str, p: Tensor, grad: Tensor | None) -> dict[str, Any]:
    x = real(p)
    flat = x.flatten()
    some = flat[:: -(-len(flat) // SAMPLED)] if len(flat) else flat
    counts, edges = np.histogram(some[some.isfinite()].double().cpu().numpy(), bins=BINS)
    return {
        "name": name,
        "shape": list(p.shape),
        **moments(x),
        "norm": num(x.norm()),
        "hist": {"edges": [num(e) for e in edges], "counts": counts.tolist()},
        "grad_norm": None if grad is None else num(real(grad).norm()),
        "grad_std": None if grad is None else moments(grad)["std"],
    }


def _one(snap: Snapshot, kit: Kit) -> tuple[Any, bool]:
    """One example through the model, and whether it is a language model; nothing where the probe has no examples."""
    try:
        with shown(snap, kit) as seen:
            return seen.trace, seen.logits is not None
    except (BadOption, RuntimeError, TypeError, ValueError, IndexError):  # a loss that takes whole batches only
        return None, False


def _loss_err(snap: Snapshot, loss: float) -> float | None:
    try:
        each = PerExample(snap, MOST).first
    except (BadOption, RuntimeError, TypeError, ValueError, IndexError):
        return None
    n, near_to = len(each), 1e-3 * max(abs(loss), 1e-9)
    if n < 2 or n < examples_in(snap.data):
        return None
    spread = float(each.std()) * n**0.5
    if abs(float(each.mean()) - loss) <= near_to:
        return num(spread / n)
    return num(spread) if abs(float(each.sum()) - loss) <= near_to else None


# ---------------------------------------------------------------- one tensor


def activation(
    snap: Snapshot, kit: Kit, *, site: str, text: str | None = None, example: int = 0, image: bool = True
) -> dict[str, Any]:
    """What one example or text has at a site, as a picture: rows are tokens where there are any, columns units.

    The batch's dimension (of size 1) is left out; with more than two left, all but the last are stacked as rows.
    """
    at = Site.parse(site)
    if at.part == "param":
        return parameter(snap, kit, site=site)
    at.module(snap.model)  # a module that is not there is said before anything runs
    with shown(snap, kit, text, example, whole=True) as seen, tap(snap.model, [at]) as got:
        seen.again()
        x = got[str(at)]
        inner = x[0] if x.ndim and x.shape[0] == 1 else x
        fed = len(seen.logits) if seen.logits is not None else 0
        names = ["unit"] if inner.ndim < 2 else ["row", "column"] if inner.ndim == 2 else ["channel, row", "column"]
        if inner.ndim >= 2 and inner.shape[-2] == fed:
            names = ["token" if inner.ndim == 2 else "head, token", "token" if inner.shape[-1] == fed else "unit"]
        return _drawn(str(at), x, inner, ["", *names][-2:], image)


def parameter(snap: Snapshot, kit: Kit, *, site: str, image: bool = True) -> dict[str, Any]:
    """A parameter (or buffer) as a picture. Raises `SiteNotFound` with near misses, `BadOption` for another site."""
    at = Site.parse(site)
    if at.part != "param":
        raise BadOption(f"{site!r} is not a parameter; write path:param.weight")
    x = at.view(at.parameter(snap.model)).detach()
    names = ["", "entry"] if x.ndim < 2 else ["out", "in"] if x.ndim == 2 else ["out, ...", "last"]
    return _drawn(str(at), x, x, names, image)


def _drawn(site: str, x: Tensor, inner: Tensor, names: list[str], image: bool) -> dict[str, Any]:
    if not x.numel():
        raise SiteNotFound(f"{site}: the tensor there is empty, shape {tuple(x.shape)}")
    values, pooled = picture(inner) if image else (None, False)
    return {"site": site, "shape": list(x.shape), "values": values, "axes": names, **moments(x), "pooled": pooled}


VIEWS: dict[str, Callable[..., dict[str, Any]]] = {
    "modules": modules, "tokens": tokens, "attention": attention, "lens": lens, "activation": activation,
    "parameter": parameter, "examples": examples, "directions": directions, "dose": dose,
    "concept": concept, "front": front,
}  # fmt: skip
