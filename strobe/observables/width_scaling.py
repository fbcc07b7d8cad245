"""What changes as a model is made wider: its best learning rate, and how far training steps move its activations."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from strobe.core.cards import observable
from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot
from strobe.core.stacked import StackedLoss, stacked
from strobe.core.stacked_adam import StackedAdam

CLIFF = 3.0  # of log L: rates that much worse than the best are past a cliff, and no part of the parabola
Loss = Callable[[nn.Module, Any], Tensor]
TOGETHER = (
    1 << 19
)  # parameters of all copies that are trained side by side on a CPU: what its caches hold of them and Adam's moments


@observable(symbol="log2 lr*", of="models", cost="rates x seeds x steps gradients", ref="arXiv:2203.03466")
def best_learning_rate(
    build: Callable[[int], nn.Module], loss: Loss, batch: Callable[[int, int], Any], *, rates: Sequence[float],
    seeds: Sequence[int] = (0, 1, 2, 3), steps: int = 150, last: int = 75, optimizer: str = "adam",
    multipliers: Mapping[str, float] | None = None,
) -> Reading:  # fmt: skip
    """log₂ of the learning rate whose training loss is lowest after so many steps, all rates and seeds trained side by side.

        L(lr) = mean training loss of the last steps;   log₂ lr* = the lowest point of the parabola in log₂ lr fitted to the mean over
        seeds of log L at the five rates about the least one (those up to e³ worse)

    Args: build(seed) -> model; loss(model, batch), a mean; batch(seed, step) -> data; rates, at least 4, growing; steps, of which
    `last` count; optimizer, "adam" (0.9, 0.999, 1e-8) or "sgd"; multipliers, {parameter: its lr over the base one} (of
    `strobe.edits.mup.widening`: {row.name: row.lr for row in table.rows}).
    Err: one standard error by the jackknife over seeds, each with its own start and data, and the parabola's own limit, a
    twentieth of a spacing of the rates. `how`: the losses (rate, seed), and a flag where the best is the first or the last rate (lr*
    lies outside, the value is a bound).
    Cost: rates × seeds × steps gradients, batched (`StackedLoss`). Diverged copies count as infinitely bad.
    Raises `BadOption` for too few or unordered rates, fewer than 2 seeds, where every rate diverges, or for a loss not above zero.
    Ref: arXiv:2203.03466, figure 1.

    >>> x = torch.linspace(-1, 1, 8)[:, None]
    >>> def start(seed):
    ...     torch.manual_seed(seed)
    ...     return nn.Linear(1, 1)
    >>> found = best_learning_rate(start, lambda m, x: (m(x) - 3 * x).square().mean(), lambda seed, step: x,
    ...     rates=[2.0**k for k in range(-5, 3)], steps=20, last=5)
    >>> -3 < found.value < 0
    True
    """
    sizes = np.asarray(rates, float)
    if len(sizes) < 4 or not (np.diff(sizes) > 0).all() or not sizes[0] > 0:
        raise BadOption(f"best_learning_rate needs at least 4 rates, positive and growing, got {list(rates)}")
    if len(seeds) < 2 or not 1 <= last <= steps:
        raise BadOption(f"it needs 2 seeds or more and 1 <= last <= steps, got {len(seeds)} seeds, {last} of {steps}")
    if optimizer not in ("adam", "sgd"):
        raise BadOption(f"optimizer is adam or sgd, got {optimizer!r}")
    losses = _trained(build, loss, batch, sizes, list(seeds), steps, last, optimizer, multipliers or {})
    if not (losses > 0).all():
        raise BadOption(
            f"a training loss of {losses.min():.3g}: log L needs a loss above zero, so add what it lacks to its floor"
        )
    octaves, logs = np.log2(sizes), np.log(losses)
    if not np.isfinite(losses).all(1).any():
        raise BadOption(f"every rate from {sizes[0]:.3g} on diverges: give smaller ones")
    value, edge = _lowest(octaves, logs)
    without = np.array([_lowest(octaves, np.delete(logs, k, 1))[0] for k in range(len(seeds))])
    spread = float(np.sqrt((len(seeds) - 1) * np.mean((without - without.mean()) ** 2)))
    how: dict[str, Any] = {"rates": sizes.tolist(), "losses": losses.tolist(), "seeds": len(seeds), "steps": steps, "optimizer": optimizer,
           "lowest": float(losses.min(0).mean())}  # fmt: skip
    if edge:
        how["flags"] = ["the best rate is the first or the last one given: it lies outside"]
    return Reading(value, float(np.hypot(spread, 0.05 * np.diff(octaves).mean())), "log2 lr", how)


def _trained(
    build: Any, loss: Loss, batch: Any, rates: np.ndarray, seeds: list[int], steps: int, last: int, optimizer: str,
    multipliers: Mapping[str, float],
) -> np.ndarray:  # fmt: skip
    """Mean loss of the last steps (rate, seed); copy r · seeds + s is seed s at rate r. As many at once as stay in the caches."""
    models = [build(s) for s in seeds]
    snap = Snapshot(models[0], loss, batch(seeds[0], 0), mode="train")
    with snap.quiet():
        f = StackedLoss(snap)
        if odd := [n for n in multipliers if n not in f.values]:
            raise BadOption(f"multipliers name {odd[0]!r}, which is no trainable parameter")
        start = stacked(models)
        scale = torch.cat([torch.full((p.numel(),), multipliers.get(n, 1.0)) for n, p in f.values.items()]).to(start)
        copies = [(lr, s) for lr in rates.tolist() for s in range(len(seeds))]
        most = max(TOGETHER // len(scale), 1) if start.device.type == "cpu" else len(copies)
        even = max(k for k in range(1, most + 1) if len(copies) % k == 0)  # parts of one size are recorded once
        most = even if 2 * even >= most or even == len(copies) else most
        out = []
        for at in range(0, len(copies), most):
            part = copies[at : at + most]
            which = [s for _, s in part]
            drawn = lambda t, which=which: _stacked([batch(seeds[s], t) for s in which])  # noqa: E731
            lrs = torch.tensor([lr for lr, _ in part]).to(start)[:, None] * scale
            out += _descended(f, start[which], lrs, drawn, steps, last, optimizer).tolist()
    losses = np.array(out).reshape(len(rates), len(seeds))
    return np.where(np.isfinite(losses), losses, np.inf)


def _stacked(drawn: list[Any]) -> Any:
    return pytree.tree_map(lambda *x: torch.stack(x), drawn[0], *drawn[1:])


def _descended(
    f: StackedLoss, w: Tensor, lrs: Tensor, drawn: Callable[[int], Any], steps: int, last: int, optimizer: str
) -> Tensor:
    """Mean loss of the last steps of copies w (C, P), each parameter at a rate of its own (C, P)."""
    adam = StackedAdam(f, w, lrs) if optimizer == "adam" else None
    total = torch.zeros(len(w), dtype=torch.float64)
    for t in range(1, steps + 1):
        if adam:
            value = adam.step(drawn(t - 1))
        else:
            value, g = f.own(w, drawn(t - 1))
            w.addcmul_(lrs, g, value=-1)
        if t > steps - last:
            total += value.detach().double().cpu() / last
    return total


def _lowest(x: np.ndarray, logs: np.ndarray) -> tuple[float, bool]:
    """Where the mean of log L over seeds is lowest, and whether that is the first or the last rate."""
    y = logs.mean(1)  # inf where a seed diverged
    i = int(np.argmin(y))
    near = [k for k in range(max(i - 2, 0), min(i + 3, len(x))) if y[k] < y[i] + CLIFF]
    if i in (0, len(x) - 1) or len(near) < 3:
        return float(x[i]), i in (0, len(x) - 1)
    a, b, _ = np.polyfit(x[near] - x[i], y[near], 2)
    return float(x[i] + np.clip(-b / (2 * a), -1, 1) * np.diff(x).max()) if a > 0 else float(x[i]), False


@observable(symbol="d log|Δh| / d log n", of="models", cost="widths x seeds x steps gradients", ref="arXiv:2203.03466")
def coordinate_check(
    build: Callable[[int, int], tuple[nn.Module, torch.optim.Optimizer]], loss: Loss, batch: Callable[[int, int], Any], *,
    widths: Sequence[int], modules: Sequence[str], steps: int = 3, seeds: Sequence[int] = (0, 1, 2, 3),
) -> Reading:  # fmt: skip
    """How the change of a module's output, after a few steps, goes with width: |Δh| ~ width^s, one s for each module.

        s = slope of log₂ mean|h_t − h_0| over log₂ width, by least squares;   value: mean over seeds

    Args: build(width, seed) -> (model, its optimizer); loss(model, batch); batch(seed, step); widths, two or more; modules, paths of
    modules whose output is a tensor; steps.
    Err: one standard error of the mean over seeds, and at least 0.01. `how`: the mean |Δh| and |h_0| by width and module.
    Raises `BadOption` for a module that is not there or gives no tensor, fewer than 2 widths or seeds, or a loss that diverged.
    Ref: arXiv:2203.03466, appendix D.1 ("coordinate checking").

    >>> def start(width, seed):
    ...     torch.manual_seed(seed)
    ...     net = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1))
    ...     return net, torch.optim.Adam(net.parameters(), lr=1e-3)
    >>> x = torch.eye(4)
    >>> s = coordinate_check(start, lambda m, x: (m(x) - 1).square().mean(), lambda seed, step: x,
    ...                      widths=[64, 256], modules=["0", "2"])
    >>> bool(abs(s.value[0]) < 0.2), bool(s.value[1] > 0.7)  # the standard parametrisation
    (True, True)
    """
    sizes = np.asarray(widths, float)
    if len(sizes) < 2 or len(set(widths)) < len(sizes) or len(seeds) < 2 or steps < 1 or not modules:
        raise BadOption("coordinate_check needs 2 different widths or more, 2 seeds or more, a step and a module")
    moved, start = np.zeros((2, len(seeds), len(sizes), len(modules)))
    for i, seed in enumerate(seeds):
        for j, width in enumerate(widths):
            model, optimizer = build(width, seed)
            model.train()
            seen = batch(seed, 0)
            before = _outputs(model, loss, seen, modules)
            for t in range(steps):
                optimizer.zero_grad()
                value = loss(model, batch(seed, t))
                value.backward()
                optimizer.step()
            for k, (a, b) in enumerate(zip(before, _outputs(model, loss, seen, modules), strict=True)):
                moved[i, j, k], start[i, j, k] = float((b - a).abs().mean()), float(a.abs().mean())
    if not np.isfinite(moved).all() or not (moved > 0).all():
        i, j, k = np.argwhere(~np.isfinite(moved) | (moved <= 0))[0]
        raise BadOption(
            f"{modules[k]!r} at width {widths[j]} moved by {moved[i, j, k]}: lower the lr, or it is not trained"
        )
    x = np.log2(sizes) - np.log2(sizes).mean()
    slopes = np.einsum("j,ijk->ik", x, np.log2(moved)) / (x @ x)
    err = np.hypot(slopes.std(0, ddof=1) / len(seeds) ** 0.5, 0.01)
    how = {"modules": list(modules), "widths": list(widths), "moved": moved.mean(0).tolist(), "start": start.mean(0).tolist(),
           "steps": steps, "seeds": len(seeds)}  # fmt: skip
    return Reading(slopes.mean(0), err, "exponent in width", how)


def _outputs(model: nn.Module, loss: Loss, data: Any, modules: Sequence[str]) -> list[Tensor]:
    """What each module gives on these data, as the loss runs the model."""
    known, found, hooks = dict(model.named_modules()), dict[str, Tensor](), []
    for path in modules:
        if path not in known:
            raise BadOption(f"the model has no module {path!r}; there are {', '.join(list(known)[1:9])}")

        def keep(module: nn.Module, args: Any, out: Any, path: str = path) -> None:
            if not isinstance(out, Tensor):
                raise BadOption(f"{path!r} gives a {type(out).__name__}, not a tensor: name a module inside it")
            found[path] = out.detach().clone()

        hooks.append(known[path].register_forward_hook(keep))
    try:
        with torch.no_grad():
            loss(model, data)
    finally:
        for h in hooks:
            h.remove()
    if missing := [p for p in modules if p not in found]:
        raise BadOption(f"{missing[0]!r} does not run in the forward pass")
    return [found[p] for p in modules]
