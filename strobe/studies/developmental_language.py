"""In which stages does in-context learning form? A transformer on a language that is known, read in three ways at once."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

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
from strobe.observables.head_scores import prefix_matching_score, previous_token_score
from strobe.observables.in_context_score import in_context_score
from strobe.observables.llc import llc
from strobe.observables.llc_plateaus import llc_plateaus
from strobe.observables.ngram_kl import ngram_kl
from strobe.observables.stages import stages
from strobe.observables.token_loss import token_loss
from strobe.observables.vertices import vertices
from strobe.runs.loop import train
from strobe.runs.notes import Notes
from strobe.runs.recorder import Recorder
from strobe.runs.run import Run, open_run
from strobe.runs.schedule import log_spaced
from strobe.runs.watch import follow
from strobe.studies.development import behaviour, rise, summary, valued, worst_gap
from strobe.systems.repeated_bigrams import repeated_bigrams

QUESTION = "In which stages does in-context learning form, and do degeneracy and geometry find them without looking at behaviour?"
REF = "arXiv:2402.02364"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Size:
    steps: int
    per_decade: int  # snapshots and behaviours
    llc_per_decade: int
    budget: int  # gradients of each of 4 chains
    world: dict[str, Any]


SCALES = {
    "tiny": _Size(60, 5, 3, 200, {"d_model": 8, "heads": 2, "vocab": 16, "context": 8, "batch": 8, "probe_size": 16, "phrases": 4}),
    "small": _Size(8000, 14, 7, 200, {}),
    "full": _Size(50_000, 24, 12, 1000, {"d_model": 256, "context": 256, "vocab": 1024, "batch": 64, "lr": 1e-3, "probe_size": 1024}),
}  # fmt: skip
DROP = 0.3  # nats that the in-context score must fall by for there to be in-context learning
BEHAVIOURS = ("token_loss", "kl_bigram", "in_context_score", "previous_token_best", "prefix_matching_best")
CITED = [
    "Hoogland et al. 2024, arXiv:2402.02364", "Olsson et al. 2022, arXiv:2209.11895", "Lau et al. 2023, arXiv:2308.12108",
    "Carroll et al. 2025, arXiv:2501.17745",
]  # fmt: skip
METHODS = {"llc_plateaus": "plateaus of the learning coefficient", "vertices": "turns of the trajectory"}


@study(
    question="In which stages does in-context learning form, and do degeneracy and geometry find them without looking at behaviour?",
    ref="arXiv:2402.02364",
)
def developmental_language(
    out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None
) -> Report:
    """One run of a two-layer attention-only transformer on `repeated_bigrams`, its behaviours, its λ̂(t) and its path.

    Sealed before the first step: bigram KL is half down at most half as late as the in-context score; a head of the second
    layer matches prefixes with more than 0.3 when that score is half down; λ̂ rises across both falls; and each of two
    methods that see no behaviour (plateaus of λ̂, turns of the path of outputs) has a boundary within 20% in ln t of
    each of three behavioural ones: bigrams learnt (90% of the fall of the KL), in-context learning begun and formed
    (10% and 90% of the fall of the score, on windows that all say their text twice).
    In the tables: the stages, all boundaries with their methods and how sure they are, and how far the methods agree
    beyond chance. Cost: seconds at "tiny"; about five minutes at "small" on one core, of which four are λ̂. Raises `BadOption`.
    Ref: Hoogland et al., arXiv:2402.02364; departures: a synthetic language, a network 60 times smaller, λ̂ at n / ln n.
    """
    if scale not in SCALES:
        raise BadOption(f"scale is 'tiny', 'small' or 'full', got {scale!r}")
    return _Study(out, SCALES[scale], seed, progress or (lambda *_: None)).report()


def on(snap: Snapshot, *, observable: Any, data: Any = None, layer: int | None = None, **options: Any) -> Reading:
    """An observable on other data than the probe; with `layer`, the largest of that layer's heads (-1: of all)."""
    got: Reading = observable(snap if data is None else replace(snap, data=data), **options)
    if layer is None:
        return got
    value, err = (a if layer < 0 else a[layer] for a in (got.value, got.err))
    i = int(np.argmax(value))
    return Reading(float(np.ravel(value)[i]), float(np.ravel(err)[i]), got.unit, {**got.how, "head": i})


def probabilities(model: Any, tokens: Any) -> Any:
    """What the model says of the next tokens: bounded, so that logits which only grow are no motion."""
    return model(tokens[:, :-1]).softmax(-1)


