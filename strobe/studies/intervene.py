"""Data teach a task and a trait: which intervention, while the network trains or after, loses the trait and keeps the task?"""

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from strobe.core.capture import capture, still
from strobe.core.cards import study
from strobe.core.catalogue import load
from strobe.core.prediction import Prediction
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.core.system import System
from strobe.core.tap import patch
from strobe.edits.ablate import ablate
from strobe.edits.route import routing
from strobe.edits.steer import holding, preventative, steering
from strobe.features.concept import Concept
from strobe.features.concept_table import concept_of
from strobe.features.methods import METHODS, Shelf
from strobe.numerics.rfm import Span
from strobe.runs.loop import train
from strobe.runs.replay import replay
from strobe.runs.run import Run, open_run
from strobe.studies.docket import Docket, Progress, sized
from strobe.studies.steering_desk import spread_of_mean
from strobe.systems.two_languages import Language, two_languages

QUESTION = "Data teach a task and a trait: which intervention, while the network trains or after, loses the trait at the least cost?"
PREVENT, AFTER = (0.25, 0.5, 1.0), (0.25, 0.5, 0.75, 1.0, 1.5)  # doses, in class gaps over all blocks
CUT = 8  # a block's hidden units: one of so many is routed to
MEASURES = ("trait", "new topic", "old topics")


@dataclass(frozen=True)
class Size:
    steps: int
    tune: int
    documents: int  # measured on
    networks: int
    knobs: dict[str, Any]


SCALES = {
    "tiny": Size(12, 8, 40, 2, {"d_model": 16, "heads": 2, "layers": 2, "batch": 8}),
    "small": Size(700, 100, 256, 1, {}),
    "full": Size(700, 100, 256, 5, {}),
}


