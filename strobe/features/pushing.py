"""What vectors added at one site do to another: many vectors in one pass, and the Jacobian's products from both sides."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import jvp
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint

from strobe.core.capture import Forward, frozen, run_on
from strobe.core.data import mapped
from strobe.core.errors import BadOption, Diverged
from strobe.core.site import Site
from strobe.core.tap import patch, tap

POSITIONS = 2**14  # tokens that pass together


class _Reached(Exception):
    """The target is known; the rest of the network need not run."""


class Pushing:
    """Z(θ) − Z(0) at `target` for vectors θ added to `source` at every token.

    size: features at the source; length: their median norm over tokens; plain (inputs, ..., features): Z(0); out: what the model
    returned for it; batched: whether copies of the inputs may pass together.
    """

    def __init__(
        self, model: nn.Module, inputs: Any, source: str | Site, target: str | Site, forward: Forward | None, mask: Tensor | None,
        positions: int,
    ) -> None:  # fmt: skip
        self.model, self.inputs, self.way = model, inputs, forward
        self.source, self.target = Site.parse(source), Site.parse(target)
        with torch.no_grad(), tap(model, [self.source, self.target]) as seen:
            self.out = run_on(model, inputs, forward)
        x, z = seen[str(self.source)], seen[str(self.target)]
        for site, t in ((self.source, x), (self.target, z)):
            if t.ndim < 2 or not t.is_floating_point():
                raise BadOption(f"{site}: vectors need a tensor (inputs, ..., features); there is {tuple(t.shape)}")
        if not z.isfinite().all():
            raise Diverged("what the target carries is not finite before anything is added")
        self.like, self.size = x, _last(x).shape[-1]
        self.once = len(seen.every[str(self.target)]) == 1
        self.plain = _wide(_last(z))
        own = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
        self.there = None if mask is None else mask.to(z.device) > 0
        if mask is not None and mask.shape != self.plain.shape[:-1]:
            raise BadOption(
                f"mask has shape {tuple(mask.shape)} where {self.target} has {tuple(self.plain.shape[:-1])}"
            )
        if mask is None and isinstance(own, Tensor) and own.shape == self.plain.shape[:-1]:
            self.there = own.to(z.device) > 0
        seated = self.there is not None and self.there.shape == x.shape[:-1]
        self.length = float((x[self.there] if seated else _last(x)).float().norm(dim=-1).median())
        self.per = max(positions // max(self.plain[..., 0].numel(), 1), 1)
        self.batched = False
        self.batched = self._apart()

    def effect(self, thetas: Tensor) -> Tensor:
        """(m, inputs, ..., features) at the target less what is there without; 0 where the mask has no token. thetas (m, d)."""
        parts = thetas.split(self.per if self.batched else 1)
        again = len(parts) > 1 and torch.is_grad_enabled() and thetas.requires_grad  # memory of one part at a time
        moved = torch.cat([checkpoint(self._at, p, use_reentrant=False) if again else self._at(p) for p in parts])
        moved = moved - self.plain
        return moved if self.there is None else moved.masked_fill(~self.there[..., None], 0)

    def answers(self, thetas: Tensor) -> Iterator[Any]:
        """What the model returns with each of the vectors (m, d) added, one after the other."""
        rows = len(self.like)
        for part in thetas.split(self.per if self.batched else 1):
            with patch(self.model, {self.source: self._added(part)}):
                out = run_on(self.model, self._copies(len(part)), self.way)
            for k in range(len(part)):
                yield out if len(part) == 1 else mapped(out, _between(k * rows, (k + 1) * rows))

    def forward(self, V: Tensor) -> Tensor:
        """J v for each row v of V (m, d): (m, inputs, ..., features)."""
        zero = torch.zeros_like(V)
        try:
            return jvp(self.effect, (zero,), (V,))[1].detach()
        except (NotImplementedError, RuntimeError):  # a layer without forward derivatives: a central difference
            small = 1e-2 * self.length / V.norm(dim=1, keepdim=True)
            with torch.no_grad():
                gone = self.effect(small * V) - self.effect(-small * V)
            return gone / (2 * small.view(-1, *[1] * (gone.ndim - 1)))

    def back(self, U: Tensor) -> Tensor:
        """Jᵀ u for each of U (m, inputs, ..., features): (m, d)."""
        thetas = torch.zeros(len(U), self.size, dtype=U.dtype, device=U.device, requires_grad=True)
        return torch.autograd.grad(self.effect(thetas), thetas, U)[0]

    def jacobian(self, count: int, passes: int = 15, seed: int = 0) -> tuple[Tensor, Tensor]:
        """Leading singular values (count,) and right singular vectors (count, d) of ∂Z/∂θ at 0, by block power iteration."""
        gen = torch.Generator().manual_seed(seed)
        V = torch.linalg.qr(torch.randn(self.size, min(count, self.size), generator=gen))[0].to(self.plain)
        for _ in range(passes):
            V = torch.linalg.qr(self.back(self.forward(V.T)).T)[0]
        seen = self.forward(V.T).flatten(1)
        w, U = torch.linalg.eigh(seen @ seen.T)
        return w.flip(0).clamp_min(0).sqrt(), (V @ U.flip(1)).T

    def _at(self, thetas: Tensor) -> Tensor:
        found: list[Tensor] = []

        def stop(module: nn.Module, args: Any, out: Any = None) -> None:
            if self.once and found:
                raise _Reached

        def keep(x: Tensor) -> Tensor:
            found.append(x)
            return x

        with patch(self.model, {self.source: self._added(thetas)}), patch(self.model, {self.target: keep}):
            module = self.target.module(self.model)
            ends = (
                module.register_forward_pre_hook(stop)
                if self.target.part == "in"
                else module.register_forward_hook(stop)
            )
            try:
                run_on(self.model, self._copies(len(thetas)), self.way)
            except _Reached:
                pass
            finally:
                ends.remove()
        return _wide(_last(found[-1])).unflatten(0, (len(thetas), -1))

    def _added(self, thetas: Tensor) -> Callable[[Tensor], Tensor]:
        def add(x: Tensor) -> Tensor:
            t = thetas.to(x)
            wide = x.unflatten(0, (len(t), -1))
            one = [1] * (x.ndim - 1)
            return (wide + (t[:, None, :, None, None] if x.ndim == 4 else t.view(len(t), *one, -1))).flatten(0, 1)

        return add

    def _copies(self, m: int) -> Any:
        if m == 1:
            return self.inputs
        rows = len(self.like)
        return mapped(self.inputs, lambda t: t.repeat(m, *[1] * (t.ndim - 1)) if t.ndim and len(t) == rows else t)

    def _apart(self) -> bool:
        """Whether a copy is left alone by what is added to another that passes with it."""
        pair = torch.zeros(2, self.size).to(self.plain)
        pair[0] = self.length / self.size**0.5
        try:
            with torch.no_grad():
                alone = self._at(pair)[1]
        except Exception:  # whatever a model of the user's says to two copies: they go one by one
            return False
        near = 1e-3 if self.like.element_size() > 2 else 3e-2
        return alone.shape == self.plain.shape and bool(
            (alone - self.plain).abs().max() <= near * self.plain.abs().max()
        )


@contextmanager
def pushing(
    model: nn.Module, inputs: Any, source: str | Site, target: str | Site, *, mask: Tensor | None = None, forward: Forward | None = None,
    positions: int = POSITIONS,
) -> Iterator[Pushing]:  # fmt: skip
    """`with pushing(model, inputs, source, target) as push:` the model in eval mode, its weights held, all as before on exit.

    Args: inputs, a batch as the model takes it, first dimension the inputs; mask (inputs, tokens), 1 where there is a token, default the
    mapping's `attention_mask` (effects elsewhere are 0); forward(model, inputs), default the call; positions, tokens that pass together.
    Copies of the batch pass together where they leave each other alone (tried once), else one by one; the network stops at the target.
    Of (inputs, channels, height, width) the channels are the features, as in `capture`.
    Raises `SiteNotFound`; `BadOption` for rows that are no vectors; `Diverged` where the target is not finite.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2))
    >>> with pushing(net, torch.randn(5, 2), "0", "2") as push:
    ...     push.effect(torch.eye(3)).shape
    torch.Size([3, 5, 2])
    """
    for site in (Site.parse(source), Site.parse(target)):
        site.module(model)
    if positions < 1:
        raise BadOption(f"positions is at least 1, got {positions}")
    with frozen(model), sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit.script", DeprecationWarning)  # torch 2.13's own jvp rules
        yield Pushing(model, inputs, source, target, forward, mask, positions)


def _last(x: Tensor) -> Tensor:
    """Features last."""
    return x.movedim(1, -1) if x.ndim == 4 else x


def _wide(x: Tensor) -> Tensor:
    return x.float() if x.element_size() < 4 else x


def _between(start: int, stop: int) -> Callable[[Tensor], Tensor]:
    return lambda t: t[start:stop] if t.ndim else t
