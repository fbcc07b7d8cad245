"""Does Bayes prediction err by λ/n, not by d/2n, where a model is singular?"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from strobe.core.cards import study
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction, Verdict, judge
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.core.snapshot import Snapshot
from strobe.laws.bayes_generalization import bayes_generalization, regular_generalization
from strobe.runs.loop import train
from strobe.runs.notes import Notes
from strobe.runs.recorder import Recorder
from strobe.studies.learning_curves import Model, learning_curve, models, spectrum
from strobe.systems.reduced_rank import reduced_rank

QUESTION = "Does Bayes prediction err by λ/n, not by d/2n, where a model is singular?"
SETS = 100  # from which a mean over data sets is one
MARGIN = 0.15  # of λ, by which one parameter has to be worse than the posterior


@dataclass(frozen=True)
class _Size:
    sizes: tuple[int, ...]
    sets: int  # data sets at each n
    draws: int
    chains: int = 2
    fresh: int = 400  # new examples for each data set
    steps: int = 600  # of the recorded descent


SCALES = {
    "tiny": _Size((200, 800), 12, 60, steps=60), "small": _Size((200, 400, 800, 1600, 3200), 512, 600),
    "full": _Size((200, 400, 800, 1600, 3200, 6400), 4096, 3000),
}  # fmt: skip
CITED = [
    "Watanabe 2009, Algebraic Geometry and Statistical Learning Theory", "Wei, Murfet and others 2022, arXiv:2010.11560",
    "Aoyagi and Watanabe 2005, Neural Networks 18, 924", "Aoyagi and Watanabe 2005, IEICE Trans. J88-D-II, 2112 (tanh)",
    "Schwarz 1978, Annals of Statistics 6, 461 (the rival)", "Neal, arXiv:1206.1901 (the sampler)",
]  # fmt: skip
Progress = Callable[[str, int, int], None]


@study(question="Does Bayes prediction err by λ/n, not by d/2n, where a model is singular?", ref="arXiv:2010.11560")
def singular_beats_regular(
    out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None
) -> Report:
    """Learning curves of Bayes prediction on three singular models and a regular one, over many data sets side by side.

    y = f(x, w) + ε, ε of unit variance, prior N(0, 1): reduced rank regression 3-2-3 on a truth of rank 1 and 2-2-2 on a
    truth of 0 (inputs normal), a tanh network 1-2-1 on a truth of 0 (eight inputs), and linear regression. The posterior of
    every data set is drawn by Hamiltonian chains, which no step size biases, all in one stack; the error of its prediction is
    E KL(truth ‖ E_w p(y|x, w)) on new examples, with what is linear in their noise taken exactly.
    Sealed before, for each: n E[G] = λ within 15% at every n; its mean over n likewise; the rival d/2, which must fail (of the
    regular model both hold); one parameter, the maximum a posteriori, is worse by 15% of λ or more (of the regular one: no more).
    Errors are over data sets. Recorded: the descent to one maximum a posteriori, its own error beside λ and d/2 on the strip.
    Cost: seconds at "tiny", three minutes at "small" on one core. Raises `BadOption`.
    Ref: Wei et al., arXiv:2010.11560 (learning curves of last layers); Watanabe 2009, theorem 6.3.
    """
    if scale not in SCALES:
        raise BadOption(f"scale is 'tiny', 'small' or 'full', got {scale!r}")
    return _Study(out, SCALES[scale], seed, progress or (lambda *_: None)).report()


def excess(snap: Snapshot, *, truth: Tensor, n: int) -> Reading:
    """n G of the product of a network's two matrices, ½ n |B A - W|²: exact for normal inputs, so err is 0."""
    A, B = snap.params().values()
    return Reading(float((B @ A - truth).square().sum()) / 2 * n, 0.0, "n G")


