"""Does the central flow say where descent at the edge of stability is, on average, and what its loss is?"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from strobe.core.cards import study
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.core.snapshot import Snapshot
from strobe.core.stacked import StackedLoss
from strobe.laws.central_flow import central_flow as law
from strobe.numerics.central_flow import flow
from strobe.studies.docket import Docket, Progress, sized
from strobe.studies.edge import images

QUESTION = "Does the central flow say where descent at the edge of stability is, on average, and what its loss is?"
SCALES = {"tiny": (0.6, 150, 16, 64), "small": (0.4, 400, 32, 128), "full": (0.4, 1000, 32, 256)}  # lr, steps, width, n
WINDOW = 20  # steps that a mean loss is over
MOST = 4  # directions followed


@study(
    question="Does the central flow say what the loss at the edge of stability is, on average?", ref="arXiv:2410.24206"
)
def central_flow(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """Integrate the flow first, seal the mean losses it implies, then descend; gradient flow is the null.

    Digits, tanh, squared error. From the step at which the flow first met the edge on: the median relative error of losses averaged over
    20 steps is at most 15%, and the null's at least three times as large; the descent ends at least three times closer to
    the central flow than to gradient flow. Regime: the flow met the edge, with fewer directions there than it follows.
    Cost: seconds at "tiny", under a minute at "small". Raises `BadOption`.
    Ref: Cohen et al., arXiv:2410.24206, section 3.
    """
    lr, steps, width, n = sized(scale, SCALES)
    world = images(n=n, width=width, lr=lr)
    model = world.build(seed)
    f = StackedLoss(Snapshot(model, world.loss, world.probe(seed)))

    def loss(w: torch.Tensor) -> torch.Tensor:
        return f.snap.loss_at(f.split(w))

    panels = [{"title": "training loss", "series": ["loss"], "unit": "½ squared error", "log": True}]
    with Docket(world, out / "recorded", QUESTION, steps=5, seed=seed, panels=panels) as docket:
        smooth = flow(loss, f.center, lr=lr, steps=steps, most=MOST, seed=seed)
        null = flow(loss, f.center, lr=lr, steps=steps, central=False, seed=seed)
        if progress:
            progress("flows", 1, 2)
        met = np.flatnonzero(smooth.active > 0)
        first = int(met[0]) if len(met) else 0
        applies = len(met) > 0 and steps - first > 2 * WINDOW and smooth.active.max() < MOST
        why = f"met at step {first}, {smooth.active.max()} directions at most" if len(met) else "the edge was not met"
        said = law(lr=lr, losses=averaged(smooth.losses)[first:], variances=averaged(smooth.variances)[first:])
        docket.seal("curve", said, "mean loss along the flow, once it met the edge", tol=0.15 * np.asarray(said.value))
        one = {"value": 0.0, "tol": 0.15, "side": "below"}
        docket.seal("median", said, "median relative error of the central flow's mean loss", **one)
        docket.seal("rival", said, "median relative error of gradient flow's: null (must fail)", **one)
        docket.seal(
            "ratio",
            said,
            "error of gradient flow's loss over that of the central flow's",
            value=3.0,
            tol=0.0,
            side="above",
        )
        docket.seal(
            "place",
            said,
            "last distance to gradient flow over that to the central flow",
            value=3.0,
            tol=0.0,
            side="above",
        )
        losses, places = descent(f, world.probe(seed), lr, steps)
        real, flat = averaged(losses)[first:], averaged(null.losses)[first:]
        off = np.abs(np.asarray(said.value) / real - 1)
        rival = np.abs(flat / real - 1)
        docket.judge("curve", Reading(real, 0 * real, "loss"), applies=applies, why=why)
        docket.judge("median", median(off), applies=applies, why=why)
        docket.judge("rival", median(rival), applies=applies, why=why)
        a, b = median(off), median(rival)
        ratio = b.value / a.value
        docket.judge(
            "ratio", Reading(ratio, ratio * float(np.hypot(a.err / a.value, b.err / b.value))), applies=applies, why=why
        )
        tail = range(steps - WINDOW, steps)
        near = np.array([[float((places[t] - x.places[t]).norm()) for x in (smooth, null)] for t in tail])
        apart = near[:, 1] / near[:, 0]
        docket.judge("place", Reading(float(apart.mean()), float(apart.std(ddof=1)), "ratio"), applies=applies, why=why)
        rows: list[dict[str, Any]] = [
            {"step": t, "descent": real[t - first], "central flow": float(said.value[t - first]), "gradient flow": flat[t - first],
             "lr λ₁ / 2 of the flow": smooth.sharpness[t] * lr / 2, "directions": int(smooth.active[t])}
            for t in range(first, first + len(real), max(len(real) // 8, 1))
        ]  # fmt: skip
        return docket.report({"mean losses": rows}, ["Cohen et al. 2024, arXiv:2410.24206"], lr=lr, met=first)


def averaged(x: np.ndarray) -> np.ndarray:
    """Means over WINDOW steps from each step on."""
    found: np.ndarray = np.convolve(x, np.ones(WINDOW) / WINDOW, "valid")
    return found


def median(x: np.ndarray) -> Reading:
    """The median along a curve; err from the spread of the medians of its quarters, which are not independent."""
    parts = [float(np.median(p)) for p in np.array_split(x, 4)]
    return Reading(float(np.median(x)), float(np.std(parts, ddof=1)) / 2, "relative error")


def descent(f: StackedLoss, data: Any, lr: float, steps: int) -> tuple[np.ndarray, torch.Tensor]:
    """Plain descent from the snapshot: losses (steps,) and places (steps, P)."""
    w, losses, places = f.center.clone()[None], [], []
    for _ in range(steps):
        places.append(w[0].clone())
        value, grad = f(w, data)
        losses.append(float(value))
        w = w - lr * grad
    return np.array(losses), torch.stack(places)
