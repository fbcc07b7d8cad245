"""Read and replace what flows through any module of any `nn.Module`; undone on exit, also after an exception."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from strobe.core.errors import SiteNotFound, StateMismatch
from strobe.core.site import Site

Edit = Callable[[Tensor], Tensor]


class Tapped(dict[str, Tensor]):
    """Tensors by site text: the last call's; `every[site]` lists all calls'. An unread site raises `SiteNotFound`."""

    def __init__(self) -> None:
        super().__init__()
        self.every: dict[str, list[Tensor]] = {}

    def __missing__(self, key: str) -> Tensor:
        raise SiteNotFound(f"site {key!r} was not reached: no forward pass ran through it inside the block")


@contextmanager
def tap(model: nn.Module, sites: Iterable[str | Site], *, grad: bool = False) -> Iterator[Tapped]:
    """Record the tensors at `sites` while the model runs inside the block.

    Args: sites as `Site` texts; `grad=True` keeps them in the graph (default: detached, not copied).
    Raises `SiteNotFound` at once for a site that does not exist, with near misses.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    >>> with tap(net, ["0", "1:in"]) as seen:
    ...     _ = net(torch.ones(5, 2))
    >>> bool((seen["0"] == seen["1:in"]).all())
    True
    """
    seen = Tapped()

    def keep(site: Site, name: str) -> Edit:
        def see(x: Tensor) -> Tensor:
            seen[name] = site.view(x if grad else x.detach())
            seen.every.setdefault(name, []).append(seen[name])
            return x

        return see

    with ExitStack() as stack:
        for site in map(Site.parse, sites):
            if site.part == "param":
                seen[str(site)] = site.view(site.parameter(model) if grad else site.parameter(model).detach())
            else:
                stack.callback(_hook(model, site, keep(site, str(site)), whole=True).remove)
        yield seen


@contextmanager
def patch(model: nn.Module, edits: Mapping[str | Site, Edit]) -> Iterator[nn.Module]:
    """Replace the tensor at each site by `edit(tensor)` inside the block; undone on exit.

    Activations are edited by hooks, parameters in place with the old bits put back. Several edits at one site apply
    in the given order. An edit whose `only` is "train" applies while the module trains, and not in eval mode. Raises
    `SiteNotFound` before anything is changed, and `StateMismatch` when an edit returns another shape.

    >>> net = nn.Sequential(nn.Linear(2, 4, bias=False))
    >>> x = torch.ones(1, 2)
    >>> with patch(net, {"0/2[1]": torch.zeros_like}):
    ...     y = net(x)
    >>> [bool(y[0, :2].any()), bool(y[0, 2:].any()), bool(net(x)[0, 2:].any())]
    [True, False, True]
    """
    with ExitStack() as stack:
        parsed = [(Site.parse(s), fn) for s, fn in edits.items()]
        for site, _ in parsed:  # all sites are checked before the first change
            site.parameter(model) if site.part == "param" else site.module(model)
        for site, fn in parsed:
            if site.part == "param":
                stack.callback(_swap(site.parameter(model), site, fn))
            else:
                stack.callback(_hook(model, site, fn).remove)
        yield model


def _checked(site: Site, fn: Edit, x: Tensor) -> Tensor:
    y = fn(x)
    if not isinstance(y, Tensor) or y.shape != x.shape:
        got = tuple(y.shape) if isinstance(y, Tensor) else type(y).__name__
        raise StateMismatch(
            f"the edit at {site} returned {got} for a tensor of shape {tuple(x.shape)}; the shape must stay"
        )
    return y


def _edited(site: Site, fn: Edit, x: Tensor) -> Tensor:
    if site.index is None:
        return _checked(site, fn, x)
    part = site.view(x)
    new = _checked(site, fn, part)
    out = x.clone()
    site.view(out).copy_(new)
    return out


def write(model: nn.Module, site: str | Site, fn: Edit) -> None:
    """Change a parameter (or buffer) for good: what `patch` does at a `:param` site, without the way back."""
    _swap((parsed := Site.parse(site)).parameter(model), parsed, fn)


def _swap(parameter: Tensor, site: Site, fn: Edit) -> Callable[[], None]:
    kept = parameter.detach().clone()

    def undo() -> None:
        with torch.no_grad():
            parameter.copy_(kept)

    with torch.no_grad():
        parameter.copy_(_edited(site, fn, kept))
    return undo


def _hook(model: nn.Module, site: Site, fn: Edit, *, whole: bool = False) -> Any:
    change = (lambda x: fn(x)) if whole else (lambda x: _edited(site, fn, x))
    trains = getattr(fn, "only", None) == "train"

    def inside(value: Any) -> Any:
        if isinstance(value, Tensor):
            return change(site.pick(value))
        new, key = change(site.pick(value)), site.key(value)
        if isinstance(value, tuple):
            items = [new if i == key else v for i, v in enumerate(value)]
            return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
        value = value.copy()
        value[key] = new
        return value

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if trains and not module.training:
            return args, kwargs
        if site.item is not None and not site.item.isdigit():
            return args, {**kwargs, site.item: change(site.pick(kwargs))}
        at = int(site.item or 0)
        if at >= len(args):
            raise SiteNotFound(f"{site}: the module was called with {len(args)} positional inputs and {sorted(kwargs)}")
        return tuple(change(a) if i == at else a for i, a in enumerate(args)), kwargs

    module = site.module(model)
    if site.part == "in":
        return module.register_forward_pre_hook(before, with_kwargs=True)
    return module.register_forward_hook(lambda m, args, out: out if trains and not m.training else inside(out))
