"""The plain loop of a `System`: what studies, the demo and tests record. It shows what a user's loop looks like."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from strobe.core.catalogue import load
from strobe.core.system import System
from strobe.runs.recorder import Recorder, record


def train(
    system: System, out: str | Path, *, steps: int, seed: int = 0, lr: float | None = None, examples: bool = False,
    setup: Callable[[Recorder], None] | None = None, after: Callable[[Recorder, torch.Tensor], None] | None = None,
    **options: Any,
) -> Path:  # fmt: skip
    """Train `system` for `steps` steps and record it; returns the run directory.

    Args: `setup(rec)` is called before the first step (watches, seals), `after(rec, loss)` after each;
    `examples` records per-example losses where the system has them; `options` go to `strobe.record`.
    A replay or fork of the run calls `again` with the same knobs, without `setup` and `after`.
    """
    lr = system.lr if lr is None else lr
    torch.manual_seed(seed)
    model = system.build(seed)
    optimizer = system.optimizer(model, lr)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, system.schedule) if system.schedule else None
    entry = {
        "system": system.path,
        "knobs": system.knobs,
        "out": str(Path(out)),
        "steps": steps,
        "seed": seed,
        "lr": lr,
        "examples": examples,
    }
    about = {
        "system": system.name,
        "knobs": system.knobs,
        "seed": seed,
        "lr": lr,
        "steps": steps,
        "data": system.facts.get("manifest"),
        **options.pop("about", {}),
    }
    with record(
        out, model=model, optimizer=optimizer, scheduler=scheduler, loss=system.loss, probe=system.probe(seed), entry=(again, entry),
        about=about, **options
    ) as rec:  # fmt: skip
        if setup:
            setup(rec)
        for step in rec.steps(steps):
            batch = system.batch(seed, step)
            if examples and system.example_loss:
                ids, losses = system.example_loss(model, batch)
                loss, per_example = rec.weigh(ids, losses), (ids, losses.detach())
            else:
                loss, per_example = system.loss(model, batch), None
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if scheduler:
                scheduler.step()
            rec.step(loss=loss, example_loss=per_example)
            if after:
                after(rec, loss)
    return rec.path


def again(
    *, system: str, knobs: dict[str, Any], out: str, steps: int, seed: int, lr: float, examples: bool = False
) -> Path:
    """The entry of a recorded system: build it from its path and knobs, and run the same loop."""
    return train(load(system)(**knobs), out, steps=steps, seed=seed, lr=lr, examples=examples)
