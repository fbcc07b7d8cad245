"""Does a deep linear network learn its modes when, and as, the closed form says?"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strobe.core.cards import study
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction, Verdict, judge
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.laws.deep_linear_modes import deep_linear_modes, mode_half_times
from strobe.observables.mode_strengths import mode_strengths
from strobe.runs.loop import train
from strobe.runs.notes import Notes
from strobe.runs.recorder import Recorder
from strobe.runs.run import open_run
from strobe.studies.docket import Docket
from strobe.systems.deep_linear import deep_linear as world_of

STEPS = {"tiny": 3000, "small": 8000, "full": 20000}
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "tiny": [{"depth": 2}],
    "small": [{"depth": 2}, {"depth": 3, "start": 0.05}, {"depth": 4, "start": 0.1}, {"depth": 2, "imbalance": 3.0}],
    "full": [{"depth": 2}, {"depth": 3, "start": 0.05}, {"depth": 4, "start": 0.1}, {"depth": 2, "imbalance": 3.0}],
}
STARTS = {"tiny": (2, 1e-5), "small": (8, 1e-5), "full": (32, 1e-6)}  # random starts side by side, and their size
DIM, WIDTH = 8, 128


@study(
    question="Does a deep linear network learn its modes one by one, when the closed form says?", ref="arXiv:1312.6120"
)
def deep_linear(
    out: Path, *, scale: str = "small", seed: int = 0, progress: Callable[[str, int, int], None] | None = None
) -> Report:
    """Seal the mode curves of several depths, train, measure, judge; an unbalanced start and a wrong rate refute.

    Each run seals (1) the law and (2) a rival, the same curve without the ½ in the loss convention (twice the rate),
    which must fail. A run that starts unbalanced is outside the law's regime, and says so. Then random small starts side by side: when
    each mode is half learned, with the rival that takes the variance of the start for its strength.
    Cost: seconds at "tiny", under a minute at "small" on one core. Raises `BadOption` for an unknown scale.
    """
    if scale not in STEPS:
        raise BadOption(f"scale is 'tiny', 'small' or 'full', got {scale!r}")
    steps, verdicts, runs = STEPS[scale], [], []
    at = sorted({0, *(int(s) for s in np.geomspace(steps / 60, steps, 32))})
    for setting in SETTINGS[scale]:
        knobs = {"start": 1e-3, **setting}
        name = "-".join(f"{k}{v:g}" for k, v in setting.items())
        found, path = _one(out / name, knobs, steps, at, seed, progress or (lambda *_: None))
        verdicts += found
        runs.append(path)
    found, rows, path = _random_starts(out / "random", *STARTS[scale], seed)
    return Report(
        "Does a deep linear network learn its modes one by one, when the closed form says?", verdicts + found, [*runs, path],
        {"random starts": rows}, citations=["Saxe, McClelland, Ganguli 2014, arXiv:1312.6120"],
    )  # fmt: skip


def _one(
    out: Path, knobs: dict[str, Any], steps: int, at: list[int], seed: int, progress: Callable[[str, int, int], None]
) -> tuple[list[Verdict], Path]:
    world = world_of(**knobs)
    modes = {"left": world.facts["left"], "right": world.facts["right"]}
    ask = {
        "singular_values": world.facts["singular_values"],
        "start": knobs["start"],
        "depth": knobs["depth"],
        "steps": at,
    }
    sealed: list[Prediction] = []

    def setup(rec: Recorder) -> None:
        sealed.append(rec.seal(replace(deep_linear_modes(lr=world.lr, **ask), series="mode_strengths")))
        rival = replace(deep_linear_modes(lr=2 * world.lr, **ask), series="mode_strengths")
        sealed.append(rec.seal(replace(rival, of="mode_strengths, rival: loss without the ½ (must fail)")))
        rec.watch(mode_strengths, every=at, **modes)
        rec.event("page", question="When does each mode of a deep linear network rise?", panels=PANELS)

    path = train(world, out, steps=steps, seed=seed, setup=setup, after=lambda rec, _: progress(out.name, rec.n, steps))
    rows = open_run(path).readings("mode_strengths")
    measured = Reading([r["value"] for r in rows], [r["err"] for r in rows], "mode strength", {"steps": at})
    balanced = knobs.get("imbalance", 1.0) == 1.0
    why = "" if balanced else f"the start is unbalanced by {knobs['imbalance']:g}, known before training"
    with Notes(path) as notes:
        return [notes.verdict(judge(p, measured, applies=balanced, why=why)) for p in sealed], path


def _random_starts(out: Path, starts: int, size: float, seed: int) -> tuple[list[Verdict], list[dict[str, Any]], Path]:
    """Networks of two layers from random small weights, all at once: when does each mode reach half its strength?"""
    world = world_of(init="random", start=size, dim=DIM, width=WIDTH)
    left, right = world.facts["left"].double(), world.facts["right"].double()
    s = np.array(world.facts["singular_values"])
    nets = [world.build(seed * 1000 + i) for i in range(starts)]
    first, second = (torch.stack([n.get_parameter(f"{i}.weight").detach().double() for n in nets]) for i in (0, 1))
    u0 = ((first @ right + (left.T @ second).mT) / 2).square().sum(1).numpy()  # (starts, modes)
    question = "When is each mode half learned from a random small start?"
    with Docket(world, out, question, steps=300, seed=seed) as docket:
        for i in range(starts):
            said = mode_half_times(singular_values=s.tolist(), starts=u0[i].tolist(), lr=world.lr)
            docket.seal(f"{i}", said, f"steps at which modes are half learned, random start {i}")
            naive = mode_half_times(singular_values=s.tolist(), starts=[size] * len(s), lr=world.lr)
            text = f"the same, start {i}, rival: a strength of {size:g} for all (must fail)"
            docket.seal(f"naive {i}", naive, text, law="", knobs={})
        got = _half_times(
            first,
            second,
            left,
            right,
            s,
            world.lr,
            int(1.3 * max(docket.sealed[f"{i}"].value.max() for i in range(starts))),
        )
        rows = []
        for i in range(starts):
            met = bool(np.isfinite(got[i]).all())
            read = Reading(got[i] if met else None, np.full(len(s), 0.5), "steps")
            why = "" if met else "a mode was not half learned"
            docket.judge(f"{i}", read, applies=met, why=why)
            docket.judge(f"naive {i}", read, applies=met, why=why)
            ratio = got[i] / docket.sealed[f"{i}"].value
            rows.append({"start": i, **{f"s = {v:g}": float(r) for v, r in zip(s, ratio, strict=True)},
                         "rival, mean": float((got[i] / docket.sealed[f"naive {i}"].value).mean())})  # fmt: skip
    return docket.verdicts, rows, docket.path


def _half_times(
    first: Tensor, second: Tensor, left: Tensor, right: Tensor, s: np.ndarray, lr: float, most: int
) -> np.ndarray:
    """Steps of descent on ½‖M − W₂W₁‖² until uᵀW₂W₁v passes s / 2, between two steps by a line; (starts, modes)."""
    half, target = torch.from_numpy(s) / 2, left @ torch.diag(torch.from_numpy(s)) @ right.T
    seen, before = torch.full((len(first), len(s)), torch.inf, dtype=torch.float64), None
    for step in range(most):
        product = second @ first
        now = torch.einsum("im,bij,jm->bm", left, product, right)
        if before is not None:
            new = (now >= half) & seen.isinf()
            seen[new] = (step - 1 + (half - before) / (now - before))[new]
        before = now
        gap = target - product
        first, second = first + lr * second.mT @ gap, second + lr * gap @ first.mT
    return seen.numpy()


PANELS = [
    {"title": "mode strengths uᵢ", "series": ["mode_strengths"], "labels": {"mode_strengths": "mode"}},
    {"title": "training loss", "series": ["loss"], "unit": "½‖M − W‖²", "log": True},
]
