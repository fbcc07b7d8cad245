"""A recorded run as advice needs it: snapshots, the optimizer at a step, a loss, and up to where it was a number."""

from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strobe.core.errors import CannotReplay
from strobe.core.snapshot import Snapshot
from strobe.runs.run import Opened, Run

LOOKS = 12  # stored steps at which the probe's loss stands in for a training loss that was not recorded


class Advised:
    """A run with its own objects, or with a model, loss and probe handed over (as in `Run.at`)."""

    def __init__(self, run: Run, model: Any = None, loss: Any = None, probe: Any = None) -> None:
        self.run, self.given = run, (model, loss, probe)
        self._opened = Opened(run) if model is None else None
        self.stored = run.stored()
        self.told = "loss" in run.names()  # was a training loss recorded under that name?

    def at(self, step: int) -> Snapshot:
        """The run at a step. Raises as `Run.at`."""
        if self._opened is not None:
            return self._opened.at(step)
        model, loss, probe = self.given
        return self.run.at(step, model=model, loss=loss, probe=probe)

    def optimizer(self, step: int) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
        """(class, settings of its first group, P of Adam by parameter name; groups of other rates have theirs folded into P).

        Raises `CannotReplay` where it was not recorded, or one edge does not serve it.
        """
        snap = self.at(step)
        kind = str(self.run.facts["objects"].get("optimizer", "")).rpartition(".")[2]
        if not kind:
            raise CannotReplay("no optimizer was recorded: record(..., optimizer=optimizer)")
        kept = self.run.state(step)["objects"]["optimizer"]
        groups, state = kept["param_groups"], kept["state"]
        lr = float(groups[0]["lr"])
        adam = "betas" in groups[0]
        if not lr > 0:
            return kind, dict(groups[0]), {}
        if len({float(g["lr"]) for g in groups}) > 1 and not adam:
            raise CannotReplay("its parameter groups have different learning rates: one edge does not serve them")
        if self._opened is not None:
            order = [p for g in self._opened.recorder.objects["optimizer"].param_groups for p in g["params"]]
        elif len(groups) > 1 and adam:
            raise CannotReplay("which parameter is in which of its groups is not recorded: record the loop with entry=")
        else:
            order = list(snap.model.parameters())
        names = {id(x): n for n, x in snap.model.named_parameters() if x.requires_grad}
        of = [g for g in groups for _ in g["params"]]
        p: dict[str, Tensor] = {}
        for i, (x, group) in enumerate(zip(order, of, strict=False)):
            s = state.get(i, state.get(str(i)))
            if not (s and "exp_avg_sq" in s and id(x) in names):
                continue
            if s["exp_avg_sq"].shape != x.shape:
                raise CannotReplay(
                    "the optimizer's parameters are not in the model's order: record the loop with entry="
                )
            t, (b1, b2) = float(s["step"]), group["betas"]
            root = (s.get("max_exp_avg_sq", s["exp_avg_sq"]) / (1 - b2**t)).sqrt() + group["eps"]
            if not float(group["lr"]) > 0:
                raise CannotReplay(f"{names[id(x)]} has learning rate 0 at step {step}")
            p[names[id(x)]] = (1 - b1**t) * root * (lr / float(group["lr"]))
        if p and (still := sorted(set(names.values()) - set(p))):
            raise CannotReplay(
                f"{still[0]} is trainable and never received a gradient: Adam has no preconditioner for it"
            )
        return kind, dict(groups[0]), p

    @cached_property
    def losses(self) -> tuple[np.ndarray, np.ndarray]:
        """(steps, values) of the training loss; of the probe's loss at some stored steps where none was recorded."""
        if self.told:
            series = self.run.series("loss")
            return np.asarray(series.steps), np.asarray(series.values, float)
        chosen = sorted({self.stored[int(i)] for i in np.linspace(0, len(self.stored) - 1, LOOKS)})
        values = []
        for step in chosen:
            snap = self.at(step)
            with snap.quiet(), torch.no_grad():
                values.append(float(snap.loss(snap.model, snap.data)))
        return np.array(chosen), np.array(values)

    @property
    def lost(self) -> int | None:
        """The first step at which the loss was not a number."""
        steps, values = self.losses
        bad = steps[~np.isfinite(values)]
        return int(bad[0]) if len(bad) else None

    @property
    def worse(self) -> bool:
        """Did the loss end above its start, or as no number?"""
        _, values = self.losses
        last = values[-max(len(values) // 10, 1) :]
        return len(values) > 1 and not (np.isfinite(last).all() and np.mean(last) < values[0])

    def finite(self) -> list[int]:
        """Stored steps before the loss was not a number; the first in any case."""
        return [s for s in self.stored if self.lost is None or s < self.lost] or self.stored[:1]
