"""Does full-batch training settle where theory puts the edge of stability, also after the learning rate is set live?"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from strobe.core.cards import study
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction, Verdict, judge
from strobe.core.reading import Reading, pool
from strobe.core.report import Report
from strobe.core.snapshot import Snapshot
from strobe.core.system import System
from strobe.laws.edge_of_stability import edge_of_stability
from strobe.observables.sharpness import SharpnessTracker, preconditioned_sharpness
from strobe.runs.control import send
from strobe.runs.loop import train
from strobe.runs.notes import Notes
from strobe.runs.recorder import Recorder
from strobe.runs.run import Run, open_run
from strobe.studies.images import standardised

QUESTION = "Does full-batch training settle at the edge of stability, also after the learning rate is set live?"
BAND = (0.97, 1.06)  # of c / lr: where plateaus lie that were reached; they sit above it rather than below
BLOCKS = 6  # of a plateau: the error of its mean is from the spread of their means


@dataclass(frozen=True)
class _Setting:
    """One run: its optimiser, lr, momentum, the lr to set half-way, the steps, and whether on digits or on rings."""

    name: str
    optimizer: str
    lr: float
    momentum: float = 0.0
    later: float | None = None
    steps: int = 3000
    images: bool = False


SETTINGS = {
    "tiny": [_Setting("gd", "gd", 0.07, later=0.1, steps=2400)],
    "small": [
        _Setting("gd", "gd", 0.07, later=0.1), _Setting("gd-digits", "gd", 0.4, steps=1200, images=True),
        _Setting("heavy_ball", "heavy_ball", 0.5, 0.5, steps=600, images=True),
        _Setting("nesterov", "nesterov", 0.25, 0.9, steps=800, images=True),
        _Setting("ema", "ema", 1.0, 0.5, steps=600, images=True), _Setting("adam", "adam", 0.02, steps=400, images=True),
        _Setting("too-small-lr", "gd", 0.002),
    ],
}  # fmt: skip
SETTINGS["full"] = [replace(s, steps=2 * s.steps) if not s.images else s for s in SETTINGS["small"]]
Progress = Callable[[str, int, int], None]


def rings(*, n: int = 32, width: int = 32, optimizer: str = "gd", momentum: float = 0.0, lr: float = 0.1) -> System:
    """Two concentric circles, labelled +1 and -1, full batch, mean squared error, a tanh network of two hidden layers."""
    angle = torch.arange(n) * (2 * torch.pi / n)
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    data = (torch.cat([circle, 2 * circle]), torch.cat([torch.ones(n), -torch.ones(n)]))

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (model(batch[0]).squeeze(-1) - batch[1]).square().mean()

    knobs = {"n": n, "width": width, "optimizer": optimizer, "momentum": momentum, "lr": lr}
    return _world("rings", knobs, data, loss, (2, width, 1))


def images(*, n: int = 256, width: int = 32, optimizer: str = "gd", momentum: float = 0.0, lr: float = 0.1) -> System:
    """`n` scanned digits, standardised, full batch, ½ the squared error of one-hot labels, tanh, two hidden layers."""
    pixels, labels = standardised()
    data = (pixels[:n], nn.functional.one_hot(labels[:n], 10).float())

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (model(batch[0]) - batch[1]).square().sum(1).mean() / 2

    knobs = {"n": n, "width": width, "optimizer": optimizer, "momentum": momentum, "lr": lr}
    return _world("images", knobs, data, loss, (64, width, 10))


def _world(name: str, knobs: dict[str, Any], data: Any, loss: Any, sizes: tuple[int, int, int]) -> System:
    """A tanh network of two hidden layers on one full batch, with the optimiser that the knobs name."""
    optimizer, momentum = knobs["optimizer"], knobs["momentum"]
    a, width, b = sizes

    def build(seed: int) -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            layers = (nn.Linear(a, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, b))
            return nn.Sequential(*layers)

    def make(model: nn.Module, rate: float) -> torch.optim.Optimizer:
        if optimizer == "adam":
            return torch.optim.Adam(model.parameters(), lr=rate)
        sgd = torch.optim.SGD(
            model.parameters(), lr=rate, momentum=momentum, nesterov=optimizer == "nesterov",
            dampening=momentum if optimizer == "ema" else 0.0,
        )  # fmt: skip
        if optimizer == "ema":  # an average starts at 0; torch's first buffer is the whole gradient
            for p in model.parameters():
                sgd.state[p]["momentum_buffer"] = torch.zeros_like(p)
        return sgd

    path = f"strobe.studies.edge:{name}"
    return System(name, path, knobs, build, lambda seed, step: data, loss, lambda seed: data, make, knobs["lr"])


@study(
    question="Does full-batch training settle at the edge of stability, also after lr is set live?",
    ref="arXiv:2103.00065",
)
def edge(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """Descent (with a live change of lr), heavy ball, Nesterov, a moving average and Adam against their c / lr.

    On two rings of points and on digits, squared error, tanh. Sealed before the training it is about: the mean of the second
    half's sharpness is 0.97 to 1.06 of c / lr; for a method with momentum also the rival 2 / lr of plain descent, which must fail.
    The regime is read off the training loss alone: it rose at some step of that half. One run is too slow to get there, and is
    outside. Cost: seconds at "tiny", under a minute at "small". Raises `BadOption`. Needs scikit-learn beyond "tiny".
    """
    if scale not in SETTINGS:
        raise BadOption(f"scale is 'tiny', 'small' or 'full', got {scale!r}")
    verdicts, runs = [], []
    for setting in SETTINGS[scale]:
        found, path = _one(out / setting.name, setting, seed, progress or (lambda *_: None))
        verdicts += found
        runs.append(path)
    return Report(
        QUESTION,
        verdicts,
        runs,
        citations=["Cohen et al. 2021, arXiv:2103.00065", "Cohen et al. 2022, arXiv:2207.14484"],
    )


def _one(out: Path, setting: _Setting, seed: int, progress: Progress) -> tuple[list[Verdict], Path]:
    name, optimizer, lr, momentum = setting.name, setting.optimizer, setting.lr, setting.momentum
    later, steps = setting.later, setting.steps
    world = (images if setting.images else rings)(optimizer=optimizer, momentum=momentum, lr=lr)
    half = steps // 2 if later else steps
    sealed: list[tuple[Prediction, int, int]] = []

    def seal(rec: Recorder, rate: float, start: int, stop: int) -> None:
        knobs = {"beta1": momentum} if optimizer == "ema" else {"momentum": momentum}
        law = edge_of_stability(lr=rate, optimizer=optimizer, **({} if optimizer == "adam" else knobs))
        low, high = BAND
        band = {"value": law.value * (low + high) / 2, "tol": law.value * (high - low) / 2}
        about: dict[str, Any] = {"series": "sharpness", "steps": (start, stop)}
        said = replace(law, of=f"{law.of}, {name}, lr = {rate:g}: {low:g} to {high:g} of c / lr", **band, **about)
        sealed.append((rec.seal(said), start, stop))
        if optimizer != "gd":
            rival = edge_of_stability(lr=rate)
            told = replace(rival, of=f"{law.of}, {name}, lr = {rate:g}: rival 2 / lr (must fail)", **about)
            sealed.append((rec.seal(told), start, stop))

    def setup(rec: Recorder) -> None:
        seal(rec, lr, 0, half)
        watched = _adam_sharpness(rec) if optimizer == "adam" else SharpnessTracker()
        rec.watch(watched, name="sharpness", every=max(steps // 120, 1))
        of = "P⁻¹H" if optimizer == "adam" else "the Hessian"
        panels = [
            {"title": f"top eigenvalue of {of}", "series": ["sharpness"], "unit": "λ₁"},
            {"title": "training loss", "series": ["loss"], "unit": "MSE", "log": True},
        ]
        rec.event("page", question=QUESTION, panels=panels)

    def after(rec: Recorder, _: Any) -> None:
        progress(name, rec.n, steps)
        if later and rec.n == half:
            seal(rec, later, half, steps)
            send(rec.path, "set", author="study edge", name="lr", value=later)

    path = train(world, out, steps=steps, seed=seed, setup=setup, after=after)
    run = open_run(path)
    with Notes(path) as notes:
        return [notes.verdict(_verdict(run, *s)) for s in sealed], path


def _adam_sharpness(rec: Recorder) -> Callable[[Snapshot], Reading]:
    """λ₁(P⁻¹H) with the P that this step's Adam uses, read from its live state."""
    optimizer, model = rec.objects["optimizer"], rec.objects["model"]
    group = optimizer.param_groups[0]
    beta1, beta2 = group["betas"]

    def preconditioned(snap: Snapshot) -> Reading:
        p = {}
        for name, x in model.named_parameters():
            state = optimizer.state.get(x)
            if not state:  # before the first step Adam has no P
                return Reading(0.0, 0.0, "1/lr", {"note": "no step taken yet"})
            t = float(state["step"])
            p[name] = (1 - beta1**t) * ((state["exp_avg_sq"] / (1 - beta2**t)).sqrt() + group["eps"])
        return preconditioned_sharpness(snap, preconditioner=p)

    return preconditioned


