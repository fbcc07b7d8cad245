"""Does the mean loss over training find mislabelled examples, and is a branch without them better on held-out data?"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import stdtrit

from strobe.core.cards import study
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction, Verdict, judge
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.core.snapshot import Snapshot
from strobe.core.system import System
from strobe.numerics.auc import auc
from strobe.numerics.two_groups import two_groups
from strobe.runs.loop import train
from strobe.runs.notes import Notes
from strobe.runs.recorder import Recorder
from strobe.runs.run import Run, open_run
from strobe.systems.digits import digits

QUESTION = "Does the mean loss over training find mislabelled examples, and is a branch without them better?"
FLIPPED = 0.05
SCALES = {"tiny": (2, 400), "small": (5, 2000), "full": (20, 4000)}  # seeds, steps
Progress = Callable[[str, int, int], None]


@study(
    question="Does the mean loss over training find mislabelled examples, and is a branch without them better?",
    ref="arXiv:2001.10528",
)
def mislabelled(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """Digits with 5% wrong labels, several seeds of run and split: train, rank by mean loss, drop the marked, branch.

    Marked is what lies above the cut that parts the mean losses in two groups with the least spread inside
    (`two_groups`): it knows neither which labels are wrong nor how many. Each trunk is forked at step 0 twice: without
    the marked, and, the control, without as many training examples drawn at random. Sealed before each trunk trains: its
    AUC and its gain; before the first: the means over seeds, and the gain over the control. Judged with k = 2 within a
    seed and Student's 95% quantile over seeds. Cost: 4 s at "tiny", a minute at "small". Raises `BadOption`.
    Ref: Pleiss et al. 2020 (the same with the margin instead of the loss); Arpit et al. 2017 (wrong labels are fitted late).
    """
    if scale not in SCALES:
        raise BadOption(f"scale is 'tiny', 'small' or 'full', got {scale!r}")
    count, steps = SCALES[scale]
    seeds = range(seed, seed + count)
    trials = [_Trial(s, out / f"seed-{s}", steps, progress or (lambda *_: None)) for s in seeds]
    for trial in trials:
        trial.run(first=trial is trials[0])
    rows = [t.row for t in trials]
    verdicts = [v for t in trials for v in t.verdicts]
    over, pooled = _over_seeds(trials)
    sources = ["Pleiss et al. 2020, arXiv:2001.10528", "Arpit et al. 2017, arXiv:1706.05394",
               "DeLong et al. 1988 (error of the AUC)", "Otsu 1979 (the cut)"]  # fmt: skip
    tables = {"seed by seed": rows, "over seeds": over}
    return Report(QUESTION, [*verdicts, *pooled], [p for t in trials for p in t.paths], tables, sources)


def suspicion(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """(ids, mean recorded loss of each): the score of the Data page, over every step that drew the example."""
    _, ids, losses = run.examples()
    names, own, counts = np.unique(ids, return_inverse=True, return_counts=True)
    return names, np.bincount(own, losses.astype(float)) / counts


def held_out_accuracy(snap: Snapshot) -> Reading:
    """Share of the probe's images that are classified right; err is binomial, over the draw of the images."""
    right = _right(snap)
    return Reading(
        float(right.mean()), float(np.sqrt(right.var() / len(right))), "share right", {"examples": len(right)}
    )


def _right(snap: Snapshot) -> np.ndarray:
    images, labels, _ = snap.data
    with snap.quiet() as model:
        found: np.ndarray = (model(images).argmax(1) == labels).double().numpy()
    return found


