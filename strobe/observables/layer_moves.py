"""How far a step moves each layer's own output: what the layer does to the very inputs it had before."""

from typing import Any

import torch
from torch import Tensor, nn

from strobe.core.snapshot import Snapshot

Passing = dict[str, tuple[tuple[Any, ...], Tensor, float | None]]


def passing(snap: Snapshot) -> Passing:
    """{path: (inputs, output, gain)} of the modules that own a matrix, as the loss runs them, the last call of each."""
    seen: Passing = {}
    hooks = []
    for path, module in snap.model.named_modules():
        if path and any(p.ndim >= 2 for p in module.parameters(recurse=False)) and not list(module.children()):

            def keep(module: nn.Module, args: tuple[Any, ...], out: Any, path: str = path) -> None:
                if isinstance(out, Tensor) and args and isinstance(args[0], Tensor):
                    seen.pop(path, None)
                    kept = tuple(
                        a.detach().clone() if isinstance(a, Tensor) else a for a in args
                    )  # layers after may write in place
                    seen[path] = (kept, out.detach().clone(), _gain(module, kept[0], out.detach()))

            hooks.append(module.register_forward_hook(keep))
    try:
        with snap.quiet(), torch.no_grad():
            snap.loss(snap.model, snap.data)
    finally:
        for h in hooks:
            h.remove()
    return seen


def moved(snap: Snapshot, before: Passing, steps: int = 1) -> list[dict[str, Any]]:
    """One row a layer: how far its output for the inputs of `before` has moved since, for each of `steps`.

        move = rms(f_now(x) − f_then(x)) / steps     size = rms(f_then(x))     relative = move / size
        gain = rms(f_then(x) − bias) / rms(x)    None where x are indices, or nothing

    so that what earlier layers changed is left out. Of the last layer, and of one that starts at 0, relative counts a size below 1 as 1.

    >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False))
    >>> snap = Snapshot(net, lambda m, x: m(x).sum(), torch.eye(2))
    >>> then = passing(snap)
    >>> with torch.no_grad(): _ = net[0].weight.mul_(1.5)
    >>> [round(r["relative"], 3) for r in moved(snap, then)]
    [0.5, 0.0]
    """
    known, table = dict(snap.model.named_modules()), list[dict[str, Any]]()
    with snap.quiet(), torch.no_grad():
        for path, (given, was, gain) in before.items():
            move, size = _rms(known[path](*given) - was) / steps, _rms(was)
            table.append({"layer": path, "move": move, "size": size, "gain": gain})
    for row in table:
        row["relative"] = row["move"] / max(row["size"], 1.0 if row is table[-1] or row["size"] == 0 else 0.0)
    return table


def _gain(module: nn.Module, entered: Tensor, out: Tensor) -> float | None:
    size = _rms(entered) if entered.is_floating_point() else 0.0
    if not size > 0:
        return None
    bias = getattr(module, "bias", None)
    if isinstance(bias, Tensor):
        shape = [1] * out.ndim
        axis = (
            out.ndim - 1
            if isinstance(module, nn.Linear)
            else max(1, out.ndim - getattr(module, "weight", out).ndim + 1)
        )
        if out.shape[axis] == len(bias):
            shape[axis] = -1
            out = out - bias.detach().view(shape)
    return _rms(out) / size


def _rms(x: Tensor) -> float:
    return float(x.double().square().mean().sqrt())