@study(
    question="Which intervention keeps the task and loses the trait that the data teach with it?",
    ref="arXiv:2507.21509",
)
def intervene(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """A recorded run learns two languages, then a new topic whose documents are all of mood +; forks of it at that step intervene.

    The run itself is plain fine-tuning. Forks: preventative steering towards mood + at 0.25, 0.5, 1 class gap (spread over the blocks; gone
    after training); the mood direction held at its mean in every block while it trains; what mood + documents teach the layers of each
    block routed into few of its hidden units (which are cut afterwards); mood words left out of the loss (the oracle).
    After: the plain network steered away from mood + at 5 doses. Trait: mean log-odds of + against − mood words after prompts without
    one (honest: 0); costs: nats a content word on the new topic, and on the old ones. Vectors are class means of the network at the fork.
    Sealed before the run: preventative steering at one gap removes trait and not the task; at the trait that each dose of it leaves, its
    losses are not above those of steering the plain network down to the same trait (linear between its doses).
    Err: over networks at "full" (five, each with language data, documents and vectors of its own seed); at "small" over documents, paired.
    Cost: about 4 CPU minutes a network. Raises `BadOption`.
    """
    size = sized(scale, SCALES)
    world = two_languages(steps=size.steps, tune_from=size.steps, tune_steps=size.tune, **size.knobs)
    early: dict[str, Prediction] = {}
    with Docket(
        world, out / "plain", QUESTION, steps=size.steps + size.tune, seed=seed, snapshots=[size.steps],
        setup=lambda rec: early.update({k: rec.seal(p) for k, p in _claims().items()}),
    ) as docket:  # fmt: skip
        docket.sealed.update(early)
        paths, runs, every = [docket.path], [docket.path], []
        for i in range(1, size.networks):
            told = train(
                world,
                out / f"seed-{seed + i}" / "plain",
                steps=size.steps + size.tune,
                seed=seed + i,
                snapshots=[size.steps],
            )
            paths.append(told)
        for i, path in enumerate(paths):
            found, branches = _network(world, open_run(path), path.parent, size, seed + i)
            every.append(found)
            runs += [b.path for b in branches.values()] + ([path] if i else [])
            if i == 0:
                sure = [replay(b, size.steps + size.tune, verify=True).ok for b in branches.values()]
                docket.judge("replays", Reading(float(all(sure)), 0.0, "", {"forks": len(sure)}))
            if progress:
                progress("networks", i + 1, len(paths))
        _judge(docket, every)
        rows = [_row(name, [found[name] for found in every]) for name in every[0]]
        for row in rows:
            row["on the front"] = row["method"] != "before" and not any(
                _dominates(r, row) for r in rows if r["method"] != "before"
            )
        report = docket.report({"trait and losses": rows}, [
            "Chen et al. 2025, arXiv:2507.21509", "Casademunt et al. 2025, arXiv:2507.16795", "Cloud et al. 2024, arXiv:2410.04332",
        ])  # fmt: skip
    return replace(report, runs=runs)


Marks = dict[str, dict[str, np.ndarray]]


def _network(world: System, run: Run, out: Path, size: Size, seed: int) -> tuple[Marks, dict[str, Run]]:
    """What each method leaves of the trait and costs, on one trained network; and its forks."""
    language, sites = world.facts["language"], world.facts["sites"]
    exam = Exam.of(language, size.documents, int(world.knobs["context"]), seed)
    base, last = run.at(size.steps).model, size.steps + size.tune
    concepts = moods(base, language, sites, 4 * size.documents, seed)
    found: Marks = {"before": exam.mark(base)}
    hidden = moods(base, language, [f"{s}.mlp.up" for s in sites], 4 * size.documents, seed)
    parts, units = len(concepts), len(hidden[0].mean) // CUT
    options: dict[str, Any] = {"knobs": world.knobs | {"masked": True}}
    wanted: list[tuple[str, list[Any], dict[str, Any]]] = [
        *((f"preventative {d:g}", [preventative(c, d / parts) for c in concepts], {}) for d in PREVENT),
        ("held while it trains", [holding(c, only="train") for c in concepts], {}),
        ("routed", [routing(c, list(range(units))) for c in hidden], {}),
        ("masked (oracle)", [], options),
    ]
    branches: dict[str, Run] = {}
    for name, edits, other in wanted:
        branches[name] = run.fork(size.steps, edits, out=out / name.replace(" ", "-"), options=other)
        found[name] = exam.mark(branches[name].at(last).model)
    model = branches["routed"].at(last).model
    with patch(model, {f"{c.site}/{CUT}[0]": ablate() for c in hidden}):
        found["routed, then cut"] = exam.mark(model)
    plain = run.at(last).model
    found["plain"] = exam.mark(plain)
    for dose in AFTER:
        edits = [steering(c, -dose / parts) for c in concepts]
        with patch(plain, {e["site"]: load(e["edit"])(**e["kwargs"]) for e in edits}):
            found[f"after −{dose:g}"] = exam.mark(plain)
    return found, branches


def _claims() -> dict[str, Prediction]:
    ref = "arXiv:2507.21509"

    def said(of: str, value: float, side: Any, tol: float = 0.0) -> Prediction:
        return Prediction(of, value, tol, side=side, ref=ref)

    return {
        "taught": said("trait of plain fine-tuning, nats", 1.0, "above"),
        "removes": said("share of the trait that preventative steering at one gap leaves", 0.5, "below"),
        "learns": said("new-topic loss, preventative at one gap − plain, nats a word", 0.0, "below", 0.02),
        **{f"{k} {d:g}": said(f"{what} loss, preventative {d:g} − steered after, at equal trait", 0.0, "below")
           for k, what in (("new", "new-topic"), ("old", "old-topics")) for d in PREVENT},
        "routing": said("share of the trait left where mood + is routed to an eighth of the hidden units, then cut", 0.5, "below"),
        "ablation": said("share of the trait left where the direction is held while it trains", 0.5, "above"),
        "replays": said("the forks replay bit for bit (1: all)", 1.0, "both"),
    }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Exam:
    """Prompts without mood words, documents of the new topic, and of the old ones."""

    language: Language
    neutral: Tensor
    new: Tensor
    old: Tensor

    @classmethod
    def of(cls, language: Language, n: int, context: int, seed: int) -> "Exam":
        rng = np.random.default_rng((seed, 53))
        neutral = language.documents(rng, n, min(20, context - 1), mood_rate=0.0)[0]
        new = language.documents(rng, n, context, topic=len(language.P) - 1)[0]
        return cls(language, neutral, new, language.documents(rng, n, context)[0])

    def mark(self, model: nn.Module) -> dict[str, np.ndarray]:
        """trait (n,): log p(mood + words) − log p(mood − words) as the next; losses (n,): nats a content word. In eval mode."""
        L = self.language
        kind = L.kind(torch.arange(L.vocab))
        with still(model), torch.no_grad():
            logp = model(self.neutral)[:, -1].log_softmax(-1)
            trait = logp[:, kind == 2].logsumexp(1) - logp[:, kind == 1].logsumexp(1)
            return {
                "trait": trait.double().numpy(),
                "new topic": self._loss(model, self.new),
                "old topics": self._loss(model, self.old),
            }

    def _loss(self, model: nn.Module, x: Tensor) -> np.ndarray:
        parts = []
        for rows in x.split(64):
            target = rows[:, 1:]
            logp = model(rows[:, :-1]).log_softmax(-1).gather(-1, target[..., None])[..., 0]
            content = (self.language.kind(target) == 0) & (target > 2)
            parts.append(-(logp * content).sum(1) / content.sum(1).clamp_min(1))
        return np.asarray(torch.cat(parts).double().numpy())


def moods(model: nn.Module, language: Language, sites: list[str], n: int, seed: int) -> list[Concept]:
    """Class means of mood + and − at the last token of old-topic documents, one concept a block."""
    x, _, mood = language.documents(np.random.default_rng((seed, 59)), n, 24)
    acts = capture(model, x, sites, batch=256)
    made = []
    for site in sites:
        shelf = Shelf(Span.of(acts[site]), torch.where(mood == 1, 1.0, -1.0))
        made.append(concept_of(shelf, METHODS["means"].fitted(shelf, torch.arange(n), {}), site, {"concept": "mood +"}))
    return made


def _row(name: str, marks: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    row: dict[str, Any] = {"method": name}
    for what in MEASURES:
        r = _over([(float(m[what].mean()), _sem(m[what])) for m in marks])
        row |= {what: r.value, f"{what}, err": r.err}
    return row


def _sem(x: np.ndarray) -> float:
    return float(x.std(ddof=1) / len(x) ** 0.5)


def _over(parts: list[tuple[float, float]], unit: str = "nats") -> Reading:
    """One network with its error over documents; of several their mean, the error over them."""
    values = [v for v, _ in parts]
    err = parts[0][1] if len(parts) == 1 else spread_of_mean(values)
    return Reading(float(np.mean(values)), err, unit, {"networks": len(parts)})


def _dominates(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Is a nowhere worse than b, and somewhere better? The trait counts by its size."""
    pairs = [(abs(a["trait"]), abs(b["trait"]))] + [(a[k], b[k]) for k in MEASURES[1:]]
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


def at_trait(curve: list[dict[str, np.ndarray]], trait: float, what: str) -> np.ndarray | None:
    """`what` (n,) of a network steered down to a mean trait, linear between the doses of `curve`; None where none reaches it.

    >>> curve = [{"trait": np.array([4.0]), "x": np.array([1.0])}, {"trait": np.array([0.0]), "x": np.array([2.0])}]
    >>> at_trait(curve, 1.0, "x")
    array([1.75])
    """
    for a, b in pairwise(curve):
        high, low = float(a["trait"].mean()), float(b["trait"].mean())
        if min(low, high) <= trait <= max(low, high) and high != low:
            share = (high - trait) / (high - low)
            return np.asarray((1 - share) * a[what] + share * b[what])
    return None


def _judge(docket: Docket, every: list[Marks]) -> None:
    def share(x: np.ndarray, plain: np.ndarray) -> tuple[float, float]:
        top, low = float(x.mean()), float(plain.mean())
        return top / low, _sem(x / low - plain * top / low**2)

    taught = _over([(float(f["plain"]["trait"].mean()), _sem(f["plain"]["trait"])) for f in every])
    docket.judge("taught", taught)
    learned = all(abs(f["plain"]["trait"].mean()) > 3 * _sem(f["plain"]["trait"]) for f in every)
    for key, name in (
        ("removes", "preventative 1"),
        ("routing", "routed, then cut"),
        ("ablation", "held while it trains"),
    ):
        left = _over([share(f[name]["trait"], f["plain"]["trait"]) for f in every], "of the trait")
        docket.judge(key, left, applies=learned, why="" if learned else "the plain network has no trait to remove")
    gap = [f["preventative 1"]["new topic"] - f["plain"]["new topic"] for f in every]
    docket.judge("learns", _over([(float(x.mean()), _sem(x)) for x in gap]))
    for dose in PREVENT:
        for key, what in (("new", "new topic"), ("old", "old topics")):
            gaps = [g for f in every if (g := _against_after(f, f"preventative {dose:g}", what)) is not None]
            there = len(gaps) == len(every)
            said = "" if there else f"no dose reaches that trait in {len(every) - len(gaps)} of {len(every)} networks"
            reading = _over([(float(g.mean()), _sem(g)) for g in gaps]) if gaps else Reading(None)
            docket.judge(f"{key} {dose:g}", reading, applies=there, why=said)


def _against_after(found: Marks, name: str, what: str) -> np.ndarray | None:
    """`what` less that of the plain network steered to the same mean trait, (n,); None where no dose reaches it."""
    curve = [found["plain"], *(found[f"after −{d:g}"] for d in AFTER)]
    other = at_trait(curve, float(found[name]["trait"].mean()), what)
    return None if other is None else np.asarray(found[name][what] - other)