@dataclass
class _Trial:
    """One seed: a trunk and its two branches."""

    seed: int
    path: Path
    steps: int
    progress: Progress
    sealed: dict[str, Prediction] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    row: dict[str, Any] = field(default_factory=dict)

    @property
    def paths(self) -> list[Path]:
        return [self.path, *(self.path.with_name(f"{self.path.name}-without-{k}") for k in ("marked", "random"))]

    def run(self, *, first: bool) -> None:
        """Seal, train, rank, fork twice, judge."""
        world = digits(flipped=FLIPPED, split_seed=self.seed)

        def setup(rec: Recorder) -> None:
            self._seal(rec, first)
            rec.watch(held_out_accuracy, every="log")
            rec.event("page", question=QUESTION, panels=PANELS)

        show = self.progress
        train(world, self.path, steps=self.steps, seed=self.seed, examples=True, setup=setup,
              after=lambda rec, _: show(self.path.name, rec.n, self.steps))  # fmt: skip
        trunk = open_run(self.path)
        ids, score = suspicion(trunk)
        wrong = np.isin(ids, world.facts["flipped"])
        marked = score > two_groups(score)
        drawn = np.random.default_rng(self.seed).permutation(len(ids))[: marked.sum()]
        runs = [trunk, *(self._branch(trunk, p, ids[k]) for p, k in zip(self.paths[1:], (marked, drawn), strict=True))]
        self._judge(world, runs, auc(score, wrong), marked, wrong)

    def _seal(self, rec: Recorder, first: bool) -> None:
        def say(key: str, of: str, value: float) -> None:
            self.sealed[key] = rec.seal(
                Prediction(of, value, 0.0, when="5% of the labels are wrong at random", side="above")
            )

        say("auc", f"AUC of the mean loss for the wrong labels, seed {self.seed}", 0.99)
        say("gain", f"held-out accuracy without the marked minus with them, seed {self.seed}", 0.0)
        if first:
            say("mean auc", "AUC of the mean loss for the wrong labels, mean over seeds", 0.99)
            say("mean gain", "held-out accuracy without the marked minus with them, mean over seeds", 0.0)
            say("over random", "the same minus that of a branch without as many random ones, mean over seeds", 0.0)

    def _branch(self, trunk: Run, path: Path, ids: np.ndarray) -> Run:
        edit = {"act": "examples", "weights": {str(i): 0.0 for i in ids.tolist()}}
        branch = trunk.fork(0, [edit], out=path, author="study mislabelled",
                            progress=lambda n: self.progress(path.name, n, self.steps))  # fmt: skip
        with Notes(path) as notes:
            for snap in branch.walk(branch.stored()):
                notes.reading("held_out_accuracy", held_out_accuracy(snap), step=snap.step)
        return branch

    def _judge(
        self, world: System, runs: list[Run], ranked: tuple[float, float], marked: np.ndarray, wrong: np.ndarray
    ) -> None:
        trunk, without, random = (_right(next(iter(r.walk([r.last])))) for r in runs)
        n = len(trunk)
        gain, control = without - trunk, random - trunk
        of_auc = Reading(*ranked, "", {"wrong": int(wrong.sum()), "examples": len(wrong), "err": "DeLong"})
        how = {"examples": n, "paired": True, "marked": int(marked.sum())}
        of_gain = Reading(float(gain.mean()), float(gain.std(ddof=1) / n**0.5), "share right", how)
        with Notes(self.path) as notes:
            for key, reading in (("auc", of_auc), ("gain", of_gain)):
                self.verdicts.append(notes.verdict(judge(self.sealed[key], reading)))
        self.row = {
            "seed": self.seed, "examples seen": len(wrong), "wrong": int(wrong.sum()), "AUC": ranked[0], "AUC err": ranked[1],
            "marked": int(marked.sum()), "of these wrong": float(wrong[marked].mean()), "wrong ones marked": float(marked[wrong].mean()),
            "trunk": float(trunk.mean()), "without marked": float(without.mean()), "without random": float(random.mean()),
            "gain": of_gain.value, "gain err": of_gain.err, "gain of random": float(control.mean()),
        }  # fmt: skip


PANELS = [
    {"title": "held-out accuracy", "series": ["held_out_accuracy"], "unit": "share right"},
    {"title": "training loss", "series": ["loss"], "unit": "nats", "log": True},
]


def _over_seeds(trials: list[_Trial]) -> tuple[list[dict[str, Any]], list[Verdict]]:
    """Means over the seeds with Student's 95% interval, and the verdicts on what was sealed about them."""
    column = {k: np.array([t.row[k] for t in trials], float) for k in ("AUC", "gain", "gain of random")}
    n = len(trials)
    wide = float(stdtrit(n - 1, 0.975))
    found = {
        "mean auc": column["AUC"],
        "mean gain": column["gain"],
        "over random": column["gain"] - column["gain of random"],
    }
    first, rows, verdicts = trials[0], [], []
    with Notes(first.path) as notes:
        for key, x in found.items():
            mean, err = float(x.mean()), float(x.std(ddof=1) / n**0.5)
            law = first.sealed[key]
            reading = Reading(mean, err, "", {"seeds": n, "k": wide, "values": x.tolist()})
            said = f"judged with k = {wide:.2f}, Student's 95% quantile for {n} seeds"
            verdicts.append(notes.verdict(judge(law, reading, k=wide, why=said)))
            rows.append({"of": law.of, "mean": mean, "standard error": err, "95% from": mean - wide * err, "to": mean + wide * err,
                         "seeds above": int((x > law.value).sum()), "seeds": n})  # fmt: skip
    return rows, verdicts