def watch_behaviours(rec: Recorder, world: System, per_decade: int) -> None:
    """What the network does, along training: loss, distance to the bigram table, in-context score, heads."""
    facts, every = world.facts, log_spaced(per_decade)
    rec.watch(token_loss, every=every)
    rec.watch(on, name="kl_bigram", every=every, observable=ngram_kl, data=facts["plain"], log_probs=facts["bigram"])
    rec.watch(on, name="in_context_score", every=every, observable=in_context_score, data=facts["twice"])
    rec.watch(previous_token_score, every=every)
    rec.watch(prefix_matching_score, every=every, sequences=64)
    rec.watch(on, name="previous_token_best", every=every, observable=previous_token_score, layer=0)
    rec.watch(on, name="prefix_matching_best", every=every, observable=prefix_matching_score, layer=1, sequences=64)


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
        size, world = self.size, repeated_bigrams(**self.size.world)

        def setup(rec: Recorder) -> None:
            self._seal(rec)
            watch_behaviours(rec, world, size.per_decade)
            rec.event("page", question=QUESTION, panels=_panels())

        path = train(world, self.out / "run", steps=size.steps, seed=self.seed, setup=setup, most_snapshots=128,
                     snapshots=log_spaced(size.per_decade), after=lambda rec, _: self.progress("training", rec.n, size.steps))  # fmt: skip
        run = open_run(path)
        follow(run, llc, every=log_spaced(size.llc_per_decade), note="llc", batch=32, chains=4, budget=size.budget, seed=self.seed,
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
        when = f"the in-context score falls by {DROP} nats or more"

        def say(key: str, of: str, value: float, side: Any, **more: Any) -> None:
            self.sealed[key] = rec.seal(Prediction(of, value, 0.0, when=when, side=side, ref=REF, **more))

        say("order", "ln of the half-time of the in-context score over that of bigram KL", float(np.log(2)), "above")
        say(
            "prefix",
            "prefix matching of a head of layer 2 when the in-context score is half down",
            0.3,
            "above",
            series="prefix_matching_best",
        )
        say("llc, bigrams", "rise of λ̂ over the fall of bigram KL", 0.0, "above")
        say("llc, induction", "rise of λ̂ over the fall of the in-context score", 0.0, "above")
        for key, method in METHODS.items():
            say(key, f"{method}: largest |ln t / ln t' - 1| to three behavioural boundaries t'", 0.2, "below")

    def _boundaries(self, run: Run) -> dict[str, Reading]:
        path = essential_dynamics(run, outputs=probabilities)
        traces = {n: (s.steps, s.values, s.errs) for n in BEHAVIOURS for s in [run.series(n)]}
        found = {"stages": stages(traces), "llc_plateaus": llc_plateaus(run), "vertices": vertices(path)}
        return found | {"essential_dynamics": path}

    def _judge(self, run: Run, found: dict[str, Reading]) -> dict[str, tuple[float, float]]:
        icl, kl, match = (run.series(n) for n in ("in_context_score", "kl_bigram", "prefix_matching_best"))
        first, then = (fallen(s.steps, s.values, s.errs, 0.5) for s in (kl, icl))
        times = {
            "bigrams learnt": fallen(kl.steps, kl.values, kl.errs, 0.9),
            "in-context learning begins": fallen(icl.steps, icl.values, icl.errs, 0.1),
            "in-context learning formed": fallen(icl.steps, icl.values, icl.errs, 0.9),
        }
        known = {k: t for k, t in times.items() if t is not None}
        fell = float(np.median(icl.values[1:4]) - icl.values[-3:].mean())
        if first is None or then is None or len(known) < 3 or fell < max(DROP, 8 * float(icl.errs.max())):
            for p in self.sealed.values():
                self._say(p, Reading(None), False, f"the in-context score fell by {fell:.2f} nats")
            return {}
        gap, err = np.log(10) * (then[0] - first[0]), np.log(10) * np.hypot(then[1], first[1])
        self._say(
            self.sealed["order"],
            Reading(float(gap), float(err), "ln steps", {"steps": [10 ** first[0], 10 ** then[0]]}),
        )
        self._say(self.sealed["prefix"], valued(match.steps, match.values, match.errs, then))
        trace = run.series("llc")
        for key, t in (("llc, bigrams", first[0]), ("llc, induction", then[0])):
            self._say(self.sealed[key], rise(trace.steps, trace.values, trace.errs, t))
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


def _panels() -> list[dict[str, Any]]:
    def panel(title: str, series: list[str], unit: str, **more: Any) -> dict[str, Any]:
        return {"title": title, "series": series, "unit": unit, **more}

    return [
        panel("loss per token", ["loss", "token_loss"], "nats"),
        panel("distance to the bigram table", ["kl_bigram"], "nats", note="On text that is not repeated."),
        panel("in-context score", ["in_context_score"], "nats", lines=[{"value": 0.0, "label": "no use of context"}],
              note="Late less early loss, on windows that all say their text twice."),
        panel("local learning coefficient", ["llc"], "λ̂", note="At nβ = n / ln n of the probe, with one standard error."),
        panel("previous-token score, by layer.head", ["previous_token_score"], "attention"),
        panel("prefix-matching score, by layer.head", ["prefix_matching_score"], "attention"),
        panel("best heads", ["previous_token_best", "prefix_matching_best"], "attention",
              labels={"previous_token_best": "previous token, layer 1", "prefix_matching_best": "prefix matching, layer 2"}),
        panel("path of the outputs", ["essential_dynamics"], "score"),
    ]  # fmt: skip
