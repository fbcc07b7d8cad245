"""Does a concept vector steer, at what price, in which language, beside another one; and does a probe know what the text can tell?"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from strobe.core.capture import Activations, capture
from strobe.core.cards import study
from strobe.core.prediction import Prediction
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.features.dose_response import shuffled, written
from strobe.features.fit_concept import fit_concept
from strobe.features.interference import interference
from strobe.features.methods import METHODS, Shelf
from strobe.features.monitor import fit_monitor
from strobe.numerics.auc import auc
from strobe.numerics.rfm import Span
from strobe.runs.loop import train
from strobe.runs.run import open_run
from strobe.studies.docket import Docket, Progress, sized
from strobe.studies.steering_desk import ALONE, LANGUAGE, MOOD, SUCCESS, TOPIC, Desk, over, spread_of_mean
from strobe.systems.two_languages import two_languages

QUESTION = "Does a concept vector steer, at what price, in which language, beside another; and does a probe know what the text can tell?"
JUDGED = 8  # tokens that the judge beside a probe reads
DOSES = (0.25, 0.5, 1.0, 1.5)
METHODS_SHOWN = ("means", "logistic", "rfm", "pca")


@dataclass(frozen=True)
class Size:
    steps: int  # of the network with switched documents
    other: int  # of the one without
    networks: int  # of each kind
    seeds: int  # of documents and prompts on each network
    prompts: int  # of each seed
    documents: int  # that vectors are fitted on
    read: int  # that probes are fitted on; half as many are held out
    knobs: dict[str, Any]


SCALES = {
    "tiny": Size(12, 12, 1, 2, 5, 120, 200, {"d_model": 16, "heads": 2, "layers": 2, "batch": 4}),
    "small": Size(1000, 400, 1, 5, 16, 900, 4000, {}),
    "full": Size(1000, 400, 5, 1, 32, 900, 4000, {}),
}


def _claims() -> dict[str, Prediction]:
    ref = "arXiv:2502.03708"
    at = "at dose 1 (mean length of the residual / blocks), all blocks"

    def above(of: str, value: float) -> Prediction:
        return Prediction(of, value, 0.0, side="above", ref=ref)

    def below(of: str, value: float) -> Prediction:
        return Prediction(of, value, 0.0, side="below", ref=ref)

    return {
        "steered": above(f"share of texts of the topic steered to, means, {at}", 0.95),
        "random": below(f"the same, random directions, {at}", 0.3),
        "shuffled": below(f"the same, shuffled labels, {at}", 0.3),
        "fluent": below("loss of the language's log-likelihood a word (under its best topic), means, dose 1", 0.15),
        "own": below("loss of the model's own log-likelihood a word after its prompt, means, dose 1", 0.15),
        "transfer": above("log10 of success in language B with / without mixed documents, vectors of A, dose 1", 1.0),
        "probe mixed": above("area of A's probe on B, last block, mixed documents", 0.95),
        "probe apart": below("area of A's probe on B, last block, no mixed documents", 0.6),
        "topic kept": above("topic: effect together with mood / alone, dose 1", 0.65),
        "mood kept": above("mood: effect together with topic / alone, dose 1", 0.65),
        **{f"bound {w}": below(f"Bayes bound of the text − area of the probe, {w} words", 0.02) for w in (2, 4)},
        **{f"leak {w}": below(f"area of the probe − Bayes bound, {w} words (above 0: a leak)", 0.01) for w in (2, 4)},
        **{f"judge {w}": above(f"area of the probe − that of a judge of {JUDGED} sampled tokens, {w} words", 0.05)
           for w in (2, 4)},
        "alarm": above("leak alarm: planted leak raises it, honest monitor does not (1: both)", 1.0),
    }  # fmt: skip


@study(
    question="Does a concept vector steer, transfer and add up, and does a probe know what the text can tell?",
    ref="arXiv:2502.03708",
)
def steering(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """Two planted languages (`two_languages`), with and without documents that switch between them; the judge is exact.

    C3: dose-response of means, logistic regression, RFM and PCA, beside random directions and shuffled labels: share of 24-token texts
    whose most likely topic is the one steered to (prompts of others), and what it costs in three log-likelihoods: the language's under
    its best topic; the model's own after its prompt; the model's own of the text read alone. C4: vectors of language A in B. C5: topic and
    mood together; each predicted from its own curve at the dose that the Gram matrix says it gets. C6: probe against the exact bound
    of the text and a judge of 8 sampled tokens. All but the figures of C5 are sealed before the networks are trained.
    Err: over five trained networks of each kind at "full", over seeds of documents, vectors, prompts and sampling on one at "small"; at
    least that of a share of so many texts. Cost: about 6 CPU minutes at "small", half of it training, 30 at "full". Raises `BadOption`.
    """
    size = sized(scale, SCALES)
    world = two_languages(steps=size.steps, **size.knobs)
    early: dict[str, Prediction] = {}
    with Docket(
        world, out / "mixed", QUESTION, steps=size.steps, seed=seed,
        setup=lambda rec: early.update({k: rec.seal(p) for k, p in _claims().items()}),
    ) as docket:  # fmt: skip
        docket.sealed.update(early)
        apart = two_languages(switched=0.0, steps=size.other, **size.knobs)
        paths = {"mixed": [docket.path], "apart": [train(apart, out / "apart", steps=size.other, seed=seed)]}
        for i in range(1, size.networks):
            more = {"mixed": (world, size.steps), "apart": (apart, size.other)}
            for kind, (w, steps) in more.items():
                paths[kind].append(train(w, out / f"seed-{seed + i}" / kind, steps=steps, seed=seed + i))
            if progress:
                progress("networks", i + 1, size.networks)
        desks = [
            [
                Desk.of(w, open_run(path).at(steps).model, size.documents, size.prompts, 1000 * (seed + i) + s)
                for i, path in enumerate(paths[kind])
                for s in range(size.seeds)
            ]
            for kind, w, steps in (("mixed", world, size.steps), ("apart", apart, size.other))
        ]
        tables = _doses(docket, desks[0], progress)
        tables |= _languages(docket, desks)
        tables |= _together(docket, desks[0])
        if progress:
            progress("steering", 2, 3)
        tables |= _bound(docket, desks[0], size)
        if progress:
            progress("steering", 3, 3)
        report = docket.report(
            tables, ["Beaglehole et al. 2025, arXiv:2502.03708", "Turner et al. 2023, arXiv:2308.10248"]
        )
    return replace(report, runs=[*paths["mixed"], *paths["apart"]])


def _doses(docket: Docket, desks: list[Desk], progress: Progress | None) -> dict[str, list[dict[str, Any]]]:
    got = []
    for i, desk in enumerate(desks):
        on = desk.topic == TOPIC
        arms = {m: desk.vectors(m, on) for m in METHODS_SHOWN} | {"shuffled": shuffled(desk.acts, on, seed=desk.seed)}
        got.append(desk.steer(arms, DOSES, random=1))
        if progress:
            progress("seeds", i + 1, len(desks))
    at = [0.0, *DOSES].index(1.0)

    def seen(what: str, arm: str, i: int = at) -> Reading:
        return over([g.values[what][arm][i] for g in got])

    def lost(what: str, arm: str = "means", i: int = at) -> Reading:
        return over([g.values[what][arm][0] - g.values[what][arm][i] for g in got])

    for key, arm in (("steered", "means"), ("random", "random 0"), ("shuffled", "shuffled")):
        docket.judge(key, seen(SUCCESS, arm))
    docket.judge("fluent", lost(LANGUAGE))
    docket.judge("own", lost("own log-likelihood"))
    rows = []
    for arm in got[0].values[SUCCESS]:
        for i, dose in enumerate(got[0].doses):
            row: dict[str, Any] = {
                "arm": arm,
                "dose": dose,
                SUCCESS: seen(SUCCESS, arm, i).value,
                "err": seen(SUCCESS, arm, i).err,
            }
            rows.append(row | {f"loss of {w}": lost(w, arm, i).value for w in (LANGUAGE, "own log-likelihood", ALONE)})
    return {"doses": rows}


def _languages(docket: Docket, desks: list[list[Desk]]) -> dict[str, list[dict[str, Any]]]:
    rows, hits, areas = [], [], []
    for name, group in zip(("mixed", "apart"), desks, strict=True):
        here: dict[str, list[np.ndarray]] = {"A": [], "B": [], "B, dose 0": []}
        area: dict[str, list[float]] = {"A": [], "B": []}
        for desk in group:
            on = desk.topic == TOPIC
            arm = {"means": desk.vectors("means", on)}
            for i, tongue in enumerate("AB"):
                got = desk.steer(arm, [1.0], language=i).values[SUCCESS]["means"]
                here[tongue].append(got[1])
                if i:
                    here["B, dose 0"].append(got[0])
                x, k, _ = desk.language.documents(np.random.default_rng((desk.seed, 43)), len(on), 24, language=i)
                last = desk.acts.sites[-1]
                read = desk.vectors("logistic", on)[-1].score(capture(desk.model, x, [last], batch=256)[last])
                area[tongue].append(auc(read.numpy(), (k == TOPIC).numpy())[0])
        readings = {k: over(v) for k, v in here.items()}
        rows.append({"documents": name, "area on A": float(np.mean(area["A"])), "area on B": float(np.mean(area["B"]))}
                    | {f"success in {k}": r.value for k, r in readings.items()} | {"err in B": readings["B"].err})  # fmt: skip
        hits.append(float(np.sum(here["B"])) + 0.5)
        areas.append(Reading(float(np.mean(area["B"])), spread_of_mean(area["B"])))
    docket.judge(
        "transfer", Reading(float(np.log10(hits[0] / hits[1])), float((1 / hits[0] + 1 / hits[1]) ** 0.5 / np.log(10)))
    )
    docket.judge("probe mixed", areas[0])
    docket.judge("probe apart", areas[1])
    return {"languages": rows}


def _together(docket: Docket, desks: list[Desk]) -> dict[str, list[dict[str, Any]]]:
    arms = [{"topic": d.vectors("means", d.topic == TOPIC), "mood": d.vectors("means", d.mood == 1)} for d in desks]
    solo = [d.steer(a, DOSES) for d, a in zip(desks, arms, strict=True)]
    what = {"topic": SUCCESS, "mood": MOOD}
    curves = {
        k: np.array([over([s.values[w][k][i] for s in solo]).value for i in range(len(DOSES) + 1)])
        for k, w in what.items()
    }
    angles = [interference(pair, [1.0, 1.0]).numpy() for a in arms for pair in zip(a["topic"], a["mood"], strict=True)]
    gets = np.mean(angles, 0)  # of a dose of 1 of both, what each gets
    for i, name in enumerate(what):
        said = float(np.interp(gets[i], [0.0, *DOSES], curves[name]))
        law = f"{name}: {what[name]} with both at dose 1, from its own curve at the dose {gets[i]:.2f} that the Gram matrix says it gets"
        docket.seal(f"{name} predicted", Prediction(law, said, 0.1, when="what is read of each is its own coordinate"))
    both = [d.steer({"both": [*a["topic"], *a["mood"]]}, [0.5, 1.0]) for d, a in zip(desks, arms, strict=True)]
    rows = []
    for i, name in enumerate(what):
        for j, dose in enumerate((0.5, 1.0)):
            seen = over([b.values[what[name]]["both"][j + 1] for b in both])
            at, base = curves[name][[0.0, *DOSES].index(dose)], curves[name][0]
            kept = (
                Reading(float((seen.value - base) / (at - base)), float(seen.err / abs(at - base)))
                if at != base
                else Reading(0.0, 1.0)
            )
            said = float(np.interp(dose * gets[i], [0.0, *DOSES], curves[name]))
            row: dict[str, Any] = {
                "concept": name,
                "dose": dose,
                "dose 0": float(base),
                "alone": float(at),
                "together": seen.value,
            }
            rows.append(row | {"err": seen.err, "predicted": said, "kept": kept.value, "cosine": float(gets[i] - 1)})
            if dose == 1.0:
                docket.judge(f"{name} kept", kept)
                docket.judge(f"{name} predicted", seen)
    return {"together": rows}


def _bound(docket: Docket, desks: list[Desk], size: Size) -> dict[str, list[dict[str, Any]]]:
    rows, alarms = [], []
    for words in (2, 4):
        got: dict[str, list[float]] = {"probe": [], "bound": [], "judge": []}
        for desk in desks:
            L, rng = desk.language, np.random.default_rng((desk.seed, 47, words))
            held = size.read
            x, k, _ = L.documents(rng, held + held // 2, words + 2, language=0)
            acts, y = capture(desk.model, x, batch=512), (k == TOPIC).numpy()
            train, ask = torch.arange(held * 4 // 5), torch.arange(held * 4 // 5, held)
            best, probe = -1.0, np.zeros(0)
            for site in acts.sites:  # the block is chosen on documents that neither fit nor test it
                shelf = Shelf(Span.of(acts[site]), torch.from_numpy(np.where(y, 1.0, -1.0)))
                fitted = METHODS["logistic"].fitted(shelf, train, {"penalty": 1e-3})
                if (mark := auc(fitted.score(ask), y[ask.numpy()])[0]) > best:
                    best, probe = mark, fitted.score(torch.arange(held, len(x)))
            odds = L.topic_log_odds(x, TOPIC)
            uniform = torch.from_numpy(rng.random((len(x) - held, JUDGED)))
            with torch.no_grad():
                text = written(JUDGED, L.of(0))(desk.model, (x[held:], uniform))
            sampled = L.topic_log_odds(text, TOPIC, words + 2)
            for name, scores in (("probe", probe), ("bound", odds[held:]), ("judge", sampled)):
                got[name].append(auc(scores, y[held:])[0])
            if words == 4:
                alarms.append(_alarm(acts, y, odds, desk.seed, min(400, len(y))))
        a = {name: np.array(v) for name, v in got.items()}
        short = Reading(float((a["bound"] - a["probe"]).mean()), spread_of_mean(a["bound"] - a["probe"]))
        docket.judge(f"bound {words}", short)
        docket.judge(f"leak {words}", Reading(-short.value, short.err))
        docket.judge(
            f"judge {words}", Reading(float((a["probe"] - a["judge"]).mean()), spread_of_mean(a["probe"] - a["judge"]))
        )
        rows.append(
            {"words": words}
            | {name: float(v.mean()) for name, v in a.items()}
            | {f"{n}, err": spread_of_mean(v) for n, v in a.items()}
        )
    docket.judge("alarm", Reading(float(np.mean(alarms)), 0.0))
    return {"probe, bound, judge": rows}


def _alarm(acts: Activations, y: np.ndarray, odds: np.ndarray, seed: int, n: int) -> float:
    """1 where a monitor of activations that were told the answer sounds the alarm, and one of those that were not does not."""
    limit, err = auc(odds[:n], y[:n])
    site = acts.sites[-1]
    heard = []
    for told in (0.0, 3.0):
        x = acts[site][:n].clone()
        x[:, 0] += told * float(x[:, 0].std()) * torch.from_numpy(y[:n]).to(x)
        rows = replace(acts, values={site: x}, example=torch.arange(n), position=acts.position[:n], inputs=n)
        table = fit_concept(rows, y[:n], methods=("ridge",), permutations=0, resamples=50, halves=1, seed=seed)
        heard.append(fit_monitor(rows, y[:n], table, rate=0.2, seed=seed).leaks(limit, err) is not None)
    return float(heard == [False, True])
