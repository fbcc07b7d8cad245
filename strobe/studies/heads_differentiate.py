"""Do refined learning coefficients tell the heads of a transformer apart, and do they say what each is for?"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from strobe.core.cards import study
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction, Verdict, judge
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.core.snapshot import Snapshot
from strobe.core.system import System
from strobe.core.tap import patch
from strobe.edits.ablate import ablate
from strobe.laws.rlct_linear import linear_fibre_rlct
from strobe.observables.head_scores import prefix_matching_score, previous_token_score
from strobe.observables.refined_llc import refined_llc
from strobe.runs.loop import train
from strobe.runs.notes import Notes
from strobe.runs.recorder import Recorder
from strobe.runs.run import Run, open_run
from strobe.runs.watch import follow
from strobe.studies.developmental_language import watch_behaviours
from strobe.systems.repeated_bigrams import repeated_bigrams

QUESTION = "Do refined learning coefficients tell the heads of a transformer apart, and do they say what each is for?"
REF = "arXiv:2410.02984"
WIDTHS = (6, 4, 5, 3)
LAYERS: dict[str, list[int]] = {
    "1": [1],
    "2": [2],
    "3": [3],
    "1, 2": [1, 2],
    "2, 3": [2, 3],
    "1, 3": [1, 3],
    "all": [1, 2, 3],
}
SCORE = 0.3  # attention from which a head is called a previous-token or an induction head
HURT = 0.1  # nats that an n-gram must lose to count as one of an ablated head
CITED = [
    "Wang et al. 2024, arXiv:2410.02984",
    "Olsson et al. 2022, arXiv:2209.11895",
    "Hoogland et al. 2024, arXiv:2402.02364",
]
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Size:
    steps: int
    at: tuple[int, ...]  # checkpoints of the sweep; the last one is the last step
    chains: int
    budget: int
    batch: int
    anchor: int  # gradients of each chain on the linear network
    world: dict[str, Any]


SCALES = {
    "tiny": _Size(30, (3, 30), 2, 200, 16, 400,
                  {"d_model": 8, "heads": 2, "vocab": 16, "context": 12, "batch": 8, "probe_size": 16, "phrases": 4}),
    "small": _Size(6000, (30, 100, 300, 700, 1200, 2000, 3500, 6000), 2, 200, 8, 3000,
                   {"repeated": 0.4, "phrases": 48, "phrase_rate": 0.1, "placed": 2, "lr": 3e-3}),
    "full": _Size(50_000, tuple(int(t) for t in np.geomspace(50, 50_000, 24)), 4, 1000, 64, 4000,
                  {"d_model": 256, "context": 256, "vocab": 1024, "batch": 64, "lr": 1e-3, "probe_size": 1024}),
}  # fmt: skip


@study(
    question="Do refined learning coefficients tell the heads of a transformer apart, and do they say what each is for?",
    ref="arXiv:2410.02984",
)
def heads_differentiate(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """The weight-refined coefficient of all heads along a run of `repeated_bigrams`, and what the heads do.

    Sealed before the first step: λ̂ of a linear network's layers and pairs of layers, within 5% of half the rank of their
    Jacobian; at the end of the run the induction heads of the second layer (prefix matching above 0.3) have a lower λ̂
    than the median of that layer's other heads; over all heads λ̂ and the number of n-grams that need the head rank alike
    (Spearman above 0.4); and λ̂ on text that is repeated over λ̂ on text that is not is largest for an induction head.
    An n-gram (here three tokens, seen 8 times or more in plain text) needs a head when its last token loses 0.1 nats, and
    two standard errors, with the head's output replaced by its mean. Heads are clustered by their traces of ln λ̂
    (K-means), and the clusters compared with the behavioural kinds by the adjusted Rand index.
    Cost: seconds at "tiny"; some minutes at "small" on one core. Needs scikit-learn. Raises `BadOption`.
    Ref: Wang et al., arXiv:2410.02984; departures: a synthetic language, a network 70 times smaller, λ̂ at n / ln n.
    """
    if scale not in SCALES:
        raise BadOption(f"scale is 'tiny', 'small' or 'full', got {scale!r}")
    return _Study(out, SCALES[scale], seed, progress or (lambda *_: None)).report()


def needed_ngrams(model: nn.Module, sites: list[str], tokens: Tensor, *, least: int = 8) -> tuple[np.ndarray, int]:
    """(needs (heads, n-grams) of 0 or 1, number of n-grams): whose last token each site's mean ablation costs 0.1 nats.

    The n-grams are all sequences of three tokens that occur `least` times or more in the windows `tokens`.
    """
    vocab = int(tokens.max()) + 1
    code = (tokens[:, :-2] * vocab + tokens[:, 1:-1]) * vocab + tokens[:, 2:]
    kinds, which, counts = code.unique(return_inverse=True, return_counts=True)
    often = torch.nonzero(counts >= least).flatten()
    if not len(often):
        raise BadOption(f"no n-gram occurs {least} times in {tokens.numel()} tokens: give more text")
    slot = torch.full((len(kinds),), -1)
    slot[often] = torch.arange(len(often))
    slot = slot[which].flatten()
    base, rows = _losses(model, tokens), []
    for site in sites:
        with patch(model, {site: ablate(to="mean")}):
            hurt = (_losses(model, tokens) - base)[:, 1:].flatten()
        keep = slot >= 0
        n = torch.bincount(slot[keep], minlength=len(often)).double()
        mean = torch.bincount(slot[keep], weights=hurt[keep].double(), minlength=len(often)) / n
        square = torch.bincount(slot[keep], weights=hurt[keep].double() ** 2, minlength=len(often)) / n
        err = ((square - mean**2).clamp(min=0) / (n - 1)).sqrt()
        rows.append(((mean > HURT) & (mean > 2 * err)).numpy())
    return np.array(rows, float), len(often)


def _losses(model: nn.Module, tokens: Tensor) -> Tensor:
    with torch.no_grad():
        said = model(tokens[:, :-1])
    return cross_entropy(said.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none").view(len(tokens), -1)


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
        """Seal, train, sweep the heads, judge."""
        size, world = self.size, repeated_bigrams(**self.size.world)

        def setup(rec: Recorder) -> None:
            self._seal(rec)
            watch_behaviours(rec, world, 8)
            rec.event("page", question=QUESTION, panels=_panels())

        path = train(world, self.out / "run", steps=size.steps, seed=self.seed, setup=setup, snapshots=sorted({1, *size.at}),
                     after=lambda rec, _: self.progress("training", rec.n, size.steps))  # fmt: skip
        run = open_run(path)
        options = {
            "parts": world.facts["head_parts"],
            "chains": size.chains,
            "budget": size.budget,
            "batch": size.batch,
            "seed": self.seed,
        }
        swept = follow(run, refined_llc, every=list(size.at), note="refined_llc", **options,
                       progress=lambda i, n: self.progress("heads", i, n))  # fmt: skip
        with Notes(path) as self.notes:
            self._anchor()
            facts = self._heads(run, world, swept, options)
        return Report(QUESTION, self.verdicts, [path], self.tables, CITED, facts)

    def _seal(self, rec: Recorder) -> None:
        for name, layers in LAYERS.items():
            law = linear_fibre_rlct(widths=WIDTHS, layers=layers, rtol=0.05)
            self.sealed[name] = rec.seal(
                replace(law, of=f"λ̂ of layers {name} of a linear network {'-'.join(map(str, WIDTHS))}")
            )

        def say(key: str, of: str, value: float, when: str) -> None:
            self.sealed[key] = rec.seal(Prediction(of, value, 0.0, when=when, side="above", ref=REF))

        mixed = "layer 2 has an induction head and two others at least"
        say("lower", "median λ̂ of the other heads of layer 2, less the mean of its induction heads", 0.0, mixed)
        say(
            "ngrams",
            "Spearman's ρ of λ̂ and the number of n-grams that need the head, all heads",
            0.4,
            "four heads need an n-gram",
        )
        say(
            "repeated",
            "ln of λ̂ repeated / λ̂ plain: the best induction head's, less the largest of other heads",
            0.0,
            "there is an induction head",
        )

    def _say(self, key: str, reading: Reading, applies: bool = True, why: str = "") -> str:
        self.verdicts.append(self.notes.verdict(judge(self.sealed[key], reading, applies=applies, why=why)))
        return self.verdicts[-1].word

    def _anchor(self) -> None:
        g = torch.Generator().manual_seed(self.seed)
        net = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(WIDTHS)))
        with torch.no_grad():
            for w in net.parameters():
                q = torch.linalg.qr(torch.randn(max(w.shape), min(w.shape), generator=g))[0]
                w.copy_(q if q.shape == w.shape else q.T)
        x = torch.linalg.qr(torch.randn(200, WIDTHS[0], generator=g))[0] * 200**0.5
        snap = Snapshot(net, lambda m, d: (m(d[0]) - d[1]).square().sum(1).mean() / 2, (x, net(x).detach()))
        parts = {name: [f"{i - 1}.weight" for i in layers] for name, layers in LAYERS.items()}
        got = refined_llc(snap, parts=parts, nbeta=1e5, gamma=100.0, chains=16, budget=self.size.anchor, seed=self.seed)
        self.tables["linear network: exact values"] = [
            {"layers": name, "parameters": p, "λ": self.sealed[name].value, "λ̂": float(v), "err": float(e),
             "verdict": self._say(name, Reading(float(v), float(e)))}
            for name, p, v, e in zip(LAYERS, got.how["parameters"], got.value, got.err, strict=True)
        ]  # fmt: skip

    def _heads(self, run: Run, world: System, swept: dict[int, Reading], options: dict[str, Any]) -> dict[str, Any]:
        snap, facts, heads = run.at(run.last), world.facts, world.facts["heads"]
        final = swept[max(swept)]
        other = {}
        for name in ("plain", "twice"):
            other[name] = self.notes.reading(
                f"refined_llc_{name}", refined_llc(replace(snap, data=facts[name]), **options), step=run.last
            )
            self.progress("other data", len(other), 2)
        previous = previous_token_score(snap).value.ravel()
        prefix = prefix_matching_score(snap, sequences=64).value.ravel()
        layer = np.arange(len(prefix)) // heads
        kind = np.where(
            (layer == 1) & (prefix > SCORE), "induction", np.where(previous > SCORE, "previous token", "other")
        )
        with snap.quiet() as model:
            needs, kinds = needed_ngrams(
                model,
                [s for row in facts["head_sites"] for s in row],
                facts["plain"],
                least=8 if run.last > 1000 else 2,
            )
        counts = needs.sum(1)
        self._judge(final, other, kind, layer, prefix, needs)
        traces = np.log(np.maximum(np.stack([swept[s].value for s in sorted(swept)], 1), 1e-3))
        cluster = _clusters(traces, min(3, len(traces) - 1), self.seed)
        ratio = other["twice"].value / other["plain"].value
        self.tables["heads"] = [
            {"head": label, "kind": str(kind[i]), "cluster": int(cluster[i]), "λ̂": float(final.value[i]), "err": float(final.err[i]),
             "λ̂ repeated / plain": float(ratio[i]), "n-grams that need it": int(counts[i]), "previous token": float(previous[i]),
             "prefix matching": float(prefix[i]), "flags": "; ".join(final.how["flags"].get(label, []))}
            for i, label in enumerate(final.how["labels"])
        ]  # fmt: skip
        index, p = _rand(cluster, kind, self.seed)
        self.tables["λ̂ of each head along the run"] = [
            {"step": s, **dict(zip(final.how["labels"], np.round(swept[s].value, 2).tolist(), strict=True))}
            for s in sorted(swept)
        ]
        return {"n-grams": kinds, "adjusted Rand index of clusters and kinds": index, "of shuffled kinds as large": p,
                "heads of each kind": {k: int((kind == k).sum()) for k in ("induction", "previous token", "other")}}  # fmt: skip

    def _judge(
        self,
        final: Reading,
        other: dict[str, Reading],
        kind: np.ndarray,
        layer: np.ndarray,
        prefix: np.ndarray,
        needs: np.ndarray,
    ) -> None:
        rng = np.random.default_rng(self.seed)
        induction, rest = kind == "induction", (kind != "induction") & (layer == 1)
        mixed = bool(induction.sum() >= 1 and rest.sum() >= 2)
        why = f"{induction.sum()} of the {(layer == 1).sum()} heads of layer 2 are induction heads"

        def lower(value: np.ndarray) -> float:
            return float(np.median(value[rest]) - value[induction].mean())

        again = final.value + final.err * rng.standard_normal((400, len(final.value)))
        seen = Reading(lower(final.value), float(np.std([lower(v) for v in again])), "λ̂") if mixed else Reading(None)
        self._say("lower", seen, mixed, "" if mixed else why)
        some = bool((needs.sum(1) > 0).sum() >= 4)
        picks = rng.integers(needs.shape[1], size=(400, needs.shape[1]))
        rhos = [spearmanr(v, needs[:, p].sum(1)).statistic for v, p in zip(again, picks, strict=True)] if some else []
        rho = (
            Reading(float(spearmanr(final.value, needs.sum(1)).statistic), float(np.nanstd(rhos)), "ρ")
            if some
            else Reading(None)
        )
        self._say("ngrams", rho, some, "" if some else "hardly a head is needed by any n-gram")
        present = bool(induction.any() and (~induction).any())
        self._say(
            "repeated", _margin(other, induction, rng) if present else Reading(None), present, "" if present else why
        )


def _margin(other: dict[str, Reading], induction: np.ndarray, rng: np.random.Generator) -> Reading:
    def margin(plain: np.ndarray, twice: np.ndarray) -> float:
        ratio = np.log(np.maximum(twice, 1e-3) / np.maximum(plain, 1e-3))
        return float(ratio[induction].max() - ratio[~induction].max())

    a, b = other["plain"], other["twice"]
    noise = rng.standard_normal((2, 400, len(induction)))
    again = [margin(a.value + a.err * x, b.value + b.err * y) for x, y in zip(*noise, strict=True)]
    return Reading(margin(a.value, b.value), float(np.std(again)), "ln ratio")


def _clusters(traces: np.ndarray, k: int, seed: int) -> np.ndarray:
    from sklearn.cluster import KMeans

    found = KMeans(k, n_init=20, random_state=seed).fit_predict(traces)
    return np.asarray(found)


def _rand(cluster: np.ndarray, kind: np.ndarray, seed: int) -> tuple[float, float]:
    """The adjusted Rand index of two partitions, and the share of 1000 shuffles that reach it."""
    from sklearn.metrics import adjusted_rand_score

    rng = np.random.default_rng(seed)
    index = float(adjusted_rand_score(kind, cluster))
    again = [adjusted_rand_score(rng.permutation(kind), cluster) for _ in range(1000)]
    return index, float((np.sum(np.array(again) >= index - 1e-12) + 1) / 1001)


def _panels() -> list[dict[str, Any]]:
    return [
        {"title": "loss per token", "series": ["loss", "token_loss"], "unit": "nats"},
        {"title": "in-context score", "series": ["in_context_score"], "unit": "nats"},
        {"title": "refined learning coefficient, by layer.head", "series": ["refined_llc"], "unit": "λ̂",
         "note": "Only the head's own weights vary; one standard error."},
        {"title": "previous-token score, by layer.head", "series": ["previous_token_score"], "unit": "attention"},
        {"title": "prefix-matching score, by layer.head", "series": ["prefix_matching_score"], "unit": "attention"},
    ]  # fmt: skip
