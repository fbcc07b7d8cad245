"""What turning a site of the network up, down or off does to its loss and outputs, beside a random change."""

from collections.abc import Callable, Sequence
from functools import partial
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from strobe.app.look_examples import PerExample
from strobe.app.look_language import best, shown
from strobe.app.look_parts import Kit, mean_err, num, tensors
from strobe.core.catalogue import load, lookup
from strobe.core.errors import BadOption
from strobe.core.site import Site
from strobe.core.snapshot import Snapshot
from strobe.core.tap import Edit, patch, tap

DOSED = 12  # examples behind a dose-response curve: at most 33 passes, 0.3 s on the demo's model (chunks of 8 and 4)
DRAWS = 3  # of the random control
SCALES = ("scale", "scale_direction")  # edits whose dose is their factor
DOSES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)


def dose(
    snap: Snapshot,
    kit: Kit,
    *,
    site: str,
    edit: str = "scale",
    direction: Sequence[float] | None = None,
    mean: Sequence[float] | None = None,
    by: float | None = None,
    doses: Sequence[float] = DOSES,
    text: str | None = None,
    example: int = 0,
    seed: int = 0,
) -> dict[str, Any]:
    """The loss as a site is turned up, down or off by degrees, beside a random change of the same size.

        scale: x ← d·x (d = 1 changes nothing);   scale_direction: the same of its part along `direction`, from `mean`
        another edit e: x ← x + d·(e(x) − x) (d = 0 changes nothing, 1 is e); steer: x ← x + d·by·direction
        control: x ← x + r·‖edit(x) − x‖/‖r‖ along the last dimension, r Gaussian, the same for every dose

    Err: standard error over the first 12 examples of the paired difference from the unedited model; of the control, with
    the spread of its 3 draws added in quadrature. `outputs`: what is likeliest after the text or example, at each dose.
    Cost: a pass over the examples for each dose, and 3 for each distinct size of change. Raises `SiteNotFound` with near misses.
    """
    at = Site.parse(site)
    at.parameter(snap.model) if at.part == "param" else at.module(snap.model)
    levels = doses_of(doses)
    make, scales = _maker(edit, direction, mean, by), edit in SCALES
    edits = [_edit(make, scales, d) for d in levels]
    with snap.quiet():
        losses = PerExample(snap, DOSED)
        base = losses.first
        control = [_random(_shapes(snap, at, losses), seed * DRAWS + k) for k in range(DRAWS)]
        loss, err, wild = [], [], {0.0: torch.stack([base] * DRAWS)}
        sizes = [abs(d - 1) if scales else abs(d) for d in levels]  # of the change, in units of the full one
        for size, fn in zip(sizes, edits, strict=True):
            got = base if fn is None else _under(snap, at, fn, losses)
            loss.append(num(got.mean()))
            err.append(_paired(got, base))
            if fn is not None and size not in wild:
                wild[size] = torch.stack([_under(snap, at, c(fn), losses) for c in control])
        return {
            "doses": levels,
            "loss": loss,
            "err": err,
            "control": {
                "loss": [num(wild[s].mean()) for s in sizes],
                "err": [_control_err(wild[s], base) for s in sizes],
                "how": f"random direction of the same norm, {DRAWS} draws",
            },
            "base": mean_err(base),
            "outputs": _outputs(snap, kit, at, levels, edits, text, example),
            "examples": len(base),
        }


def doses_of(doses: Any) -> list[float]:
    """1 to 33 finite doses. Raises `BadOption`."""
    plain = isinstance(doses, list | tuple) and all(
        isinstance(d, int | float) and not isinstance(d, bool) for d in doses
    )
    if not plain or not 1 <= len(doses) <= 33 or not all(isfinite(d) and abs(d) <= 1e3 for d in doses):
        raise BadOption(f"doses are 1 to 33 finite numbers, at most 1000 in size, got {doses!r}")
    return [float(d) for d in doses]


