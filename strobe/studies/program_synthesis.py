"""Are simple programs more degenerate minima of a smooth Turing machine?"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from strobe.core.cards import study
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction, Verdict, judge
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.core.snapshot import Snapshot
from strobe.core.system import System
from strobe.laws.newton_rlct import newton_rlct
from strobe.laws.rlct_regular import regular_rlct
from strobe.observables.llc import llc
from strobe.observables.rlct import rlct
from strobe.runs.loop import train
from strobe.runs.notes import Notes
from strobe.runs.recorder import Recorder
from strobe.runs.run import open_run
from strobe.runs.watch import follow
from strobe.systems.turing import FIELDS, MOVES, turing

QUESTION = "Are simple programs more degenerate minima of a smooth Turing machine?"
# nβ and γ: √nβ of them is a choice's probability, 1/γ that of one that costs nothing; parted, and what two make together seen
NBETAS, GAMMA = (1e6, 1e7, 1e8), 200.0
RADIUS, POINTS = 2e-4, 8  # of circles on which e is expanded, whose degree is of thousands
LEAST = 1e-3  # a coefficient that is one
POWER = 4  # of a monomial, the highest that is told from rounding
ENOUGH = 1000  # gradients of each chain from which a coefficient is told


@dataclass(frozen=True)
class _Size:
    cases: tuple[tuple[str, str, str, int], ...]  # problem, program, loss, length of strings
    chains: int
    budget: int
    steps: int  # of the recorded descent


def _cases(detect: int, parity: int) -> tuple[tuple[str, str, str, int], ...]:
    found = [("detectA", p, loss, detect) for p in ("halt", "read on") for loss in ("squared", "kl")]
    return (*found, *([("parityCheck", "mark pairs", "squared", parity)] if parity else []))


SCALES = {
    "tiny": _Size(_cases(2, 0)[:1], 4, 200, 120), "small": _Size(_cases(4, 3), 12, 1500, 600), "full": _Size(_cases(5, 4), 48, 8000, 3000),
}  # fmt: skip
CITED = [
    "Clift, Murfet, Wallbridge 2021, arXiv:2103.16080", "Clift and Murfet 2018, arXiv:1805.11813 (the update)",
    "Watanabe 2009, Algebraic Geometry and Statistical Learning Theory", "Lau et al. 2023, arXiv:2308.12108",
]  # fmt: skip
Progress = Callable[[str, int, int], None]
Key = tuple[str, ...]  # problem, program, loss


@study(question="Are simple programs more degenerate minima of a smooth Turing machine?", ref="arXiv:2103.16080")
def program_synthesis(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """Learning coefficients of programs for detectA and parityCheck, by algebra and by sampling, under two losses.

    A wrong end has probability e, a polynomial in the probabilities of wrong choices with coefficients >= 0: so at a program the
    learning coefficient is a linear programme (`newton_rlct`) over the sets of choices that together can err, found by trying
    them. Sealed before sampling, for each program: its loss is 0; λ̂ at the coldest of three temperatures is the programme's λ
    within 10%; the rival, half the free coordinates, must fail; the slope of E[L] in 1/nβ is λ̂ within 25%. Sealed for the two
    programs of detectA: the one that uses fewer entries of its table has the smaller λ̂ (the spec's claim); their difference;
    and that λ̂ under the logarithmic loss is twice that under squares, for at a corner a linear loss counts a choice 1, a square ½.
    The code is held as amplitudes, in which corners are inner points (`turing`). Recorded: a descent from a random code.
    Cost: seconds at "tiny", two to three minutes at "small" on one core. Raises `BadOption`.
    Ref: Clift, Murfet, Wallbridge, arXiv:2103.16080.
    """
    if scale not in SCALES:
        raise BadOption(f"scale is 'tiny', 'small' or 'full', got {scale!r}")
    return _Study(out, SCALES[scale], seed, progress or (lambda *_: None)).report()


def choices(world: System, program: str, *, order: int = 2) -> tuple[list[str], list[list[int]]]:
    """The wrong choices in the entries that a program uses, by name, and the exponents of e in their probabilities.

    A row is a monomial of e, of at most `order` different choices, that no other divides, where the right choice of
    each entry has weight 1. Which choices go together is found by inclusion and exclusion, with what powers (4 in all at
    most) by a Fourier transform on circles. A choice in no row costs nothing.
    """
    facts = world.facts
    symbols, states, table = facts["symbols"], facts["states"], facts["programs"][program]
    names, places = [], []
    for key in facts["used"][program]:
        for f, among, value in zip(FIELDS, (symbols, states, MOVES), table[key], strict=True):
            for j, other in enumerate(among):
                if other != value:
                    names.append(f"{key[0]} at {key[1]}: {f} {other}")
                    places.append((FIELDS.index(f), symbols.index(key[1]), states.index(key[0]), j))
    model, (strings, right) = world.build(0).double(), world.probe(0)
    with torch.no_grad():
        code = [p.to(torch.complex128) for p in model.code()]  # type: ignore[operator]

    def ends(*weights: Tensor) -> Tensor:
        made = [
            p / p.sum(-1, keepdim=True) for p in weights
        ]  # which moves coefficients of multiples of a monomial only
        setattr(model, "code", lambda: made)  # noqa: B010
        return model(strings)

    def error(some: tuple[int, ...], sizes: Any) -> np.ndarray:
        """Weight of wrong ends, summed over the strings, for each row of weights on these choices."""
        z = torch.as_tensor(sizes, dtype=torch.complex128)
        each = [p.repeat(len(z), *[1] * p.ndim) for p in code]
        for i, p in zip(some, z.T, strict=True):
            each[places[i][0]][(slice(None), *places[i][1:])] = p
        with torch.no_grad():
            said = torch.vmap(ends)(*each)
        said[:, torch.arange(len(right)), right] = 0.0
        found: np.ndarray = said.sum((1, 2)).numpy()
        return found

    @cache
    def near(some: tuple[int, ...]) -> float:
        return float(error(some, np.full((1, len(some)), RADIUS))[0].real)

    rows: list[list[int]] = []
    for k in range(1, order + 1):
        alone = {row.index(1) for row in rows if sum(row) == 1}
        for some in combinations([i for i in range(len(names)) if i not in alone], k):
            parts = [c for j in range(1, k + 1) for c in combinations(some, j)]
            if abs(sum((-1) ** (k - len(c)) * near(c) for c in parts)) < LEAST * RADIUS**POWER:
                continue  # nothing of e holds just these
            circle = RADIUS * np.exp(2j * np.pi * np.arange(POINTS) / POINTS)
            values = error(some, np.array(list(product(circle, repeat=k)))).reshape((POINTS,) * k)
            taylor = np.fft.fftn(values).real / POINTS**k
            for powers in sorted(product(range(1, POWER + 1), repeat=k), key=sum):
                if sum(powers) > POWER:
                    break
                row = [0] * len(names)
                for i, power in zip(some, powers, strict=True):
                    row[i] = power
                if taylor[powers] > LEAST * RADIUS ** sum(powers) and not any(_divides(old, row) for old in rows):
                    rows.append(row)
    return names, rows


def _divides(one: list[int], other: list[int]) -> bool:
    return all(a <= b for a, b in zip(one, other, strict=True))


def right(snap: Snapshot) -> Reading:
    """Mean probability of the right end over all strings; err is 0, for these are all that there are."""
    with snap.quiet() as model, torch.no_grad():
        said = model(snap.data[0])
    return Reading(float(said[torch.arange(len(said)), snap.data[1]].mean()), 0.0, "probability")


def certainty(snap: Snapshot) -> Reading:
    """Mean over the code's distributions of their largest probability; 1 is a program. No error: it is a number of the code."""
    with snap.quiet() as model, torch.no_grad():
        tops = torch.cat([p.amax(-1).flatten() for p in model.code()])  # type: ignore[operator]
    return Reading(float(tops.mean()), 0.0, "probability")


@dataclass
class _Study:
    out: Path
    size: _Size
    seed: int
    progress: Progress
    sealed: dict[Any, Prediction] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    found: dict[Key, Reading] = field(default_factory=dict)

    def report(self) -> Report:
        """Seal, train, sample, judge."""
        self.worlds: dict[Key, System] = {}
        for problem, program, loss, length in self.size.cases:
            make: Any = turing
            self.worlds[problem, program, loss] = make(problem=problem, program=program, loss=loss, length=length)
        self.algebra: dict[Key, tuple[int, int, Prediction]] = {
            key: self._algebra(w, key) for key, w in self.worlds.items()
        }
        steps, length = self.size.steps, self.size.cases[0][3]

        def setup(rec: Recorder) -> None:
            for key in self.worlds:
                self._seal(rec, key)
            self._seal_order(rec)
            for watched in (right, certainty):
                rec.watch(watched, every="log")
            rec.event("page", question=QUESTION, panels=PANELS)

        path = train(turing(length=length), self.out / "recorded", steps=steps, seed=self.seed, setup=setup,
                     after=lambda rec, _: self.progress("recorded", rec.n, steps))  # fmt: skip
        with Notes(path) as notes:
            for k, key in enumerate(self.worlds):
                self._measure(notes, key)
                self.progress("programs", k + 1, len(self.worlds))
            self._order(notes)
            last = self._follow(notes, path)
        return Report(QUESTION, self.verdicts, [path], {"programs": self.rows, "the recorded descent": last}, CITED,
                      {"nbetas": list(NBETAS), "gamma": GAMMA})  # fmt: skip

    def _algebra(self, world: System, key: Key) -> tuple[int, int, Prediction]:
        """Wrong choices, how many of them matter alone, and the law."""
        names, rows = choices(world, key[1])
        power = 2 if key[2] == "squared" else 1
        law = newton_rlct(exponents=[[power * a for a in row] for row in rows])
        return len(names), sum(sum(row) == 1 for row in rows), law

    def _seal(self, rec: Recorder, key: Key) -> None:
        name, law = ", ".join(key), self.algebra[key][2]
        d = self.worlds[key].facts["coordinates"]
        cold = f"nβ to {NBETAS[-1]:g}, γ = {GAMMA:g}, {ENOUGH} gradients of each chain or more"

        def say(what: str, said: Prediction) -> None:
            self.sealed[key, what] = rec.seal(said)

        say("loss", Prediction(f"loss at {name}", 0.0, 1e-12, when="the exact program", ref="arXiv:2103.16080"))
        say("λ", replace(law, of=f"llc at {name}: choices that can err", series="", when=cold))
        rival = regular_rlct(directions=d)
        say("d/2", replace(rival, of=f"llc at {name}: d/2, rival (must fail)", series="", when=cold))
        slope = Prediction(f"slope of E[L] in 1/nβ over llc, {name}", 1.0, 0.25, when=cold, ref="arXiv:2103.16080")
        say("slope", slope)

    def _seal_order(self, rec: Recorder) -> None:
        self.pairs: dict[tuple[str, Key, Key], Prediction] = {}
        for a, b in combinations(self.worlds, 2):
            one, two = self.algebra[a][2].value, self.algebra[b][2].value
            if a[0] == b[0] and a[1] == b[1]:
                self.pairs["ratio", a, b] = rec.seal(Prediction(
                    f"llc under kl over that under squared, {a[0]}, {a[1]}", 2.0, 0.2, when="a corner of the simplices",
                ))  # fmt: skip
            elif a[0] == b[0] and a[2] == b[2] == "squared":
                used = [len(self.worlds[k].facts["used"][k[1]]) for k in (a, b)]
                of = f"llc of {b[1]} ({used[1]} entries) less that of {a[1]} ({used[0]})"
                self.pairs["entries", a, b] = rec.seal(Prediction(
                    f"{of}: more entries, larger llc", 0.0, 0.0, side="above", when="two programs of one problem", ref="arXiv:2103.16080",
                ))  # fmt: skip
                tol = self.algebra[a][2].tol
                self.pairs["difference", a, b] = rec.seal(
                    Prediction(f"{of}: by algebra", two - one, tol, when="both exact")
                )

    def _say(self, notes: Notes, said: Prediction, reading: Reading, *, always: bool = False) -> str:
        applies = always or self.size.budget >= ENOUGH
        why = "" if applies else f"{self.size.budget} gradients, and {ENOUGH} are asked for"
        self.verdicts.append(notes.verdict(judge(said, reading, applies=applies, why=why)))
        return self.verdicts[-1].word

    def _measure(self, notes: Notes, key: Key) -> None:
        world = self.worlds[key]
        model: nn.Module = world.build(0).double()  # losses of 1e-8 are told apart
        snap = Snapshot(model, world.loss, world.probe(0))
        zero = float(snap.loss_at(snap.params()))
        self._say(notes, self.sealed[key, "loss"], Reading(zero), always=True)
        got = rlct(snap, nbetas=NBETAS, gamma=GAMMA, chains=self.size.chains, budget=self.size.budget, seed=self.seed)
        series = {k: np.array(v) for k, v in got.how["series"].items()}
        mine = Reading(float(series["llc"][-1]), float(series["err"][-1]), "", {"flags": got.how["flags"]})
        self.found[key] = mine
        slope = _slope(series)
        ratio = Reading(
            slope.value / mine.value,
            float(abs(slope.value / mine.value) * np.hypot(slope.err / slope.value, mine.err / mine.value)),
        )
        many, alone, law = self.algebra[key]
        words = [
            self._say(notes, self.sealed[key, what], r) for what, r in (("λ", mine), ("d/2", mine), ("slope", ratio))
        ]
        self.rows.append({
            "problem": key[0], "program": key[1], "loss": key[2], "entries used": len(world.facts["used"][key[1]]), "wrong choices": many,
            "of these err alone": alone, "λ": law.value, "d/2": world.facts["coordinates"] / 2,
            **{f"λ̂ at {n:g}": float(x) for n, x in zip(NBETAS, series["llc"], strict=True)}, "±": mine.err,
            "slope": slope.value, "± ": slope.err, "extrapolated": got.value, "flags": len(got.how["flags"]), "verdict": words[0],
        })  # fmt: skip

    def _order(self, notes: Notes) -> None:
        for (what, a, b), said in self.pairs.items():
            x, y = self.found[a], self.found[b]
            if what == "ratio":
                value = y.value / x.value
                reading = Reading(value, float(abs(value) * np.hypot(x.err / x.value, y.err / y.value)))
            else:
                reading = Reading(y.value - x.value, float(np.hypot(x.err, y.err)))
            self._say(notes, said, reading)

    def _follow(self, notes: Notes, path: Path) -> list[dict[str, Any]]:
        """λ̂ along the recorded descent, warm: for the strip. Nothing was sealed about it."""
        run = open_run(path)
        late = [step for step in run.stored() if step >= run.last / 5]  # before that the loss only falls
        some = late[:: max(len(late) // 6, 1)] if self.size.budget >= ENOUGH else late[-1:]
        found = follow(run, llc, every=some, nbeta=1000.0, gamma=20.0, chains=16, budget=min(self.size.budget, 600))
        for step, reading in found.items():
            notes.reading("llc", reading, step=step)
        each = [{"step": s, "llc": r.value, "±": r.err, "flags": len(r.how["flags"])} for s, r in found.items()]
        ends = {k: run.series(k).values[-1] for k in ("right", "certainty")}
        return [*each, {"step": run.last, **{f"{k} at the end": float(v) for k, v in ends.items()}}]


PANELS = [
    {"title": "probability of the right end", "series": ["right"], "unit": "mean over strings"},
    {"title": "how certain the code is", "series": ["certainty"], "unit": "mean of the largest probability"},
    {"title": "local learning coefficient at nβ = 1000, γ = 20", "series": ["llc"], "unit": "λ̂"},
    {"title": "training loss", "series": ["loss"], "unit": "|P - right|²", "log": True},
]


def _slope(series: dict[str, np.ndarray]) -> Reading:
    """The slope of E[L] = λ̂ / nβ in 1/nβ by weighted least squares with an intercept, and its error."""
    x, y, err = 1 / series["nbeta"], series["llc"] / series["nbeta"], series["err"] / series["nbeta"]
    w = 1 / err**2
    mean = (w * x).sum() / w.sum()
    spread = (w * (x - mean) ** 2).sum()
    return Reading(float((w * (x - mean) * y).sum() / spread), float(spread**-0.5))
