"""In which stages does in-context learning form in regression? A transformer on linear tasks, each new, read in three ways at once."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from strobe.core.cards import study
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction, Verdict, judge
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.core.snapshot import Snapshot
from strobe.core.system import System
from strobe.numerics.crossing import fallen
from strobe.observables.boundary_agreement import boundary_agreement
from strobe.observables.essential_dynamics import essential_dynamics
from strobe.observables.llc import llc
from strobe.observables.llc_plateaus import llc_plateaus
from strobe.observables.stages import stages
from strobe.observables.vertices import vertices
from strobe.runs.loop import train
from strobe.runs.notes import Notes
from strobe.runs.recorder import Recorder
from strobe.runs.run import Run, open_run
from strobe.runs.schedule import log_spaced
from strobe.runs.watch import follow
from strobe.studies.development import behaviour, rise, summary, worst_gap
from strobe.studies.regressors import distance, gain, predictors
from strobe.systems.incontext_regression import incontext_regression

QUESTION = "In which stages does in-context regression form, and do degeneracy and geometry find them without looking at behaviour?"
REF = "arXiv:2402.02364"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Size:
    steps: int
    per_decade: int  # snapshots and behaviours
    llc_per_decade: int
    budget: int  # gradients of each of 4 chains
    world: dict[str, Any]


LINEAR = {"tasks": 0, "dimension": 4, "length": 16, "lr": 3e-3}
SCALES = {
    "tiny": _Size(60, 5, 3, 200, {**LINEAR, "width": 8, "heads": 2, "layers": 1, "length": 6, "batch": 8, "probe_size": 64}),
    "small": _Size(8000, 14, 7, 200, LINEAR),
    "full": _Size(500_000, 24, 12, 1000, {**LINEAR, "width": 64, "batch": 256, "probe_size": 4096}),
}  # fmt: skip
NEAR = 100.0  # γ: at the default chains of 200 draws are still spreading, and errors are a third of λ̂
DROP = 1.0  # squared error by which the in-context score must fall for there to be in-context learning
BEHAVIOURS = ("task_loss", "to_silence", "to_ridge", "in_context_score", "embed_flatness", "norm_scale")
CITED = [
    "Hoogland et al. 2024, arXiv:2402.02364", "Raventós et al. 2023, arXiv:2306.15063", "Lau et al. 2023, arXiv:2308.12108",
]  # fmt: skip
METHODS = {"llc_plateaus": "plateaus of the learning coefficient", "vertices": "turns of the trajectory"}


@study(
    question="In which stages does in-context regression form, and do degeneracy and geometry find them without looking at behaviour?",
    ref="arXiv:2402.02364",
)
def developmental_regression(
    out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None
) -> Report:
    """One run of `incontext_regression` with a new task for every sequence, its behaviours, its λ̂(t) and its path.

    Sealed before the first step: the network first says the mean, 0 (where it is nearest to that the loss it has more is at most
    5% of D + σ²), and is there (90% of the fall of mean ŷ²) at most half as late as the in-context score is half down; λ̂ rises
    across that fall; and each of two methods that see no behaviour (plateaus of λ̂, turns of the path of outputs) has a
    boundary within 20% in ln t of each of three behavioural ones: the mean is said, in-context learning begun and formed
    (10% and 90% of the fall of the score).
    In the tables: the stages, all boundaries with their methods and how sure they are, and how far the methods agree
    beyond chance. Embedding and layer norms are in the stages, nothing is sealed of their collapse: it comes later than this run ends.
    Cost: seconds at "tiny"; about four minutes at "small" on one core. Raises `BadOption`.
    Ref: Hoogland et al., arXiv:2402.02364; departures: a network a fifth as large, 8,000 steps of 500,000, λ̂ at n / ln n.
    """
    if scale not in SCALES:
        raise BadOption(f"scale is 'tiny', 'small' or 'full', got {scale!r}")
    return _Study(out, SCALES[scale], seed, progress or (lambda *_: None)).report()


def flatness(snap: Snapshot) -> Reading:
    """Least over largest singular value of the embedding: 0 where a direction of the tokens is no longer read."""
    with snap.quiet() as model, torch.no_grad():
        values = torch.linalg.svdvals(model.get_parameter("embed.weight"))
    return Reading(float(values[-1] / values[0]), 0.0, "ratio")


def norm_scale(snap: Snapshot) -> Reading:
    """The least r.m.s. of the weights of a layer norm: 0 where one has collapsed."""
    with snap.quiet() as model, torch.no_grad():
        norms = [m.weight.square().mean().sqrt() for m in model.modules() if isinstance(m, nn.LayerNorm)]
    return Reading(float(min(norms)), 0.0, "r.m.s.")


def watch_behaviours(rec: Recorder, world: System, per_decade: int) -> None:
    """What the network does, along training: loss, distances to the mean and to ridge, in-context score, collapse."""
    known, every = predictors(world), log_spaced(per_decade)
    rec.watch(distance, name="task_loss", every=every)
    rec.watch(distance, name="to_silence", every=every, to=known["silence"])
    rec.watch(distance, name="to_ridge", every=every, to=known["ridge"])
    rec.watch(gain, name="in_context_score", every=every)
    rec.watch(flatness, name="embed_flatness", every=every)
    rec.watch(norm_scale, name="norm_scale", every=every)


@dataclass
class _Study:
    out: Path
    size: _Size
    seed: int
    progress: Progress
    sealed: dict[str, Prediction] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)

    def report(self) -> Report:
        """Seal, train, measure, find boundaries, judge."""
        size = self.size
        self.world = world = incontext_regression(**size.world)

        def setup(rec: Recorder) -> None:
            self._seal(rec)
            watch_behaviours(rec, world, size.per_decade)
            rec.event("page", question=QUESTION, panels=_panels(world.facts["silent"]))

        path = train(world, self.out / "run", steps=size.steps, seed=self.seed, setup=setup, most_snapshots=128,
                     snapshots=log_spaced(size.per_decade), after=lambda rec, _: self.progress("training", rec.n, size.steps))  # fmt: skip
        run = open_run(path)
        follow(run, llc, every=log_spaced(size.llc_per_decade), note="llc", batch=32, chains=4, budget=size.budget,
               gamma=NEAR, seed=self.seed,
               progress=lambda i, n: self.progress("learning coefficients", i, n))  # fmt: skip
        found = self._boundaries(run)
        with Notes(path) as self.notes:
            for name, reading in found.items():
                self.notes.reading(name, reading)
            times = self._judge(run, found)
            agree = boundary_agreement({k: v for k, v in found.items() if "boundaries" in v.how})
            self.notes.reading("boundary_agreement", agree)
        chances = {k: v.measured.how.get("chance") for k, v in zip(METHODS, self.verdicts[-2:], strict=True)}
        tables, facts = summary(_stage_table(run, times), found, agree, chances, world)
        return Report(QUESTION, self.verdicts, [path], tables, CITED, facts)

    def _seal(self, rec: Recorder) -> None:
        when = f"the in-context score falls by {DROP} or more"

        def say(key: str, of: str, value: float, side: Any) -> None:
            self.sealed[key] = rec.seal(Prediction(of, value, 0.0, when=when, side=side, ref=REF))

        say("mean", "mean ŷ² over D + σ² where it is least", 0.05, "below")
        say(
            "order", "ln of the half-time of the in-context score over when the mean is said", float(np.log(2)), "above"
        )
        say("llc", "rise of λ̂ over the fall of the in-context score", 0.0, "above")
        for key, method in METHODS.items():
            say(key, f"{method}: largest |ln t / ln t' - 1| to three behavioural boundaries t'", 0.2, "below")

    def _boundaries(self, run: Run) -> dict[str, Reading]:
        path = essential_dynamics(run, outputs=lambda model, pairs: model(pairs))
        traces = {n: (s.steps, s.values, s.errs) for n in BEHAVIOURS for s in [run.series(n)]}
        found = {"stages": stages(traces), "llc_plateaus": llc_plateaus(run), "vertices": vertices(path)}
        return found | {"essential_dynamics": path}

    def _judge(self, run: Run, found: dict[str, Reading]) -> dict[str, tuple[float, float]]:
        score, mean = (run.series(n) for n in ("in_context_score", "to_silence"))
        half = fallen(score.steps, score.values, score.errs, 0.5)
        times = {
            "the mean is said": fallen(mean.steps, mean.values, mean.errs, 0.9),
            "in-context learning begins": fallen(score.steps, score.values, score.errs, 0.1),
            "in-context learning formed": fallen(score.steps, score.values, score.errs, 0.9),
        }
        known = {k: t for k, t in times.items() if t is not None}
        fell = float(np.median(score.values[1:4]) - score.values[-3:].mean())
        if half is None or len(known) < 3 or fell < max(DROP, 8 * float(score.errs.max())):
            for p in self.sealed.values():
                self._say(p, Reading(None), False, f"the in-context score fell by {fell:.2f}")
            return {}
        least, silent = int(mean.values.argmin()), self.world.facts["silent"]
        self._say(self.sealed["mean"], Reading(float(mean.values[least] / silent), float(mean.errs[least] / silent), "",
                                               {"step": int(mean.steps[least])}))  # fmt: skip
        said = known["the mean is said"]
        gap, err = np.log(10) * (half[0] - said[0]), np.log(10) * np.hypot(half[1], said[1])
        self._say(self.sealed["order"], Reading(float(gap), float(err), "ln steps", {"steps": [10 ** said[0], 10 ** half[0]]}))  # fmt: skip
        trace = run.series("llc")
        self._say(self.sealed["llc"], rise(trace.steps, trace.values, trace.errs, half[0]))
        found["behaviour"] = self.notes.reading("behaviour", behaviour(known, run.last))
        for key in METHODS:
            self._say(self.sealed[key], worst_gap(found[key], list(known.values()), np.log10(run.last)))
        return known

    def _say(self, sealed: Prediction, reading: Reading, applies: bool = True, why: str = "") -> None:
        self.verdicts.append(self.notes.verdict(judge(sealed, reading, applies=applies, why=why)))


def _stage_table(run: Run, times: dict[str, tuple[float, float]]) -> list[dict[str, Any]]:
    """Behaviours and λ̂ at the behavioural boundaries, and at both ends."""
    rows = []
    for what, step in [("start", 1.0), *((k, 10 ** t[0]) for k, t in times.items()), ("end", float(run.last))]:
        row: dict[str, Any] = {"until": what, "step": round(step)}
        for name in (*BEHAVIOURS, "llc"):
            s = run.series(name)
            row[name] = float(np.interp(np.log10(step), np.log10(np.maximum(s.steps, 0.5)), s.values))
        rows.append(row)
    return rows


def _panels(silent: float) -> list[dict[str, Any]]:
    def panel(title: str, series: list[str], unit: str, **more: Any) -> dict[str, Any]:
        return {"title": title, "series": series, "unit": unit, **more}

    return [
        panel("loss", ["loss", "task_loss"], "squared error", log=True, lines=[{"value": silent, "label": "says 0"}]),
        panel("distance to the mean and to ridge", ["to_silence", "to_ridge"], "squared error", log=True,
              labels={"to_silence": "mean, 0", "to_ridge": "ridge"}),
        panel("in-context score", ["in_context_score"], "squared error", lines=[{"value": 0.0, "label": "no use of context"}],
              note="Loss at the last quarter of positions less that at the second."),
        panel("local learning coefficient", ["llc"], "λ̂", note="At nβ = n / ln n of the probe, with one standard error."),
        panel("collapse", ["embed_flatness", "norm_scale"], "",
              labels={"embed_flatness": "embedding, least over largest", "norm_scale": "least layer norm"}),
        panel("path of the outputs", ["essential_dynamics"], "score"),
    ]  # fmt: skip
