"""Each example's gradient of each output, held as what a layer took and what came back to it: products, never the gradients."""

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vjp, vmap
from torch.nn import functional as F  # noqa: N812

from strobe.core.data import chosen, count, leaves, mapped, rows
from strobe.core.errors import BadOption
from strobe.core.snapshot import Snapshot
from strobe.numerics.outer_products import Plain, Products

Forward = Callable[[nn.Module, Any], Tensor]


class Tangents:
    """The factors of a snapshot's gradients: `on(data)` runs it forward, `.factors(cotangents)` back.

    Layers that are proved on two examples to be products of what they take and pass back are held so (`layers`); a parameter of a
    module of the user's own (a table of positions) is given to each example apart where the model takes it so (`spread`); the
    others (`rest`), which a layer of another kind owns, or several, or one used twice, get their gradients from `vmap` of a backward
    pass, or one by one where `vmap` cannot take the model.
    """

    def __init__(
        self, snap: Snapshot, forward: Forward, data: Any, names: Sequence[str], *, plain: bool = False
    ) -> None:
        self.snap, self.forward = snap, forward
        self.point = {k: p.detach().requires_grad_() for k, p in snap.params().items()}
        self.names, self.alone, self.copies = list(names), False, False
        self.layers = {} if plain else _layers(snap.model, set(names))
        self.spread = [] if plain else _bare(snap.model, set(names))
        self.rest: list[str] = []
        two = chosen(data, torch.tensor(sorted({0, len(leaves(data)[0]) - 1})))
        try:
            self._prove(two)
        except (RuntimeError, ValueError, IndexError):  # it does not take a parameter for each example
            if not self.spread:
                raise
            self.spread = []
            self._prove(two)

    def value(self, point: dict[str, Tensor], data: Any) -> Tensor:
        """The network's outputs, (examples, outputs)."""
        out = replace(self.snap, loss=self.forward, data=data).loss_at(point)
        return out.reshape(len(out), -1)

    def on(self, data: Any) -> "Tile":
        """These examples, run forward."""
        return Tile(self, data)

    def unspread(self) -> None:
        """Give no example a parameter of its own: on some data the model takes a way on which that fails."""
        self.rest, self.spread = self.rest + self.spread, []

    def _prove(self, two: Any) -> None:
        tile = self.on(two)
        self.outputs, n = tile.out.shape[1], len(tile.out)
        cot = torch.randn(1, self.outputs, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(tile.out)
        factors = tile.held(cot)
        found = {name: g for f in factors for name, g in f.gradients()}
        if found:
            truth = {k: torch.cat(g) for k, g in self._alone(two, cot, list(found)).items()}
            size = torch.stack([g.square().sum() for g in truth.values()]).sum().sqrt()
            close = 1e4 * torch.finfo(tile.out.dtype).eps
            good = {k for k, g in found.items() if (g - truth[k]).norm() <= close * (truth[k].norm() + 1e-3 * size)}
            with torch.no_grad():
                apart = torch.cat([self.value(self.point, rows(two, i, i + 1)) for i in range(n)]) - tile.out
            if apart.norm() > close * tile.out.norm():  # the examples of a batch see each other
                good = set()
            self.layers = {k: v for k, v in self.layers.items() if {n for n in v[1:] if n} <= good}
            self.spread = [k for k in self.spread if k in good]
        else:
            self.layers, self.spread = {}, []
        held = {n for layer in self.layers.values() for n in layer[1:]} | set(self.spread)
        self.rest = [k for k in self.names if k not in held]
        item, seen = tile.out.element_size(), [v for k, v in tile.seen.items() if k in self.layers]
        made = [*self.rest, *self.spread]
        back = sum(2 * y.numel() for _, y in seen) / n
        self.kept = item * sum(x.numel() + 2 * y.numel() for x, y in seen) / n  # bytes of an example: its graph
        self.each = item * (back + sum(self.point[k].numel() for k in made))  # and each of its outputs

    def _alone(self, data: Any, cot: Tensor, names: Sequence[str]) -> dict[str, list[Tensor]]:
        ones = [self.by_one(rows(data, i, i + 1), cot, names) for i in range(len(leaves(data)[0]))]
        return {k: [o[k] for o in ones] for k in names}

    def by_one(self, one: Any, cot: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """Gradients of one example, as a batch of one, by autograd: {name: (1, cotangents, numbers)}. The slow, obvious ones."""
        with torch.enable_grad():
            out = self.value(self.point, one)[0]
            needed = [self.point[k] for k in names]
            got = [
                torch.autograd.grad(out @ c, needed, retain_graph=True, allow_unused=True, materialize_grads=True)
                for c in cot
            ]
        return {k: torch.stack([g[i].reshape(-1) for g in got])[None] for i, k in enumerate(names)}

    def by_vmap(self, data: Any, cot: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
        """The same of all examples at once: {name: (examples, cotangents, numbers)}."""
        fixed = {k: p.detach() for k, p in self.point.items() if k not in names}
        free = {k: self.point[k].detach() for k in names}
        given = leaves(data)

        def one(*example: Tensor) -> dict[str, Tensor]:
            rest = iter(example)
            single = mapped(data, lambda t: next(rest)[None] if t.ndim else t)
            pull: Any = vjp(lambda p: self.value(fixed | p, single)[0], free)[1]
            got: dict[str, Tensor] = vmap(pull)(cot)[0]
            return got

        return {k: g.flatten(2) for k, g in vmap(one)(*given).items()}


class Tile:
    """Some examples after the forward pass, with its graph."""

    def __init__(self, of: Tangents, data: Any) -> None:
        self.of, self.data = of, data
        self.out, self.own = self._run()
        if not of.copies and any(t._version != was for pair in self.versions.values() for t, was in pair):
            of.copies = True  # the model writes in place on what a layer took or gave
            self.out, self.own = self._run()
        n = len(self.out)
        whole = {k for k, v in self.calls.items() if v == 1}
        for k in [k for k, (x, y) in self.seen.items() if k not in whole or len(x) != n or len(y) != n]:
            del self.seen[k]
        self.deep = any(y.ndim > 3 for _, y in self.seen.values())  # convolutions are slower under vmap

    def _run(self) -> tuple[Tensor, dict[str, Tensor]]:
        of = self.of
        self.seen: dict[str, tuple[Tensor, Tensor]] = {}
        self.versions: dict[str, list[tuple[Tensor, int]]] = {}
        self.calls: dict[str, int] = {}
        modules = dict(of.snap.model.named_modules())

        def see(path: str, module: nn.Module, args: tuple[Any, ...], out: Any) -> Any:
            self.calls[path] = self.calls.get(path, 0) + 1
            if not (args and isinstance(args[0], Tensor) and isinstance(out, Tensor) and out.requires_grad):
                return None
            x = args[0].detach().clone() if of.copies else args[0].detach()
            self.seen[path], self.versions[path] = (x, out), [(x, x._version), (out, out._version)]
            return out.clone() if of.copies else None

        count, given = len(leaves(self.data)[0]), {k: of.point[k].detach() for k in of.spread}
        own = {k: p.expand(count, *p.shape).clone().requires_grad_() for k, p in given.items()}
        with ExitStack() as stack, torch.enable_grad():
            for path in of.layers:
                stack.callback(modules[path].register_forward_hook(partial(see, path)).remove)
            out = of.value(of.point | own, self.data)
        return out, own

    def factors(self, cot: Tensor) -> list[Any]:
        """Of cotangents (s, outputs): the factors of all parameters' gradients."""
        found, of = self.held(cot), self.of
        if not of.rest:
            return found
        got: dict[str, Tensor] = {}
        if not of.alone:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    got = of.by_vmap(self.data, cot, of.rest)
            except (RuntimeError, ValueError, TypeError, NotImplementedError):  # vmap cannot take this model
                of.alone = True
        if of.alone:
            got = {k: torch.cat(g) for k, g in of._alone(self.data, cot, of.rest).items()}
        return found + [Plain(k, got[k]) for k in of.rest]

    def held(self, cot: Tensor) -> list[Any]:
        """The factors of those layers that are products, and of the parameters that each example has its own of."""
        of = self.of
        seen = {k: v for k, v in self.seen.items() if k in of.layers}
        own = [self.own[k] for k in of.spread]
        points = [y for _, y in seen.values()] + own
        if not points:
            return []
        weights = cot.detach()[:, None, :].expand(len(cot), *self.out.shape)
        keep: dict[str, Any] = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
        pull = partial(torch.autograd.grad, self.out, points, **keep)
        back: Sequence[Tensor] = []
        if len(cot) > 1 and not self.deep:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    back = pull(grad_outputs=weights, is_grads_batched=True)
            except RuntimeError:  # a backward pass that does not batch
                self.deep = True
        if not back:
            back = [torch.stack(g) if len(g) > 1 else g[0][None] for g in zip(*map(pull, weights), strict=True)]
        found: list[Any] = []
        for (path, (x, _)), g in zip(seen.items(), back, strict=False):
            found += _factor(*of.layers[path], x, g.detach())
        for k, g in zip(of.spread, back[len(seen) :], strict=True):
            found.append(Plain(k, g.transpose(0, 1).flatten(2)))
        return found


def _layers(model: nn.Module, names: set[str]) -> dict[str, tuple[nn.Module, str | None, str | None]]:
    """Layers of the kinds that are products, with the names of their trainable weight and bias; none that shares a parameter."""
    owners: dict[int, int] = {}
    for module in model.modules():
        for p in module.parameters(recurse=False):
            owners[id(p)] = owners.get(id(p), 0) + 1
    found: dict[str, tuple[nn.Module, str | None, str | None]] = {}
    for path, m in model.named_modules():
        own = dict(m.named_parameters(recurse=False))
        if not set(own) <= {"weight", "bias"} or any(owners[id(p)] > 1 for p in own.values()) or not _fits(m):
            continue
        full = [f"{path}.{k}" if path else k for k in ("weight", "bias")]
        weight, bias = (k if k in names else None for k in full)
        if weight or bias:
            found[path] = (m, weight, bias)
    return found


def _bare(model: nn.Module, names: set[str]) -> list[str]:
    """Trainable parameters that a module of the user's own has, and no other."""
    homes: dict[int, list[tuple[str, nn.Module]]] = {}
    for path, m in model.named_modules():
        for k, p in m.named_parameters(recurse=False):
            homes.setdefault(id(p), []).append((f"{path}.{k}" if path else k, m))
    found = [h[0] for h in homes.values() if len(h) == 1 and not type(h[0][1]).__module__.startswith("torch.nn")]
    return [k for k, _ in found if k in names]


def _fits(m: Any) -> bool:
    if type(m) is nn.Embedding:
        return m.padding_idx is None and m.max_norm is None and not m.scale_grad_by_freq
    if type(m) in (nn.Conv1d, nn.Conv2d):
        return m.groups == 1 and m.padding_mode == "zeros" and not isinstance(m.padding, str)
    return type(m) in (nn.Linear, nn.LayerNorm) and getattr(m, "elementwise_affine", True)


def _factor(m: Any, weight: str | None, bias: str | None, x: Tensor, g: Tensor) -> list[Any]:
    """Factors of one layer from what it took (n, ...) and what came back (s, n, ...)."""
    s, n = g.shape[:2]
    if isinstance(m, nn.LayerNorm):
        size = m.weight.numel()
        normal = F.layer_norm(x, m.normalized_shape, None, None, m.eps).reshape(n, 1, -1, size)
        g = g.transpose(0, 1).reshape(n, s, -1, size)
        both = [Plain(weight, (g * normal).sum(2))] if weight else []
        return [*both, Plain(bias, g.sum(2))] if bias else both
    if isinstance(m, nn.Conv1d | nn.Conv2d):
        dims = len(m.kernel_size)  # windows as views, copied once: three times as fast as F.unfold
        around: Any = [p for p in m.padding[::-1] for _ in range(2)]
        x = F.pad(x, around) if any(around) else x
        for axis, (k, gap, step) in enumerate(zip(m.kernel_size, m.dilation, m.stride, strict=True)):
            x = x.unfold(2 + axis, gap * (k - 1) + 1, step)[..., ::gap]
        order = (0, 1, *range(2 + dims, 2 + 2 * dims), *range(2, 2 + dims))
        a = x.permute(order).reshape(n, m.weight[0].numel(), -1).transpose(1, 2)
        return [Products(weight, bias, a, g.flatten(3).permute(1, 0, 3, 2))]
    b = g.transpose(0, 1).reshape(n, s, -1, g.shape[-1])
    if isinstance(m, nn.Embedding):
        return [Products(weight, None, x.reshape(n, -1), b, m.num_embeddings)]
    return [Products(weight, bias, x.reshape(n, -1, x.shape[-1]), b)]


def inputs_of(data: Any, forward: Forward | None) -> Any:
    """What the network is run on: with a forward of the user's own all of the data, else their first element. Raises `BadOption`."""
    taken = data[0] if forward is None and isinstance(data, tuple | list) and data else data
    if forward is None and not isinstance(taken, Tensor):
        raise BadOption(
            f"the data are a {type(data).__name__}: say what the network's outputs on them are, forward=lambda model, data: ..."
        )
    count(taken)
    return taken


def outputs_of(model: nn.Module, x: Any) -> Tensor:
    """What it gives: of several the first, of a model output its logits. Raises `BadOption`."""
    out = model(x)
    out = getattr(out, "logits", out)
    out = out[0] if isinstance(out, tuple | list) else out
    if not isinstance(out, Tensor) or not out.ndim:
        raise BadOption(
            f"the model gave a {type(out).__name__}: say forward=lambda model, data: a tensor (examples, ...)"
        )
    return out
