"""Many descents of one architecture side by side, each on a world and a seed of its own, and read like recorded runs."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from strobe.core.errors import BadOption
from strobe.core.snapshot import Snapshot
from strobe.core.stacked import StackedLoss
from strobe.core.stacked_adam import StackedAdam
from strobe.core.system import System


@dataclass(frozen=True)
class Descent:
    """One of the descents: `steps` at which it was kept, its parameters there (steps, P), and a snapshot to put them in.

    It has `stored()` and `walk(steps)`, so that observables of runs take it. The model is shared: use a snapshot before
    the next one.
    """

    steps: list[int]
    places: Tensor
    loss: StackedLoss
    data: Any

    def stored(self) -> list[int]:
        """The steps that were kept."""
        return list(self.steps)

    def walk(self, steps: Sequence[int]) -> Iterator[Snapshot]:
        """A snapshot at each of these steps."""
        for step in steps:
            yield self.at(step)

    def at(self, step: int) -> Snapshot:
        """The model as it was at one of the kept steps. Raises `BadOption` for another."""
        if step not in self.steps:
            raise BadOption(f"step {step} was not kept; there are {len(self.steps)}, up to {self.steps[-1]}")
        model = self.loss.snap.model
        with torch.no_grad():
            for name, value in self.loss.split(self.places[self.steps.index(step)]).items():
                model.get_parameter(name).copy_(value)
        return Snapshot(model, self.loss.snap.loss, self.data, step)


def side_by_side(
    worlds: Sequence[System], seeds: Sequence[int], *, steps: int, at: Sequence[int], progress: Callable[[int, int], None] | None = None
) -> list[Descent]:  # fmt: skip
    """Train `worlds[i].build(seeds[i])` on its own batches for `steps` steps of Adam, all in one batched pass a step.

    All worlds have the same architecture, loss and rate; what differs is their data. Descent i is kept at the steps
    `at` (0 is before the first). Each is what `torch.optim.Adam` with its defaults would do alone, up to rounding.
    Raises `BadOption` where models, rates or recipes differ.
    """
    if len({w.lr for w in worlds}) != 1 or len(worlds) != len(seeds):
        raise BadOption("side by side go worlds with one rate, and as many seeds as worlds")
    models = [world.build(seed) for world, seed in zip(worlds, seeds, strict=True)]
    recipe = worlds[0].optimizer(models[0], worlds[0].lr)
    if type(recipe) is not torch.optim.Adam or recipe.param_groups[0]["weight_decay"]:
        raise BadOption(f"side by side is written for Adam without decay, not for {type(recipe).__name__}")
    (beta, gamma), eps = recipe.param_groups[0]["betas"], recipe.param_groups[0]["eps"]
    losses = [StackedLoss(Snapshot(m, w.loss, w.probe(s))) for m, w, s in zip(models, worlds, seeds, strict=True)]
    if len({tuple(f.sizes) for f in losses}) != 1:
        raise BadOption("side by side go models of one architecture")
    w = torch.stack([f.center.clone() for f in losses])
    adam = StackedAdam(losses[0], w, worlds[0].lr, betas=(beta, gamma), eps=eps)
    kept, wanted = [], sorted(set(at))
    for step in range(steps + 1):
        if step in wanted:
            kept.append(w.clone())
        if step == steps:
            break
        drawn = [world.batch(seed, step) for world, seed in zip(worlds, seeds, strict=True)]
        adam.step(tuple(torch.stack(x) for x in zip(*drawn, strict=True)))
        if progress and step % 50 == 0:
            progress(step, steps)
    places = torch.stack(kept, 1)
    return [Descent(wanted, p, f, f.snap.data) for p, f in zip(places, losses, strict=True)]