def plateau(readings: list[Reading]) -> Reading:
    """The mean of readings along a plateau; its err from the spread of the means of blocks of it, and the worst err of one."""
    if len(readings) < 2 * BLOCKS:
        return pool(readings)
    values = np.array([float(r.value) for r in readings])
    means = np.array([b.mean() for b in np.array_split(values, BLOCKS)])
    err = np.hypot(means.std(ddof=1) / BLOCKS**0.5, max(float(r.err) for r in readings))
    return Reading(float(values.mean()), float(err), readings[0].unit, {"pooled": len(values), "blocks": BLOCKS})


def _verdict(run: Run, law: Prediction, start: int, stop: int) -> Verdict:
    """Pool the readings of the second half of the window; the regime is a loss that rose there."""
    loss, sharp = run.series("loss"), run.series("sharpness")
    late = stop - (stop - start) // 2
    losses = loss.values[(loss.steps > late) & (loss.steps <= stop)]
    rose = [b > a for a, b in pairwise(losses)]
    keep = (sharp.steps > late) & (sharp.steps <= stop)
    unit = "1/lr" if "precond" in law.of else "loss/θ²"
    found = [Reading(v, e, unit) for v, e in zip(sharp.values[keep], sharp.errs[keep], strict=True)]
    if not found or not np.isfinite(losses).all():
        return judge(
            law, Reading(None), applies=False, why="the run diverged, so nothing was measured: lower the learning rate"
        )
    measured = plateau(found)
    met = bool(np.any(rose))
    why = (
        f"the loss rose at {np.mean(rose):.0%} of steps {late} to {stop}"
        if met
        else f"the loss never rose in steps {late} to {stop}: the edge was not met"
    )
    return judge(law, measured, applies=met, why=why)