@dataclass
class _Study:
    out: Path
    size: _Size
    seed: int
    progress: Progress
    sealed: dict[Any, Prediction] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def report(self) -> Report:
        """Seal, train the one that is recorded, draw, judge."""
        world = reduced_rank(data_seed=self.seed)

        def setup(rec: Recorder) -> None:
            for model in models():
                self._seal(rec, model)
            rec.watch(_followed(world.facts["truth"], world.facts["samples"]), name="excess", every="log")
            rec.event("page", question=QUESTION, panels=_panels(models()[0]))

        path = train(world, self.out / "recorded", steps=self.size.steps, seed=self.seed, setup=setup)
        with Notes(path) as notes:
            for k, model in enumerate(models()):
                self._measure(notes, model)
                self.progress("learning curves", k + 1, len(models()))
        return Report(QUESTION, self.verdicts, [path], self.tables, CITED, {"prior": "N(0, 1) on every parameter"})

    def _seal(self, rec: Recorder, model: Model) -> None:
        sizes, name = list(self.size.sizes), model.name
        law = bayes_generalization(n=sizes, rlct=model.rlct, multiplicity=model.multiplicity)
        rival = regular_generalization(n=sizes, parameters=model.parameters)
        tag = "" if model.rlct * 2 == model.parameters else ", rival (must fail)"
        for key, said, what in (("λ", law, "λ"), ("d/2", rival, "d/2" + tag)):
            self.sealed[name, key] = rec.seal(replace(said, of=f"n E[G] of Bayes at each n, {name}: {what}"))
            value = float(said.value[0])
            one = replace(said, of=f"slope of E[G] in 1/n, {name}: {what}", value=value, tol=0.15 * value)
            self.sealed[name, key, "slope"] = rec.seal(one)
        side: Any = "above" if tag else "below"
        self.sealed[name, "MAP"] = rec.seal(Prediction(
            f"slope of the MAP less that of Bayes, {name}", MARGIN * model.rlct, 0.0, side=side,
            when="the truth in the model, mean over data sets", ref="arXiv:2010.11560",
        ))  # fmt: skip

    def _measure(self, notes: Notes, model: Model) -> None:
        s = self.size
        got = learning_curve(model, sizes=s.sizes, sets=s.sets, draws=s.draws, chains=s.chains, fresh=s.fresh,
                             seed=1000 * (self.seed + 1))  # fmt: skip
        many, why = s.sets >= SETS, f"{s.sets} data sets, and {SETS} are asked for"

        def say(key: tuple[str, ...], reading: Reading) -> None:
            self.verdicts.append(
                notes.verdict(judge(self.sealed[model.name, *key], reading, applies=many, why="" if many else why))
            )

        curve = Reading(got.bayes.mean(1), _err(got.bayes), "nats", {"sets": s.sets, "rhat": got.rhat})
        slope = _pooled(got.bayes)
        for key in ("λ", "d/2"):
            say((key,), curve)
            say((key, "slope"), slope)
        say(("MAP",), _pooled(got.best - got.bayes))
        eigen = spectrum(model)
        self.tables[model.name] = [
            {"n": n, "Bayes": got.bayes[k].mean(), "±": _err(got.bayes)[k], "λ": model.rlct, "λ - (m - 1)/log n":
             model.rlct - (model.multiplicity - 1) / np.log(n), "d/2": model.parameters / 2, "MAP": got.best[k].mean(),
             "± ": _err(got.best)[k], "mean function": got.mean[k].mean(), "one draw": got.draw[k].mean()}
            for k, n in enumerate(s.sizes)
        ]  # fmt: skip
        self.tables.setdefault("the models", []).append(
            {"model": model.name, "d": model.parameters, "λ": model.rlct, "m": model.multiplicity, "slope of Bayes": slope.value,
             "±": slope.err, "slope of MAP": _pooled(got.best).value, "± ": _pooled(got.best).err,
             "ν (one draw less Bayes)": _pooled(got.draw - got.bayes).value, "det of Hessian at truth": float(np.prod(eigen)),
             "its eigenvalues below 1e-6": int((eigen < 1e-6).sum()), "R-hat, 95% of sets": got.rhat, "accepted": got.accept}
        )  # fmt: skip


def _err(x: np.ndarray) -> np.ndarray:
    found: np.ndarray = x.std(1, ddof=1) / x.shape[1] ** 0.5
    return found


def _pooled(x: np.ndarray) -> Reading:
    """The mean over all n and data sets, which are independent."""
    err = float(np.sqrt((_err(x) ** 2).sum()) / len(x))
    return Reading(float(x.mean()), err, "nats", {"sizes": len(x), "sets": x.shape[1]})


def _followed(truth: Tensor, n: int) -> Callable[..., Reading]:
    return lambda snap: excess(snap, truth=truth, n=n)


def _panels(model: Model) -> list[dict[str, Any]]:
    lines = [(model.rlct, "λ, Bayes prediction"), (model.parameters / 2, "d/2, a regular model")]
    return [
        {"title": "error on new data of the network in training, times n", "series": ["excess"], "unit": "n G", "log": True,
         "lines": [{"value": v, "label": label} for v, label in lines]},
        {"title": "training loss", "series": ["loss"], "unit": "nats"},
    ]  # fmt: skip