def _maker(name: str, direction: Any, mean: Any, by: Any) -> Callable[..., Edit]:
    known = {e: f"strobe.edits.{e}:{e}" for e in (*SCALES, "ablate", "steer")}
    if name == "steer":
        if direction is None or by is None or mean is not None:
            raise BadOption("a dose of steer needs its direction and by, and no mean")
        make = partial(load(known[name]), direction=direction, by=by)
        make()
        return make
    if by is not None:
        raise BadOption(f"only a dose of steer takes by, not one of {name!r}")
    if name == "scale_direction":
        if direction is None:
            raise BadOption("a dose of scale_direction needs its direction, as the look directions gives them")
        make = partial(load(known[name]), direction=direction, mean=mean)
        make()  # a direction that is none is said before anything runs
        return make
    if direction is not None or mean is not None:
        raise BadOption(f"only a dose of scale_direction takes a direction and a mean, not one of {name!r}")
    if name in known:
        return load(known[name])
    if ":" in name:  # what a page asks for is looked up, never imported
        raise BadOption(f"a look takes an edit of the catalogue by its name, not an import path: {name!r}")
    return lookup(name, "edit")  # reads the whole catalogue


def _edit(make: Callable[..., Edit], scales: bool, d: float) -> Edit | None:
    """The edit at one dose; None where it changes nothing."""
    if d == (1 if scales else 0):
        return None
    if scales:
        return make(factor=d)
    full = make()
    return full if d == 1 else lambda x: x + d * (full(x) - x)


def _under(snap: Snapshot, at: Site, fn: Edit, losses: PerExample) -> Tensor:
    with patch(snap.model, {at: fn}):
        return losses()


def _paired(got: Tensor, base: Tensor) -> float | None:
    return num((got - base).std() / len(base) ** 0.5) if len(base) > 1 else None


def _control_err(draws: Tensor, base: Tensor) -> float | None:
    if len(base) < 2:
        return None
    over_examples = (draws.mean(0) - base).std() / len(base) ** 0.5
    return num((over_examples**2 + draws.mean(1).var() / len(draws)).sqrt())


def _shapes(snap: Snapshot, at: Site, losses: PerExample) -> set[tuple[int, ...]]:
    """The shapes that the site has with a batch of one. Raises `SiteNotFound` where no forward pass reaches it."""
    with tap(snap.model, [at]) as got:
        snap.loss(snap.model, losses.one(0))
        return {tuple(x.shape) for x in got.every.get(str(at), [got[str(at)]])}


def _random(shapes: set[tuple[int, ...]], seed: int) -> Callable[[Edit], Edit]:
    """From an edit, one that moves as far in a random direction."""
    g = torch.Generator().manual_seed(0x57B0BE + seed)  # far from 0, with which somebody may have drawn the weights
    ways = {shape: torch.randn(shape, generator=g) for shape in sorted(shapes)}

    def instead(fn: Edit) -> Edit:
        def moved(x: Tensor) -> Tensor:
            r = ways[tuple(x.shape)].to(x)
            if not x.ndim:
                return x + r.sign() * (fn(x) - x).abs()
            return x + r * ((fn(x) - x).norm(dim=-1, keepdim=True) / r.norm(dim=-1, keepdim=True))

        return moved

    return instead


def _outputs(
    snap: Snapshot, kit: Kit, at: Site, levels: list[float], edits: list[Edit | None], text: str | None, example: int
) -> list[dict[str, Any]] | None:
    with shown(snap, kit, text, example, whole=True) as seen:
        found = []
        for d, fn in zip(levels, edits, strict=True):
            with patch(snap.model, {} if fn is None else {at: fn}), Final(snap.model) as said:
                seen.again()
            top = said.top(kit, seen.logits)
            if top is None:
                return None
            found.append({"dose": d, "top": top})
        return found


class Final:
    """What the model returns while the block runs: its scores after the last token, or over its classes."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.out = model, None

    def __enter__(self) -> "Final":
        self.hook = self.model.register_forward_hook(self._see)
        return self

    def _see(self, module: nn.Module, args: Any, out: Any) -> None:
        self.out = out

    def __exit__(self, *error: Any) -> None:
        self.hook.remove()

    def top(self, kit: Kit, logits: Tensor | None, most: int = 5) -> list[dict[str, Any]] | None:
        """The likeliest tokens (a language model) or classes (where the kit names them)."""
        said = [getattr(self.out, "logits", None), *(t for _, t in tensors(self.out))]
        found = [x.detach() for x in said if isinstance(x, Tensor)]
        if logits is not None:
            fit = next((x for x in found if x.ndim == 3 and x.shape[1:] == logits.shape), None)
            return None if fit is None else best(kit, fit[0, -1:], most)[0]
        if not kit.labels or not found or found[0].shape != (1, len(kit.labels)):
            return None
        p, i = found[0].float().softmax(-1)[0].topk(min(most, len(kit.labels)))
        return [{"text": kit.label(a), "p": num(b)} for a, b in zip(i.tolist(), p.tolist(), strict=True)]
