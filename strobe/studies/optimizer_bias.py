"""Do optimisers that reach the same loss on digits stop at places of different degeneracy?"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor

from strobe.core.cards import study
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction, Verdict, judge
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.core.snapshot import Snapshot
from strobe.core.stacked import StackedLoss
from strobe.core.system import System
from strobe.observables.llc import llc
from strobe.runs.loop import train
from strobe.runs.notes import Notes
from strobe.runs.recorder import Recorder
from strobe.runs.run import open_run
from strobe.runs.watch import follow
from strobe.systems.digits import digits

QUESTION = "Do optimisers that reach the same loss on digits stop at places of different degeneracy?"
TARGET = 0.02  # nats, of all the training data: every image is right by then
LOOK = 10  # steps from one look at it to the next
GAMMA = 30.0  # the same for all: the default goes with |w|, which optimisers differ in
INNER, PULL, MEAN, RATE = 20, 0.03, 0.75, 0.1  # Entropy-SGD's inner steps, γ, α, η', as published
COLD, WARM = 1e-4, 3e-3  # its thermal noise: as published, where it hardly moves anything, and so that it does
MEANS = {"steps": "step", "held-out": "held-out", "|w|²": "|w|²"}
HELD = 0.03  # |loss / target - 1| up to which losses count as the same


@dataclass(frozen=True)
class _Size:
    seeds: int
    steps: int  # at most
    recorded: int
    width: int
    budget: int
    chains: int
    kinds: tuple[str, ...] = ("SGD", "SGD, rate x 5", "momentum", "Adam", "Entropy-SGD", "Entropy-SGD, warm")


SCALES = {
    "tiny": _Size(2, 300, 60, 16, 200, 4, ("SGD", "Entropy-SGD")), "small": _Size(5, 20_000, 1500, 64, 1000, 16),
    "full": _Size(20, 50_000, 4000, 1024, 4000, 16),
}  # fmt: skip
Progress = Callable[[str, int, int], None]


@study(
    question="Do optimisers that reach the same loss on digits stop at places of different degeneracy?",
    ref="arXiv:2308.12108",
)
def optimizer_bias(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """Networks from the same starts, by several optimisers to one training loss, and the learning coefficient of each.

    Runs of all seeds go side by side. Each stops when the loss of all training data first is 0.02 nats; λ̂ is measured
    there at n / ln n and one γ for all. Sealed: Entropy-SGD ends with a smaller λ̂ than SGD (the order in the paper, on
    MNIST), also with noise that is warm enough to move anything; momentum and rate change nothing by more than 10%; the losses are
    equal to 3%. Differences are paired by seed (start and batches), and judged with Student's t at 95%.
    Cost: seconds at "tiny", three minutes at "small" on one core; "full" has 1,024 units. Needs scikit-learn. Raises `BadOption`.
    Ref: Lau et al., arXiv:2308.12108, section 6 (MNIST); Chaudhari et al., arXiv:1611.01838 (Entropy-SGD).
    """
    if scale not in SCALES:
        raise BadOption(f"scale is 'tiny', 'small' or 'full', got {scale!r}")
    return _Study(out, SCALES[scale], seed, progress or (lambda *_: None)).report()


class Descent:
    """`runs` copies of a network side by side, each from a start and on batches of its own, by one optimiser.

    The rules, with g the gradient on a batch of 64 and r the rate:
    SGD: w -= r g; momentum: v = 0.9 v + g, w -= r v; Adam: Kingma and Ba, without decay;
    Entropy-SGD: x', μ = w; 20 times: x' -= η' (g(x') - γ (w - x')) - √η' ε ξ, μ = (1 - α) μ + α x'; then w = μ.
    """

    def __init__(self, world: System, kind: str, runs: int, seed: int) -> None:
        self.world, self.kind, self.runs, self.seed = world, kind, runs, seed
        models = [world.build(seed + i) for i in range(runs)]
        self.f = StackedLoss(Snapshot(models[0], world.loss, None))
        self.w = torch.stack([StackedLoss(Snapshot(m, world.loss, None)).center for m in models])
        self.rate = {"SGD": 0.1, "SGD, rate x 5": 0.5, "momentum": 0.01, "Adam": 1e-3}.get(kind, RATE)
        self.v, self.square = torch.zeros_like(self.w), torch.zeros_like(self.w)
        self.g = torch.Generator().manual_seed(seed)
        self.gradients = 0

    def step(self, t: int) -> None:
        """One step of every run."""
        if self.kind.startswith("Entropy"):
            self._entropy(t)
            return
        g = self._gradient(self.w, t)
        if self.kind == "momentum":
            self.v.mul_(0.9).add_(g)
            self.w.sub_(self.v, alpha=self.rate)
        elif self.kind == "Adam":
            self.v.lerp_(g, 0.1)
            self.square.lerp_(g.square(), 1e-3)
            size = (self.square / (1 - 0.999 ** (t + 1))).sqrt_().add_(1e-8)
            self.w.addcdiv_(self.v, size, value=-self.rate / (1 - 0.9 ** (t + 1)))
        else:
            self.w.sub_(g, alpha=self.rate)

    def _entropy(self, t: int) -> None:
        noise = COLD if self.kind == "Entropy-SGD" else WARM
        x, mean = self.w.clone(), self.w.clone()
        for i in range(INNER):
            g = self._gradient(x, INNER * t + i).add_(x - self.w, alpha=PULL)
            x.sub_(g, alpha=RATE).add_(torch.randn(x.shape, generator=self.g), alpha=RATE**0.5 * noise)
            mean.lerp_(x, MEAN)
        self.w = mean

    def _gradient(self, w: Tensor, t: int) -> Tensor:
        batches = [self.world.batch(self.seed + i, t) for i in range(self.runs)]
        self.gradients += 1
        images, labels, ids = (torch.stack(x) for x in zip(*batches, strict=True))
        return self.f.own(w, (images, labels, ids))[1]


def matched(descent: Descent, target: float, most: int, look: int = LOOK) -> tuple[Tensor, Tensor, Tensor]:
    """Where each run first has the target as its loss on all training data: w (runs, P), the loss, and the step.

    Between the two looks on either side, on the line from one to the other, by bisection. A run that does not reach it
    in `most` steps is left where it is.
    """
    rows = descent.world.facts["rows"]
    loss = descent.f.losses(descent.w, rows)
    ends, at, when = descent.w.clone(), loss.clone(), torch.full((descent.runs,), most)
    open_, before = torch.ones(descent.runs, dtype=torch.bool), descent.w.clone()
    every = max(look // (INNER if descent.kind.startswith("Entropy") else 1), 1)
    for t in range(most):
        descent.step(t)
        if (t + 1) % every:
            continue
        loss = descent.f.losses(descent.w, rows)
        if bool((now := open_ & (loss <= target)).any()):
            low, high = torch.zeros(descent.runs, 1), torch.ones(descent.runs, 1)
            for _ in range(12):
                middle = (low + high) / 2
                above = descent.f.losses(torch.lerp(before, descent.w, middle), rows)[:, None] > target
                low, high = torch.where(above, middle, low), torch.where(above, high, middle)
            there = torch.lerp(before, descent.w, high)
            ends[now], at[now], when[now] = there[now], descent.f.losses(there, rows)[now], t + 1
            open_ &= ~now
        if not bool(open_.any()):
            break
        before = descent.w.clone()
    ends[open_], at[open_] = descent.w[open_], loss[open_]
    return ends, at, when


@dataclass
class _Study:
    out: Path
    size: _Size
    seed: int
    progress: Progress
    sealed: dict[str, Prediction] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)

    def report(self) -> Report:
        """Seal, record one, train the others side by side, measure, judge."""
        s, world = self.size, digits(flipped=0.0, width=self.size.width)
        path = train(world, self.out / "recorded", steps=s.recorded, seed=self.seed, setup=self._seal)
        run = open_run(path)
        stored = [t for t in run.stored() if t >= s.recorded / 30]
        follow(run, llc, every=[*stored[:: max(len(stored) // 8, 1)], run.last], gamma=GAMMA, chains=max(s.chains // 2, 4),
               budget=max(s.budget // 2, 200), note="llc")  # fmt: skip
        rows = []
        for i, kind in enumerate(s.kinds):
            rows += self._ends(world, kind)
            self.progress("optimisers", i + 1, len(s.kinds))
        with Notes(path) as self.notes:
            summary = self._judge_all(rows)
        tables = {
            "λ̂ at one loss by optimiser (sd over seeds, err of one), and ln of its ratio to SGD's": summary,
            "every run": rows,
        }
        cited = ["Lau et al. 2023, arXiv:2308.12108", "Chaudhari et al. 2016, arXiv:1611.01838"]
        return Report(QUESTION, self.verdicts, [path], tables, cited, {"loss": TARGET, "γ": GAMMA, "seeds": s.seeds})

    def _seal(self, rec: Recorder) -> None:
        def say(key: str, of: str, value: float, tol: float, side: Any, ref: str = "arXiv:2308.12108") -> None:
            when = f"training losses equal to {HELD:.0%}"
            self.sealed[key] = rec.seal(Prediction(of, value, tol, when=when, side=side, ref=ref))

        say("loss", "largest |training loss / 0.02 - 1| of all runs", HELD, 0.0, "below", "")
        for kind in [k for k in self.size.kinds if k.startswith("Entropy")]:
            say(kind, f"ln of λ̂ of {kind} over that of SGD", 0.0, 0.0, "below")
        for kind in [k for k in self.size.kinds if k in ("momentum", "SGD, rate x 5")]:
            say(kind, f"ln of λ̂ of {kind} over that of SGD", 0.0, 0.1, "both")
        rec.event("page", question=QUESTION, caption="Adam, recorded; the study's others run side by side.", panels=[
            {"title": "local learning coefficient", "series": ["llc"], "unit": "λ̂ at n / ln n, held-out images", "labels": {"llc": "λ̂"}},
            {"title": "training loss", "series": ["loss"], "unit": "nats", "log": True},
        ])  # fmt: skip

    def _ends(self, world: System, kind: str) -> list[dict[str, Any]]:
        s = self.size
        descent = Descent(world, kind, s.seeds, 1000 * self.seed)
        most = s.steps // (INNER if kind.startswith("Entropy") else 1)
        ends, at, when = matched(descent, TARGET, most)
        rows, model = [], world.build(0)
        held = world.probe(0)
        for i, w in enumerate(ends):
            with torch.no_grad():
                for name, value in descent.f.split(w).items():
                    model.get_parameter(name).copy_(value)
                right = float((model(held[0]).argmax(1) == held[1]).float().mean())
            got = llc(
                Snapshot(model, world.loss, world.facts["rows"]), gamma=GAMMA, chains=s.chains, budget=s.budget, seed=i
            )
            rows.append({
                "optimiser": kind, "seed": 1000 * self.seed + i, "loss": float(at[i]), "step": int(when[i]), "λ̂": got.value, "err": got.err,
                "held-out": right, "|w|²": float(w.square().sum()), "flags": "; ".join(got.how["flags"]),
            })  # fmt: skip
        return rows

    def _judge_all(self, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        by = {k: [r for r in rows if r["optimiser"] == k] for k in self.size.kinds}
        off = max(abs(r["loss"] / TARGET - 1) for r in rows)
        self._judge("loss", Reading(off, 0.0))
        same, n = off <= HELD, self.size.seeds
        table, base = [], np.array([r["λ̂"] for r in by["SGD"]])
        wide = float(stdtrit(n - 1, 0.975))
        for kind, mine in by.items():
            x, err = np.array([r["λ̂"] for r in mine]), np.array([r["err"] for r in mine])
            ratio = np.log(x / base)
            apart = Reading(float(ratio.mean()), float(ratio.std(ddof=1) / n**0.5), "", {"seeds": n, "k": wide})
            word = ""
            if kind in self.sealed:
                why = (
                    f"k = {wide:.2f}, Student's 95% quantile for {n} seeds"
                    if same
                    else f"the losses differ by {off:.0%}"
                )
                verdict = judge(self.sealed[kind], apart, k=wide, applies=same, why=why)
                self.verdicts.append(self.notes.verdict(verdict))
                word = verdict.word
            table.append({
                "optimiser": kind, "λ̂": float(x.mean()), "sd": float(x.std(ddof=1)), "err": float(err.mean()),
                "ln ratio": apart.value, "± ": apart.err,
                **{name: float(np.mean([r[key] for r in mine])) for name, key in MEANS.items()}, "verdict": word,
            })  # fmt: skip
        return table

    def _judge(self, key: str, reading: Reading) -> None:
        self.verdicts.append(self.notes.verdict(judge(self.sealed[key], reading)))
