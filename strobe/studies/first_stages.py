"""The demo: a small transformer learns real text; theory speaks first; the run is measured, replayed and forked."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from math import log
from pathlib import Path
from typing import Any

import numpy as np

from strobe.core.cards import study
from strobe.core.errors import BadOption, StrobeError
from strobe.core.prediction import Prediction, Verdict, judge
from strobe.core.reading import Reading, pool
from strobe.core.report import Report
from strobe.core.snapshot import Snapshot
from strobe.core.system import System
from strobe.laws.edge_of_stability import edge_of_stability
from strobe.laws.ngram_floor import ngram_floor
from strobe.numerics.crossing import crossing
from strobe.observables.gradient_noise import gradient_noise
from strobe.observables.head_scores import induction_score, previous_token_score
from strobe.observables.in_context_score import in_context_score
from strobe.observables.ngram_kl import ngram_kl
from strobe.observables.sharpness import sharpness
from strobe.observables.stages import stages
from strobe.observables.token_loss import token_loss
from strobe.observables.trajectory_pca import trajectory_pca
from strobe.observables.vertices import vertices
from strobe.runs.loop import train
from strobe.runs.notes import Notes
from strobe.runs.recorder import Recorder
from strobe.runs.replay import replay
from strobe.runs.run import Run, open_run
from strobe.runs.schedule import log_spaced
from strobe.runs.watch import follow
from strobe.studies.first_coefficients import Coefficients, panels
from strobe.systems.attention_language import attention_language

QUESTION = "In what order does a small transformer learn real text, and did theory say so?"
Progress = Callable[[str, int, int], None]
SCALES: dict[str, dict[str, Any]] = {
    "tiny": {"steps": 150, "watch": 5, "costly": 2, "llc": (2, 1),
             "world": {"vocab": 300, "context": 32, "d_model": 16, "heads": 2, "batch": 4, "probe_size": 16}},
    "small": {"steps": 2000, "watch": 12, "costly": 4, "llc": (10, 6), "world": {}},
    "full": {"steps": 20000, "watch": 16, "costly": 6, "llc": (24, 12),
             "world": {"vocab": 1024, "d_model": 128, "heads": 8, "context": 256, "lr": 3e-3}},
}  # fmt: skip


@study(
    question="In what order does a small transformer learn real text, and did theory say so?", ref="arXiv:2402.02364"
)
def first_stages(
    out: Path, *, scale: str = "small", seed: int = 0, corpus: str | None = None, progress: Progress | None = None
) -> Report:
    """Record, predict, measure, find stages, replay and fork a two-layer attention-only transformer on real text.

    Args: `corpus` a text folder of the user's; by default the Python standard library's own source. `scale` "tiny"
    (seconds), "small" (about two minutes on two cores), "full" (hours).
    The run `out/trunk` holds everything; its branch has the strongest induction head ablated from a step before
    induction. `facts["not_computed"]` lists what failed to compute; it is absent when all of it was.
    Raises `BadOption` for an unknown scale, or a corpus without enough text.
    """
    if scale not in SCALES:
        raise BadOption(f"scale is 'tiny', 'small' or 'full', got {scale!r}")
    plan, tell = SCALES[scale], progress or (lambda *_: None)
    tell("reading the text", 0, 1)
    world = attention_language(corpus=corpus, **plan["world"])
    tell("reading the text", 1, 1)
    seen = _Demo(world, plan["steps"], tell)
    path = train(world, out / "trunk", steps=plan["steps"], seed=seed, examples=True, setup=lambda rec: seen.setup(rec, plan),
                 after=seen.after, snapshots=log_spaced(plan["watch"]), most_snapshots=96)  # fmt: skip
    run = open_run(path)
    seen.failures += [e["text"] for e in run.events("error")]
    branch = None
    with Coefficients(run, world.facts["head_parts"], model_steps=plan["llc"][0], head_steps=plan["llc"][1]) as llcs:
        with Notes(path) as notes, seen.claim("trajectory"):
            notes.reading("trajectory_pca", trajectory_pca(run, components=3))
        with Notes(path) as notes, seen.claim("stages"):
            notes.reading("stages", stages(_traces(run)))
        with Notes(path) as notes, seen.claim("vertices"):
            notes.reading("vertices", vertices(run, data=world.probe(seed)[:16]))
        with Notes(path) as notes, seen.claim("verdicts"):
            verdicts = seen.judge(run, notes)
        with seen.claim("replay and fork"):
            branch = seen.travel(run)
        with seen.claim("learning coefficients"):
            llcs.note(tell)
    facts = {
        k: world.facts[k] for k in ("unigram_entropy", "bigram_entropy", "unigram_probe", "bigram_probe", "windows")
    }
    facts |= {"vocab": world.knobs["vocab"], "files": world.facts["manifest"].get("files", "")}
    return Report(
        QUESTION, verdicts if "verdicts" not in seen.failed else [], [path, *([branch.path] if branch else [])],
        citations=["Olsson et al. 2022, arXiv:2209.11895: induction heads, in-context score",
                   "Hoogland et al. 2024, arXiv:2402.02364: developmental stages",
                   "Cohen et al. 2021, arXiv:2103.00065: edge of stability", "McCandlish et al. 2018, arXiv:1812.06162: noise scale"],
        facts=facts | ({"not_computed": seen.failures} if seen.failures else {}),
    )  # fmt: skip


def few(snap: Snapshot, *, observable: Any, windows: int, **options: Any) -> Reading:
    """A costly observable on the first few windows of the probe."""
    reading = observable(replace(snap, data=snap.data[:windows]), **options)
    return replace(reading, how={**reading.how, "windows": windows})


def strongest(snap: Snapshot, *, observable: Any, **options: Any) -> Reading:
    """The largest of the heads' scores, with that head's error, and which it is."""
    reading = observable(snap, **options)
    at = int(np.argmax(reading.value))
    layer, head = np.unravel_index(at, reading.value.shape)
    how = {**reading.how, "head": [int(layer), int(head)]}
    return Reading(float(np.ravel(reading.value)[at]), float(np.ravel(reading.err)[at]), reading.unit, how)


@dataclass
class _Demo:
    world: System
    steps: int
    tell: Progress
    sealed: dict[str, Prediction] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)

    def setup(self, rec: Recorder, plan: dict[str, Any]) -> None:
        """Everything said before the first step, then the watches."""
        facts, every = self.world.facts, log_spaced(plan["watch"])
        for name, p in _predictions(self.world).items():
            self.sealed[name] = rec.seal(p)
        rec.watch(token_loss, every=every)
        rec.watch(ngram_kl, name="kl_unigram", every=every, log_probs=facts["unigram"])
        rec.watch(ngram_kl, name="kl_bigram", every=every, log_probs=facts["bigram"])
        rec.watch(in_context_score, every=every)
        rec.watch(previous_token_score, every=every)
        rec.watch(induction_score, every=every)
        rec.watch(strongest, name="previous_token_best", every=every, observable=previous_token_score)
        rec.watch(strongest, name="induction_best", every=every, observable=induction_score)
        costly = log_spaced(plan["costly"])
        rec.watch(few, name="sharpness", every=costly, observable=sharpness, windows=8, tol=0.02)
        rec.watch(few, name="noise_scale", every=costly, observable=gradient_noise, windows=32, chunks=16)
        rec.event("page", question=QUESTION, panels=_panels(self.world), caption=(
            "Measured on held-out text that the model never trains on. Predictions were sealed before the step at which they stand."
        ))  # fmt: skip

    def after(self, rec: Recorder, loss: Any) -> None:
        """Progress; and at a tenth of the run, one prediction with fitted parameters."""
        if rec.n % 10 == 0 or rec.n == self.steps:
            self.tell("training and measuring", rec.n, self.steps)
        if rec.n == self.steps // 10:
            self.sealed["power law"] = rec.seal(_power_law(open_run(rec.path), self.steps))

    @contextmanager
    def claim(self, what: str) -> Any:
        """A part of the demo that must be computed; a failure is kept, shown, and makes the demo exit with 1."""
        try:
            yield
        except StrobeError as e:
            self.failed.add(what)
            self.failures.append(f"{what}: {e}")

    def judge(self, run: Run, notes: Notes) -> list[Verdict]:
        """Readings for every sealed prediction, and the verdicts."""
        loss, kl1, kl2 = (run.series(n) for n in ("token_loss", "kl_unigram", "kl_bigram"))
        first, last = Reading(loss.values[0], loss.errs[0], "nats"), Reading(loss.values[-1], loss.errs[-1], "nats")
        near1 = int(np.argmin(kl1.values))
        s, out = self.sealed, []

        def say(name: str, measured: Reading | None, *, applies: bool = True, why: str = "") -> None:
            out.append(
                notes.verdict(
                    judge(s[name], measured or Reading(None), applies=applies and measured is not None, why=why)
                )
            )

        say("start", first)
        say("unigram", Reading(loss.values[near1], loss.errs[near1], "nats"), applies=bool(kl1.values[near1] < 0.25),
            why=f"least KL to the unigram table: {kl1.values[near1]:.2f} nats at step {kl1.steps[near1]}")  # fmt: skip
        say("bigram", last, why="the probe's own tokens on both sides")
        onset, kl_at = _onset(run, "in_context_score", fall=True), _least(kl2.steps, kl2.values)
        say(
            "bigram first",
            _gap(onset, kl_at),
            why=_when("in-context score half down", onset, "least KL to bigrams", kl_at),
        )
        prev, ind = _onset(run, "previous_token_best"), _onset(run, "induction_best")
        say("heads in order", _gap(ind, prev), why=_when("induction half up", ind, "previous-token half up", prev))
        if "power law" in s:
            say("power law", last, why="fitted on the first tenth of the run")
        late = [Reading(**{k: e[k] for k in ("value", "err", "unit")}) for e in run.readings("sharpness")[-3:]]
        say(
            "edge",
            pool(late),
            applies=False,
            why="the optimizer is AdamW on small batches, known before training; the law speaks of full batches",
        )
        return out

    def travel(self, run: Run) -> Run:
        """Reopen a step before induction, prove the replay, fork with the later induction head ablated."""
        onset = _onset(run, "induction_best")
        before = max([s for s in run.stored() if s <= (0.5 * 10 ** onset[0] if onset else run.last // 4)] or [0])
        self.tell("replaying", 0, 1)
        found = replay(run, before, verify=True)
        self.tell("replaying", 1, 1)
        layer, head = run.readings("induction_best")[-1]["how"]["head"]
        site = self.world.facts["head_sites"][layer][head]
        with Notes(run.path, step=before) as notes:
            notes.event("replay", ok=found.ok, text=str(found), start=found.start, to=found.to, checked=found.checked)
        if not found.ok:
            self.failures.append(f"replay: {found}")
        branch = run.fork(before, [f"ablate={site}"], out=run.path.with_name(f"without-L{layer}H{head}"),
                          progress=lambda n: self.tell("the branch, training", n - before, self.steps - before))  # fmt: skip
        watched: list[tuple[str, Any, dict[str, Any]]] = [
            ("token_loss", token_loss, {}), ("in_context_score", in_context_score, {}),
            ("induction_best", strongest, {"observable": induction_score}),
        ]  # fmt: skip
        with Notes(branch.path) as notes:
            for name, fn, options in watched:
                shown = partial(self.tell, f"measuring the branch: {name}")
                for step, reading in follow(branch, fn, progress=shown, **options).items():
                    notes.reading(name, reading, step=step)
        return branch


def _predictions(world: System) -> dict[str, Prediction]:
    facts, vocab = world.facts, world.knobs["vocab"]
    said = replace(ngram_floor(order=1, entropy=facts["unigram_probe"], err=0.0, claim="plateau"),
                   of="loss where the model is most like the unigram table", series="token_loss")  # fmt: skip
    passed = replace(ngram_floor(order=2, entropy=facts["bigram_probe"], err=0.0, claim="passed"),
                     of="last loss, against the bigram entropy", series="token_loss")  # fmt: skip
    return {
        "start": Prediction("loss at step 0 is ln(vocabulary)", log(vocab), 0.05 * log(vocab), when="small initial weights",
                            series="token_loss", steps=(0, 0)),
        "unigram": said,
        "bigram": passed,
        "bigram first": Prediction(
            "decades from least KL(bigram) to the in-context score's fall", 0.0, 0.0, side="above", ref="arXiv:2402.02364",
            when="the in-context score falls at all"),
        "heads in order": Prediction(
            "decades from previous-token head to induction head", 0.0, 0.0, side="above", ref="arXiv:2209.11895",
            when="an induction head forms"),
        "edge": replace(edge_of_stability(lr=world.lr), of="late sharpness on 8 windows, against 2/lr", series="sharpness"),
    }  # fmt: skip


def _power_law(run: Run, steps: int) -> Prediction:
    """L = a · step^−b fitted on what has been seen, continued to the end: the extrapolation people make by eye."""
    loss = run.series("token_loss")
    keep = loss.steps >= max(loss.steps[-1] // 10, 1)
    slope, base = np.polyfit(np.log(loss.steps[keep]), np.log(loss.values[keep]), 1)
    value = float(np.exp(base + slope * np.log(steps)))
    return Prediction("last loss, by a power law through the first tenth", value, 0.03 * value, fitted=2,
                      when="learning goes on at one rate: no new stage", ref="arXiv:2001.08361",
                      series="token_loss", steps=(steps, steps))  # fmt: skip


def _onset(run: Run, name: str, *, fall: bool = False) -> tuple[float, float] | None:
    """log10 of the step at which a trace is half-way from its first level to its last, for good, with its error.

    Levels are medians of the first third and the last fifth of the points; the trace is smoothed by a median of five.
    """
    s = run.series(name)
    keep = s.steps >= 1
    x, y = np.log10(s.steps[keep]), s.values[keep]
    noise = float(np.median(np.abs(np.diff(y, 2)))) / 1.65  # one probe along the run: what differs from step to step
    smooth = np.array([np.median(y[max(i - 2, 0) : i + 3]) for i in range(len(y))])
    first, last = float(np.median(y[: max(len(y) // 3, 1)])), float(np.median(y[-max(len(y) // 5, 1) :]))
    change = (first - last) if fall else (last - first)
    return crossing(x, smooth, np.full(len(y), noise), (first + last) / 2) if change > max(5 * noise, 0.05) else None


def _least(steps: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    i = int(np.argmin(values))
    x = np.log10(np.maximum(steps, 1))
    return float(x[i]), float((x[min(i + 1, len(x) - 1)] - x[max(i - 1, 0)]) / np.sqrt(12))


def _gap(a: tuple[float, float] | None, b: tuple[float, float] | None) -> Reading | None:
    return None if a is None or b is None else Reading(a[0] - b[0], float(np.hypot(a[1], b[1])), "decades")


def _when(a: str, x: tuple[float, float] | None, b: str, y: tuple[float, float] | None) -> str:
    def at(name: str, t: tuple[float, float] | None) -> str:
        return f"{name} at step {10 ** t[0]:.0f}" if t else f"{name}: not seen in this run"

    return f"{at(b, y)}; {at(a, x)}"


def _traces(run: Run) -> dict[str, Any]:
    names = ("token_loss", "kl_unigram", "kl_bigram", "in_context_score", "previous_token_best", "induction_best")
    return {n: (s.steps, s.values, s.errs) for n in names for s in [run.series(n)]}


def _panels(world: System) -> list[dict[str, Any]]:
    facts = world.facts
    edge = 2 / world.lr
    return [
        {
            "title": "loss per token",
            "series": ["loss", "token_loss"],
            "labels": {"loss": "training batch", "token_loss": "held-out"},
            "unit": "nats",
            "lines": [
                {"value": facts["unigram_probe"], "label": "unigram entropy"},
                {"value": facts["bigram_probe"], "label": "bigram entropy"},
            ],
        },
        {
            "title": "distance to n-gram models",
            "series": ["kl_unigram", "kl_bigram"],
            "unit": "nats",
            "labels": {"kl_unigram": "KL(unigram ‖ model)", "kl_bigram": "KL(bigram ‖ model)"},
        },
        {
            "title": "in-context score",
            "series": ["in_context_score"],
            "unit": "nats",
            "labels": {"in_context_score": "late − early loss"},
            "lines": [{"value": 0.0, "label": "no use of context"}],
        },
        {
            "title": "previous-token score, by layer.head",
            "series": ["previous_token_score"],
            "unit": "attention",
            "labels": {"previous_token_score": "head"},
        },
        {
            "title": "induction score, by layer.head",
            "series": ["induction_score"],
            "unit": "attention",
            "labels": {"induction_score": "head"},
        },
        {
            "title": "strongest induction head",
            "series": ["induction_best"],
            "unit": "attention",
            "labels": {"induction_best": "best head"},
        },
        {
            "title": "top Hessian eigenvalue",
            "series": ["sharpness"],
            "unit": "λ₁ (8 windows)",
            "log": True,
            "labels": {"sharpness": "λ₁"},
            "lines": [{"value": edge, "label": f"2/lr = {edge:.0f}"}],
        },
        {
            "title": "gradient noise scale",
            "series": ["noise_scale"],
            "unit": "windows",
            "log": True,
            "labels": {"noise_scale": "B = tr Σ / |G|²"},
            "lines": [{"value": world.knobs["batch"], "label": f"batch size {world.knobs['batch']}"}],
        },
        {
            "title": "trajectory of the outputs",
            "series": ["trajectory_pca"],
            "unit": "score",
            "labels": {"trajectory_pca": "PC"},
        },
        *panels(),
    ]
