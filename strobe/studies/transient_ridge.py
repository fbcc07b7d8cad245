"""Does a network first learn to regress, and then the tasks it was shown, because that costs complexity to buy loss?"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from strobe.core.cards import study
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction, Verdict, judge
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.laws.ridge_crossing import ridge_crossing
from strobe.observables.essential_dynamics import essential_dynamics
from strobe.observables.llc import llc
from strobe.runs.loop import train
from strobe.runs.notes import Notes
from strobe.runs.recorder import Recorder
from strobe.runs.run import Run, open_run
from strobe.runs.schedule import log_spaced
from strobe.runs.watch import follow
from strobe.studies.regressors import distance, predictors, says, watch_distances
from strobe.studies.side_by_side import Descent, side_by_side
from strobe.systems.incontext_regression import incontext_regression

QUESTION = (
    "Does a network shown few tasks first learn to regress, and then the tasks, at a higher learning coefficient?"
)
REF = "arXiv:2501.17745"
CITED = [
    "Carroll et al. 2025, arXiv:2501.17745", "Raventós et al. 2023, arXiv:2306.15063", "Lau et al. 2023, arXiv:2308.12108",
]  # fmt: skip
FEW, MANY = 6, 256
# of 200 sets of 6 tasks, of the five whose moments are nearest to N(0, I) the one whose tasks are furthest apart: there ridge is the
# best that does without the tasks. Networks shown sets that are far from that (0, 100, 101, 102) never come near ridge
TASKS = 60
NEAR = 100.0  # γ: at the default chains of so few draws are still spreading, and errors are a third of λ̂
LONG = 4000  # steps from which a run is said to have had time for both
APART = 10_000  # seeds of descents from one study to the next
FROM = 100  # first step of the joint picture: what is before is the way from silence, the same for all
Progress = Callable[[str, int, int], None]
Paths = Mapping[str, "Run | Descent"]


@dataclass(frozen=True)
class _Size:
    steps: int
    few: int  # runs with few tasks, besides the recorded one
    many: int
    budget: int  # gradients of each chain
    chains: int
    world: dict[str, Any]


SCALES = {
    "tiny": _Size(60, 1, 1, 200, 2, {"width": 8, "heads": 2, "layers": 1, "batch": 16, "probe_size": 64}),
    "small": _Size(10_000, 4, 1, 250, 8, {"lr": 5e-3}),
    "full": _Size(150_000, 4, 4, 1000, 8, {"dimension": 8, "length": 16, "width": 256, "heads": 4, "batch": 256, "probe_size": 4096}),
}  # fmt: skip


@study(
    question="Does a network shown few tasks first learn to regress, and then the tasks, at a higher learning coefficient?",
    ref="arXiv:2501.17745",
)
def transient_ridge(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """One recorded run of `incontext_regression` with 6 tasks, and beside it four more and one with 256 tasks.

    Sealed before the first step: the distance to ridge on new tasks falls and then rises by at least 15% in four of the
    five runs with 6 tasks, by at most 5% with 256; meanwhile the distance to dMMSE falls; the first axis of the joint
    picture (`essential_dynamics` over all runs from step 100 on, outputs on new tasks) points from ridge to dMMSE, and the
    runs with 6 tasks end further that way than that with 256, by half of it or more; λ̂ is larger at the end than where
    ridge was nearest.
    All runs have the same tasks (the 6 are the first of the 256), chosen so that their moments are those of N(0, I); starts and
    batches differ. In the tables: what every run did, λ̂ and loss at both moments, and the joint picture.
    Cost: seconds at "tiny"; about six minutes at "small" on one core. Raises `BadOption`.
    Ref: Carroll et al., arXiv:2501.17745; departures: D = 2, K = 8, a network 150 times smaller, 10,000 steps at rate 5e-3.
    """
    if scale not in SCALES:
        raise BadOption(f"scale is 'tiny', 'small' or 'full', got {scale!r}")
    return _Study(out, SCALES[scale], seed, progress or (lambda *_: None)).report()


@dataclass(frozen=True)
class Turn:
    """A curve that falls and may rise: where it was least, what it was there and at the end, and the rise with its error."""

    step: int
    least: float
    end: float
    rise: float
    err: float


def turn(steps: np.ndarray, each: np.ndarray, draws: int = 200) -> Turn:
    """min-then-rise of the mean of a curve over sequences, each (T, n), of medians of five points: last / least − 1.

    Err: bootstrap over sequences, with a new minimum each time; what another batch order would change it leaves out.

    >>> t = np.arange(1, 9); turn(t, np.repeat([[9.0], [5], [2], [2], [2], [3], [3], [3]], 4, 1)).rise
    0.5
    """
    smooth = medians(each.mean(1))
    i, rng = int(smooth.argmin()), np.random.default_rng(0)
    again = []
    for _ in range(draws):
        other = medians(each[:, rng.integers(each.shape[1], size=each.shape[1])].mean(1))
        again.append(other[-1] / other.min() - 1)
    least, end = float(smooth[i]), float(smooth[-1])
    return Turn(int(steps[i + 2]), least, end, end / least - 1, float(np.std(again)))


def medians(curve: np.ndarray) -> np.ndarray:
    """Of every five points in a row; the first is about point 2."""
    return np.median(np.lib.stride_tricks.sliding_window_view(curve, 5), axis=-1)


@dataclass
class _Study:
    out: Path
    size: _Size
    seed: int
    progress: Progress
    sealed: dict[str, Prediction] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def report(self) -> Report:
        """Seal, train, measure, judge."""
        size, steps = self.size, self.size.steps
        few, many = (incontext_regression(tasks=m, task_seed=TASKS, **size.world) for m in (FEW, MANY))
        self.world, self.known, self.unseen = few, predictors(few), few.facts["unseen"]
        after = log_spaced(20)
        at = [0]
        while (then := after(at[-1])) < steps:
            at.append(then)

        def setup(rec: Recorder) -> None:
            self._seal(rec)
            watch_distances(rec, few, [*at[1:], steps])
            rec.event("page", question=QUESTION, panels=_panels())

        path = train(few, self.out / "recorded", steps=steps, seed=self.seed, setup=setup, most_snapshots=128,
                     snapshots=[*at, steps], after=lambda rec, _: self.progress("recorded", rec.n, steps))  # fmt: skip
        run, count = open_run(path), size.few + size.many
        beside = side_by_side([few] * size.few + [many] * size.many, [APART * (self.seed + 1) + i for i in range(count)], steps=steps,
                              at=[*at, steps], progress=lambda i, n: self.progress("side by side", i, n))  # fmt: skip
        self.few: Paths = {"recorded": run} | {f"M = {FEW}, {i + 1}": d for i, d in enumerate(beside[: size.few])}
        self.many: Paths = {f"M = {MANY}, {i + 1}": d for i, d in enumerate(beside[size.few :])}
        self.at = [t for t in at if t] + [steps]
        self.said = {
            n: np.stack([says(s, self.unseen) for s in p.walk(self.at)]) for n, p in {**self.few, **self.many}.items()
        }
        with Notes(path) as self.notes:
            turns = self._turns()
            self._picture()
        coefficients = self._coefficients(run, turns)
        with Notes(path) as self.notes:
            self._complexity(coefficients, turns)
        facts = {"parameters": sum(p.numel() for p in few.build(0).parameters()), "tasks": few.facts["tasks"].tolist()}
        return Report(QUESTION, self.verdicts, [path], self.tables, CITED, facts)

    def _seal(self, rec: Recorder) -> None:
        def say(key: str, of: str, value: float, side: Any = "above", tol: float = 0.0) -> None:
            self.sealed[key] = rec.seal(Prediction(of, value, tol, when=f"{LONG} steps or more", side=side, ref=REF))

        few, many = f"M = {FEW}", f"M = {MANY}"
        say(
            "few",
            f"{few}: rise of the distance to ridge on new tasks after its least, the second least of the runs",
            0.15,
        )
        say("many", f"{many}: the same rise, the largest of the runs", 0.05, "below")
        say("nearer", f"{few}: ln of the distance to dMMSE at the end over that where ridge was nearest", 0.0, "below")
        say("axis", "|cosine| of the first axis of the joint picture with dMMSE − ridge", 0.5)
        say("sides", f"PC 1 at the end: ({few} − {many}) / (dMMSE − ridge)", 0.5)
        say("llc", f"{few}: λ̂ at the end − λ̂ where ridge was nearest, mean of the runs", 0.0)

    def _judge(self, key: str, reading: Reading) -> None:
        long = self.size.steps >= LONG
        why = "" if long else f"{self.size.steps} steps, and {LONG} are asked for"
        self.verdicts.append(self.notes.verdict(judge(self.sealed[key], reading, applies=long, why=why)))

    # ---------------------------------------------------------------- distances

    def _turns(self) -> dict[str, Turn]:
        aims = {name: self.known[name](self.unseen) for name in ("ridge", "dmmse")}
        each = {n: {a: ((s - aim) ** 2).mean(2) for a, aim in aims.items()} for n, s in self.said.items()}
        steps = np.array(self.at)
        turns = {n: turn(steps, d["ridge"]) for n, d in each.items()}
        second = sorted((turns[n] for n in self.few), key=lambda t: t.rise)[min(1, len(self.few) - 1)]
        largest = max((turns[n] for n in self.many), key=lambda t: t.rise)
        how = {n: t.rise for n, t in turns.items()}
        self._judge("few", Reading(second.rise, second.err, "end / least − 1", how))
        self._judge("many", Reading(largest.rise, largest.err, "end / least − 1", how))
        curves = {n: d["dmmse"].mean(1) for n, d in each.items()}
        near = {n: float(medians(c)[self.at.index(turns[n].step) - 2]) for n, c in curves.items()}
        last = {n: float(medians(c)[-1]) for n, c in curves.items()}
        fell = [float(np.log(last[n] / near[n])) for n in self.few]
        self._judge("nearer", _mean(fell, "ln of the ratio"))
        for i, step in enumerate(self.at):
            values = np.array([each[n]["ridge"][i].mean() for n in each])
            errs = np.array([each[n]["ridge"][i].std(ddof=1) / len(self.unseen[1]) ** 0.5 for n in each])
            self.notes.reading(
                "ridge_of_all", Reading(values, errs, "squared error", {"labels": list(each)}), step=step
            )
        self.tables["distance to ridge on new tasks"] = [
            {"run": n, "least at step": t.step, "least": t.least, "end": t.end, "rise": t.rise, "err": t.err,
             "to dMMSE there": near[n], "to dMMSE at the end": last[n]} for n, t in turns.items()
        ]  # fmt: skip
        return turns

    def _picture(self) -> None:
        """The joint picture, and where the two predictors lie in it."""
        late = [t for t in self.at if t >= min(FROM, self.at[-5])]
        path = essential_dynamics(
            {**self.few, **self.many}, steps=late, data=self.unseen, outputs=lambda model, pairs: model(pairs)
        )
        rows = np.concatenate([s[-len(late) :].reshape(len(late), -1) for s in self.said.values()])
        scores, middle = np.array(path.how["scores"]), rows.mean(0)
        axes = (rows - middle).T @ scores / np.square(scores).sum(0)
        axes = axes / np.square(axes).sum(0)  # a row's score is its product with these
        aims = {n: (self.known[n](self.unseen).ravel() - middle) @ axes for n in self.known}
        way = (self.known["dmmse"](self.unseen) - self.known["ridge"](self.unseen)).ravel()
        cosine = float(abs(way @ axes[:, 0]) / np.linalg.norm(way) / np.linalg.norm(axes[:, 0]))
        ends = {n: scores[(i + 1) * len(late) - 1] for i, n in enumerate(self.said)}
        apart = float(aims["dmmse"][0] - aims["ridge"][0])
        a, b = ([ends[n][0] / apart for n in names] for names in (self.few, self.many))
        size = float(path.err[:, 0].max() / np.abs(scores[:, 0]).max())
        self._judge("axis", Reading(cosine, size, "", {"explained": path.how["explained"]}))
        gap = _mean(a, "share of the way")
        spread = float(np.hypot(gap.err, np.std(b) / len(b) ** 0.5))
        self._judge("sides", Reading(float(gap.value - np.mean(b)), spread, "share of the way from ridge to dMMSE"))
        self.notes.reading("essential_dynamics", path)
        self.tables["joint picture"] = [
            {"what": n, **{f"PC {i + 1}": float(x) for i, x in enumerate(at)}} for n, at in [*aims.items(), *ends.items()]
        ]  # fmt: skip

    # ---------------------------------------------------------------- complexity

    def _coefficients(self, run: Run, turns: dict[str, Turn]) -> dict[str, tuple[Reading, Reading]]:
        """λ̂ of every run with few tasks where ridge was nearest and at the end; of the recorded one along the way too."""
        size = self.size
        options: dict[str, Any] = {
            "chains": size.chains,
            "budget": size.budget,
            "gamma": NEAR,
            "batch": 32,
            "seed": self.seed,
        }
        trace = {t for i, t in enumerate(reversed(self.at)) if i % 6 == 0 and t >= FROM}
        both = [turns["recorded"].step, self.at[-1]]
        found = follow(run, llc, every=sorted(trace.union(both)), note="llc",
                       progress=lambda i, n: self.progress("llc along the run", i, n), **options)  # fmt: skip
        got = {}
        for i, (name, path) in enumerate({**self.few, **self.many}.items()):
            ends = (turns[name].step, self.at[-1])
            if name == "recorded":
                got[name] = (found[ends[0]], found[ends[1]])
            elif ends[0] == ends[1] or name in self.many:
                only = llc(path.at(ends[1]), **options)
                got[name] = (only, only)
            else:
                first, then = (llc(path.at(t), **options) for t in ends)
                got[name] = (first, then)
            self.progress("learning coefficients", i + 1, len(self.said))
        return got

    def _complexity(self, found: dict[str, tuple[Reading, Reading]], turns: dict[str, Turn]) -> None:
        rises = [float(found[n][1].value - found[n][0].value) for n in self.few]
        own = float(np.sqrt(sum(r.err**2 for n in self.few for r in found[n])) / len(rises))
        mean = _mean(rises, "λ̂")
        self._judge("llc", Reading(mean.value, float(np.hypot(mean.err, own)), "λ̂", {"rises": rises}))
        noise, length = self.world.facts["noise"], self.world.knobs["length"]
        self.tables["where a posterior would cross"] = [
            self._crossing(m, mean.value, turns) for m in (FEW, MANY)[: 1 + (self.size.steps >= LONG)]
        ]
        table = self.tables["loss against complexity"] = []
        for name, path in {**self.few, **self.many}.items():
            near, end = (float(distance(s).value) for s in path.walk([turns[name].step, self.at[-1]]))
            first, last = found[name]
            table.append({"run": name, "step": turns[name].step, "loss there": near, "loss at the end": end,
                          "nats a sequence": length * (near - end) / (2 * noise), "λ̂ there": first.value, "± ": first.err,
                          "λ̂ at the end": last.value, " ±": last.err, "flags": len(first.how["flags"] + last.how["flags"])})  # fmt: skip

    def _crossing(self, tasks: int, rise: float, turns: dict[str, Turn]) -> dict[str, Any]:
        """The law with the rise of λ̂ that was measured with few tasks, beside the sequences seen where ridge was nearest."""
        known, noise = (
            incontext_regression(tasks=tasks, task_seed=TASKS, **self.size.world).facts["tasks"],
            self.world.facts["noise"],
        )
        names = self.few if tasks == FEW else self.many
        nearest = float(np.median([turns[n].step for n in names]))
        row = {
            "tasks": tasks,
            "rise of λ̂": rise,
            "sequences seen where ridge was nearest": nearest * self.world.knobs["batch"],
        }
        try:
            said = ridge_crossing(tasks=known.tolist(), length=self.world.knobs["length"], noise=noise, rise=rise)
        except BadOption as e:
            return row | {"n of the law": None, "why": str(e)}
        return row | {"n of the law": float(np.exp(said.value)), "why": ""}


def _mean(values: list[float], unit: str) -> Reading:
    """A mean over runs with its standard error, which with one run is not known: then as large as the value."""
    n = len(values)
    err = float(np.std(values, ddof=1) / n**0.5) if n > 1 else abs(float(values[0]))
    return Reading(float(np.mean(values)), err, unit, {"runs": n, "values": [float(v) for v in values]})


def _panels() -> list[dict[str, Any]]:
    names = {"ridge_new": "ridge", "dmmse_new": "dMMSE", "ridge_seen": "ridge", "dmmse_seen": "dMMSE"}
    return [
        {"title": "distance on new tasks", "series": ["ridge_new", "dmmse_new"], "unit": "squared error", "log": True, "labels": names,
         "note": "Least to ridge first; it rises where the network goes over to the tasks it knows."},
        {"title": "distance on its own tasks", "series": ["ridge_seen", "dmmse_seen"], "unit": "squared error", "log": True,
         "labels": names},
        {"title": "loss", "series": ["loss_seen", "loss_new"], "unit": "squared error",
         "labels": {"loss_seen": "its tasks", "loss_new": "new tasks"}},
        {"title": "local learning coefficient", "series": ["llc"], "unit": "λ̂"},
        {"title": "distance to ridge on new tasks, all runs", "series": ["ridge_of_all"], "unit": "squared error", "log": True},
        {"title": "joint picture", "series": ["essential_dynamics"], "unit": "score"},
    ]  # fmt: skip
