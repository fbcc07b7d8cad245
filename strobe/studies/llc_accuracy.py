"""Does the estimator recover learning coefficients that are known, and order them rightly?"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from strobe.core.cards import study
from strobe.core.errors import BadOption, Diverged
from strobe.core.prediction import Prediction, Verdict, judge
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.laws.rlct_linear import linear_fibre_rlct
from strobe.observables.llc import llc
from strobe.observables.rlct import rlct
from strobe.runs.loop import train
from strobe.runs.notes import Notes
from strobe.runs.recorder import Recorder
from strobe.runs.run import open_run
from strobe.runs.watch import follow
from strobe.studies.known_minima import Minimum, deep_linear_at, generic_linear_at, polynomials, random_linear, tanh_at
from strobe.systems.deep_linear import deep_linear

QUESTION = "Does the estimator recover learning coefficients that are known, and order them rightly?"
NBETAS = [10**2.5, 1e3, 10**3.5, 1e4, 10**4.5]
COLD = 1e4  # N at which the random networks are measured once, as in the paper
SHAPES = [
    ((1, 1, 1, 1), 0), ((2, 2, 2), 0), ((2, 2, 2), 1), ((3, 1, 3), 0), ((4, 2, 4), 0), ((5, 3, 5), 0), ((5, 3, 5), 1),
    ((5, 3, 5), 2), ((10, 10, 10), 0), ((3, 3, 3, 3), 0), ((3, 3, 3, 3), 1), ((5, 4, 3, 4), 2), ((5, 5, 5, 5, 5), 0),
    ((10, 8, 6, 8, 10), 0), ((10, 8, 6, 8, 10), 1), ((20, 20, 20, 20), 0), ((20, 20, 20, 20), 5),
]  # fmt: skip


@dataclass(frozen=True)
class _Size:
    budget: int
    polynomials: int
    shapes: int
    tanh: tuple[int, ...]
    random: int
    layers: tuple[int, int]
    width: tuple[int, int]
    steps: int
    apart: int  # stored steps from one of the trained network's readings to the next


SCALES = {
    "tiny": _Size(300, 2, 1, (), 1, (2, 2), (2, 4), 300, 99),
    "small": _Size(6000, 14, 17, (1, 2, 3, 4, 9), 14, (2, 4), (5, 25), 3000, 6),
    "full": _Size(20_000, 14, 17, (1, 2, 3, 4, 9), 100, (2, 20), (50, 300), 3000, 6),
}
MANY = 30  # minima from which a rank correlation says something
Progress = Callable[[str, int, int], None]


@study(
    question="Does the estimator recover learning coefficients that are known, and order them rightly?",
    ref="arXiv:2308.12108",
)
def llc_accuracy(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """Estimates at minima whose learning coefficient λ is proven, at one setting that nobody chose.

    Sealed before anything is measured: `rlct` (N = 10^2.5 to 10^4.5) is within 10% of λ in the median over singular
    polynomials, deep linear and tanh networks; its rank correlation with λ is at least 0.98, and higher than that of
    d/2, half the number of parameters; on random deep linear networks `llc` at N = 10⁴ is within 6% of λ in the median
    and within 15% for 80% of them; and a network that was trained, not placed, has the λ of its fibre. A table has the
    verdict on each. A minimum around which no step
    keeps the chains counts as an error without bound, and is left out of the correlations. Shares and medians are judged
    with a bootstrap over the minima.
    Cost: seconds at "tiny", three to five minutes at "small" on one core; "full" has random networks of 2 to 20 layers, 50 to 300 wide.
    Raises `BadOption`. Ref: Lau et al., arXiv:2308.12108, section 5; λ: Aoyagi, arXiv:2111.12143.
    """
    if scale not in SCALES:
        raise BadOption(f"scale is 'tiny', 'small' or 'full', got {scale!r}")
    return _Study(out, SCALES[scale], seed, progress or (lambda *_: None)).report()


@dataclass
class _Study:
    out: Path
    size: _Size
    seed: int
    progress: Progress
    sealed: dict[str, Prediction] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)

    def report(self) -> Report:
        """Seal, train one, measure all, judge."""
        s = self.size
        self.random = random_linear(s.random, layers=s.layers, width=s.width, seed=self.seed)
        self.minima = [
            *polynomials()[: s.polynomials],
            *(deep_linear_at(w, r) for w, r in SHAPES[: s.shapes]),
            *([generic_linear_at((6, 4, 5, 3))] if s.shapes > 1 else []),
            *(tanh_at(h) for h in s.tanh),
        ]
        world = deep_linear(dim=4, width=5, singular_values=(2.0, 1.5, 1.0, 0.5), init="random", start=0.3, lr=0.02)
        path = train(world, self.out / "trained", steps=s.steps, seed=self.seed, setup=self._seal,
                     after=lambda rec, _: self.progress("training", rec.n, s.steps) if rec.n % 50 == 0 else None)  # fmt: skip
        with Notes(path) as self.notes:
            series = self._series()
            cold = self._cold()
        run = open_run(path)
        along = follow(run, llc, every=[*[t for t in run.stored() if t >= 20][:: s.apart], run.last], nbeta=COLD, gamma=1.0, chains=16,
                       budget=max(s.budget // 2, 200), seed=self.seed, note="llc")  # fmt: skip
        with Notes(path) as self.notes:
            self._judge("trained", along[run.last])
        return Report(
            QUESTION,
            self.verdicts,
            [path],
            {"λ from five temperatures": series, f"random networks at N = {COLD:g}": cold},
            [
                "Lau et al. 2023, arXiv:2308.12108",
                "Aoyagi 2023, arXiv:2111.12143",
                "Watanabe 2009, Algebraic Geometry and Statistical Learning Theory",
            ],
            {"minima": len(self.minima), "random networks": len(self.random)},
        )

    def _seal(self, rec: Recorder) -> None:
        many = f"over {MANY} minima or more"

        def say(key: str, of: str, value: float, side: Any, when: str) -> None:
            self.sealed[key] = rec.seal(Prediction(of, value, 0.0, when=when, side=side, ref="arXiv:2308.12108"))

        say("median", "median relative error of rlct", 0.10, "below", many)
        say("order", "rank correlation of rlct with λ", 0.98, "above", many)
        say("rival", "rank correlation of rlct with λ, less that of d/2", 0.0, "above", many)
        say("cold median", "median relative error of llc at N = 1e4, random networks", 0.06, "below", "10 or more")
        say("cold share", "share of random networks within 15%, llc at N = 1e4", 0.8, "above", "10 or more")
        for m in self.minima:
            self.sealed[m.name] = rec.seal(replace(m.law, of=f"λ of {m.name}"))
        trained = linear_fibre_rlct(widths=(4, 5, 4))
        self.sealed["trained"] = rec.seal(
            replace(trained, of="λ̂ of the trained network at N = 1e4", series="llc", steps=(rec.n, self.size.steps))
        )
        rec.event("page", question=QUESTION, panels=[
            {"title": "local learning coefficient", "series": ["llc"], "unit": f"λ̂ at N = {COLD:g}", "labels": {"llc": "λ̂"}},
            {"title": "training loss", "series": ["loss"], "log": True, "labels": {"loss": "½ |M − W₂W₁|²"}},
        ])  # fmt: skip

    def _judge(self, key: str, reading: Reading, *, applies: bool = True, why: str = "") -> str:
        verdict = self.notes.verdict(judge(self.sealed[key], reading, applies=applies, why=why))
        self.verdicts.append(verdict)
        return verdict.word

    def _series(self) -> list[dict[str, Any]]:
        rows = []
        for i, m in enumerate(self.minima):
            try:
                got = rlct(m.snapshot(), nbetas=NBETAS, gamma=1.0, chains=32, budget=self.size.budget, seed=self.seed)
                word, coldest = self._judge(m.name, got), got.how["series"]["llc"][-1]
            except Diverged as e:  # counts as an error without bound
                got, coldest = Reading(np.nan, 0.0, "", {"flags": [str(e)]}), None
                word = self._judge(m.name, Reading(None), applies=False, why=str(e))
            rows.append(_row(m, got, word) | {"llc, coldest": coldest})
            self.progress("minima", i + 1, len(self.minima))
        true, seen, half = (np.array([r[k] for r in rows], float) for k in ("λ", "measured", "d/2"))
        told, few = len(rows) >= MANY, f"{len(rows)} minima are too few"
        rng = np.random.default_rng(self.seed)
        again = [rng.integers(len(rows), size=len(rows)) for _ in range(400)]

        def order(i: np.ndarray) -> tuple[float, float]:
            i = i[np.isfinite(seen[i])]
            return float(spearmanr(seen[i], true[i])[0]), float(spearmanr(half[i], true[i])[0])

        off = np.abs(seen / true - 1)
        off[np.isnan(off)] = np.inf
        self._judge(
            "median", _over(np.median(off), [np.median(off[i]) for i in again]), applies=told, why="" if told else few
        )
        if told:
            ours, rival = order(np.arange(len(rows)))
            both = np.array([order(i) for i in again])
            self._judge("order", _over(ours, both[:, 0]))
            self._judge("rival", _over(ours - rival, both[:, 0] - both[:, 1]), why=f"d/2: {rival:.3f}")
        else:
            for key in ("order", "rival"):
                self._judge(key, Reading(None), applies=False, why=few)
        return rows

    def _cold(self) -> list[dict[str, Any]]:
        rows = []
        for i, m in enumerate(self.random):
            got = llc(m.snapshot(), nbeta=COLD, gamma=1.0, chains=16, budget=self.size.budget, seed=self.seed)
            word = judge(replace(m.law, tol=0.15 * m.law.value), got).word
            rows.append(_row(m, got, word))
            self.progress("random networks", i + 1, len(self.random))
        off = np.array([abs(r["error"]) for r in rows])
        told, few = len(rows) >= 10, f"{len(rows)} networks are too few"
        rng = np.random.default_rng(self.seed)
        again = [off[rng.integers(len(rows), size=len(rows))] for _ in range(400)]
        self._judge(
            "cold median", _over(np.median(off), [np.median(x) for x in again]), applies=told, why="" if told else few
        )
        self._judge(
            "cold share",
            _over(np.mean(off < 0.15), [np.mean(x < 0.15) for x in again]),
            applies=told,
            why="" if told else few,
        )
        return rows


def _row(m: Minimum, got: Reading, word: str) -> dict[str, Any]:
    flags = got.how["flags"]
    return {
        "minimum": m.name, "λ": float(m.law.value), "measured": float(got.value), "err": float(got.err),
        "error": float(got.value) / float(m.law.value) - 1, "d/2": m.parameters / 2, "verdict": word,
        "flags": "; ".join(f"{k}: {len(v)}" for k, v in flags.items()) if isinstance(flags, dict) else "; ".join(flags),
    }  # fmt: skip


def _over(value: Any, again: Any) -> Reading:
    """A statistic over the minima, with its bootstrap error."""
    return Reading(float(value), float(np.std(again)), "", {"err": "bootstrap over the minima"})
