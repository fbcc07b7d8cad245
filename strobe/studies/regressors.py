"""What a network that regresses in context does: its distance to what another would say, and what it gains along a sequence."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot
from strobe.core.system import System
from strobe.laws.incontext_predictors import dmmse, ridge
from strobe.runs.recorder import Recorder

Predictor = Callable[[Any], np.ndarray]


def predictors(world: System) -> dict[str, Predictor]:
    """(x, y) -> ŷ of those who know the noise: "silence" says 0, "ridge", and with tasks "dmmse".

    >>> from strobe.systems.incontext_regression import incontext_regression
    >>> sorted(predictors(incontext_regression(tasks=0)))
    ['ridge', 'silence']
    """
    noise, tasks = world.facts["noise"], world.facts["tasks"]
    known: dict[str, Predictor] = {
        "silence": lambda pairs: np.zeros(tuple(pairs[1].shape)),
        "ridge": lambda pairs: ridge(pairs[0], pairs[1], noise=noise),
    }
    if tasks is not None:
        known["dmmse"] = lambda pairs: dmmse(pairs[0], pairs[1], tasks=tasks, noise=noise)
    return known


def says(snap: Snapshot, data: Any = None) -> np.ndarray:
    """ŷ (n, K) on the snapshot's data, or other data."""
    with snap.quiet() as model, torch.no_grad():
        return np.asarray(model(snap.data if data is None else data).numpy(), float)


def distance(snap: Snapshot, *, to: Predictor | None = None, data: Any = None) -> Reading:
    """Mean of (ŷ − what `to` says)² over positions and sequences; without `to` the loss, (y − ŷ)². Err over sequences."""
    given = snap.data if data is None else data
    aim = np.asarray(given[1], float) if to is None else to(given)
    each = ((says(snap, given) - aim) ** 2).mean(1)
    return Reading(float(each.mean()), float(each.std(ddof=1) / len(each) ** 0.5), "squared error", {"sequences": len(each)})  # fmt: skip


def gain(snap: Snapshot, *, early: int = 1, data: Any = None) -> Reading:
    """In-context score of regression: loss at the last quarter of positions less that at position `early` (from 0); negative is better.

    Err: over sequences, paired.
    """
    given = snap.data if data is None else data
    off = (says(snap, given) - np.asarray(given[1], float)) ** 2
    late = off[:, -max(off.shape[1] // 4, 1) :].mean(1) - off[:, early]
    return Reading(float(late.mean()), float(late.std(ddof=1) / len(late) ** 0.5), "squared error", {"early": early})


def watch_distances(rec: Recorder, world: System, every: list[int]) -> None:
    """Distances to ridge and dMMSE on the tasks and on new ones, and both losses, along training."""
    known, new = predictors(world), world.facts["unseen"]
    for name in ("ridge", "dmmse"):
        rec.watch(distance, name=f"{name}_seen", every=every, to=known[name])
        rec.watch(distance, name=f"{name}_new", every=every, to=known[name], data=new)
    rec.watch(distance, name="loss_seen", every=every)
    rec.watch(distance, name="loss_new", every=every, data=new)
