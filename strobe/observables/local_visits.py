"""Losses beside the sampled one, at some of the draws: what the covariances over draws share."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strobe.core.data import examples_in, rows
from strobe.core.errors import BadOption, Diverged
from strobe.core.snapshot import Snapshot
from strobe.core.stacked import StackedLoss
from strobe.numerics.local_posterior import WARM, Sampled
from strobe.observables.local_draws import Judged, Settings

LEAST = 32  # visits of a run at least, about, before burn-in
FORWARD = 0.4  # cost of a loss, in gradients


def pieces(data: Any, size: int) -> list[Any]:
    """The data in batches of at most `size` examples; whole where they cannot be taken apart."""
    have = examples_in(data)
    return [rows(data, i, i + size) for i in range(0, have, size)] if size and have > size else [data]


def pace(chosen: Settings, size: int, examples: int) -> int:
    """Draws from one visit to the next, such that losses of so many examples cost what the gradients between them do.

    At least 2, and so few that a run has 32 visits: where examples are very many, they cost more.
    """
    most = int((1 - WARM) * chosen.budget / LEAST)
    return int(np.clip(FORWARD * examples / (chosen.batch or max(size, 1)), 2, max(most, 2)))


class Losses:
    """Losses of copies w (C, P) on named sets of data, (C, columns), less those at w*.

    A column is the loss of a set (a mean over its examples), or, with `apart`, the loss of one example of it.
    """

    def __init__(self, loss: StackedLoss, sets: Mapping[str, Any], batch: int, *, apart: bool = False) -> None:
        self.loss, self.apart = loss, apart
        self.sets = {label: [(p, examples_in(p) or 1) for p in pieces(data, batch)] for label, data in sets.items()}
        found = []
        for label, parts in self.sets.items():
            try:
                found.append(self._of(loss.center[None], parts))
            except Exception as e:
                raise BadOption(f"{label}: the loss cannot be computed on it: {e}") from e
            if not bool(found[-1].isfinite().all()):
                raise Diverged(f"{label}: its loss at the snapshot is not finite, so there is nothing to measure")
        self.columns = [x.shape[1] for x in found]
        self.base = torch.cat(found, 1)

    def __call__(self, w: Tensor) -> np.ndarray:
        found: np.ndarray = (torch.cat([self._of(w, p) for p in self.sets.values()], 1) - self.base).cpu().numpy()
        return found

    def _of(self, w: Tensor, parts: list[tuple[Any, int]]) -> Tensor:
        if self.apart:
            return torch.cat([self.loss.each(w, p) for p, _ in parts], 1)
        total = sum(k for _, k in parts)
        return sum((self.loss.losses(w, p) * (k / total) for p, k in parts), w.new_zeros(len(w)))[:, None]


def traces(got: Sampled) -> tuple[np.ndarray, np.ndarray]:
    """What was seen after burn-in, (C, visits, columns), and at which of its draws."""
    at = np.array([t for t, x in enumerate(got.seen) if x is not None])
    return np.stack([got.seen[t] for t in at], 1), at


def lean(llc: Judged) -> float:
    """By what part a covariance may be off: twice what the mean loss is, by the heat of batches and for want of rest."""
    return abs(llc.off) + 2 * (llc.heat / llc.mean.mean if llc.mean.mean > 0 else 0.0)


def mixed(loss: StackedLoss, look: Losses, snap: Snapshot) -> str:
    """A sentence where the loss of all data is not the mean of the examples', the first columns of `look`."""
    with snap.quiet():
        whole = float(Losses(loss, {"the data": snap.data}, 0).base)
    mean = float(look.base[0, : look.columns[0]].mean())
    if abs(whole - mean) <= 1e-3 * abs(mean) + 1e-6:
        return ""
    return f"the loss of all data, {whole:.4g}, is not the mean of the examples', {mean:.4g}"
