"""A network learns a mixture of hidden Markov models: through which predictors it passes, and what it makes of examples in context."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from strobe.core.cards import study
from strobe.core.prediction import Prediction
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.runs.loop import train
from strobe.runs.recorder import Recorder
from strobe.runs.run import Opened, open_run
from strobe.studies.docket import Docket, Progress, sized
from strobe.studies.steering_desk import spread_of_mean
from strobe.systems.hidden_markov_mixture import Mixture, hidden_markov_mixture, mixture_of

QUESTION = "Through which predictors does a network pass on the way to the exact mixture, and does it use examples as Bayes would?"
SCALES: dict[
    str, tuple[int, int, dict[str, Any], int]
] = {  # networks, steps, knobs, prompts for each number of examples
    "tiny": (2, 60, {"context": 24, "d_model": 16, "layers": 1, "batch": 16, "probe_size": 16}, 40),
    "small": (1, 2000, {}, 2000),
    "full": (5, 2000, {}, 2000),
}
NAMES = ("uniform", "unigram", "bigram", "trigram", "mixture")
SHOTS = (0, 1, 2, 4, 8, 12)
SKIP = 2  # words before the trigram has two of them


@study(
    question="Through which predictors does a network pass, and does it use examples as Bayes would?",
    ref="arXiv:2111.02080",
)
def in_context_stages(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """A decoder on texts of five hidden Markov models, recorded; at each stored step the nearest of five predictors by KL(p || model).

    Sealed before training: the nearest one moves only forward in the order uniform, unigram, bigram, trigram, exact mixture, and at
    least four are seen (C13); on prompts of examples from one model, parted by delimiters as training texts never are, the accuracy is
    within 0.06 of the exact mixture's at each number of examples (C14). Null: the untrained network by the same measure, must fail.
    Shown: agreement with the mixture's answer, accuracy of one told the model, posterior of the right one.
    Err: of accuracies over prompts, paired; at "full" over five networks. Cost: four minutes a network. Raises `BadOption`.
    """
    networks, steps, knobs, many = sized(scale, SCALES)
    world = hidden_markov_mixture(**knobs)
    mixture = mixture_of(**world.facts["mixture"])
    sealed = {
        "order": Prediction("stages that go backwards, of nearest predictors", 0.0, 0.0, ref="arXiv:2111.02080"),
        "seen": Prediction("nearest predictors seen along training", 4.0, 0.0, side="above", ref="arXiv:2402.11004"),
    } | {f"{n}": Prediction(f"accuracy less the mixture's, {n} examples", 0.0, 0.06, ref="arXiv:2111.02080") for n in shots(world)} | {
        "null": Prediction(f"accuracy less the mixture's, {shots(world)[-1]} examples, null: untrained (must fail)", 0.0, 0.06)
    }  # fmt: skip
    with Docket(
        world, out / "recorded", QUESTION, steps=steps, seed=seed, setup=lambda rec: _seal(rec, sealed)
    ) as docket:
        docket.sealed |= sealed
        references = _references(mixture, world.probe(0).numpy())
        paths, trends, shown = [docket.path], [], []
        for i in range(1, networks):
            paths.append(train(world, out / f"seed-{seed + i}", steps=steps, seed=seed + i))
            if progress:
                progress("networks", i + 1, networks)
        for i, path in enumerate(paths):
            opened = Opened(run := open_run(path))
            trends.append(
                [_nearest(opened.at(s).model, world.probe(0), references) | {"step": s} for s in run.stored()]
            )
            model = opened.at(run.last).model
            shown.append([_prompted(model, mixture, n, many, seed + i) for n in shots(world)])
        orders = [[NAMES.index(str(t["nearest"])) for t in trend] for trend in trends]
        back = [sum(b < a for a, b in itertools.pairwise(order)) for order in orders]
        docket.judge("order", Reading(float(max(back)), 0.0, "stages", {"each network": back}))
        docket.judge("seen", Reading(float(min(len(set(order)) for order in orders)), 0.0, "predictors"))
        rows = []
        for n, of in zip(shots(world), zip(*shown, strict=True), strict=True):
            gaps = [row["accuracy"] - row["mixture"] for row in of]
            err = of[0]["err of the difference"] if networks == 1 else spread_of_mean(gaps)
            docket.judge(f"{n}", Reading(float(np.mean(gaps)), err, ""))
            means = {k: float(np.mean([row[k] for row in of])) for k in of[0]}
            rows.append({"examples": n} | means | {"err of the difference": err})
        bare = _prompted(world.build(seed), mixture, shots(world)[-1], many, seed)
        docket.judge("null", Reading(bare["accuracy"] - bare["mixture"], bare["err of the difference"], ""))
    columns = ["step", "nearest", "loss", *[f"KL from {k}" for k in NAMES]]
    told = {f"entropy of {k}": v for k, v in _entropies(references, world.probe(0).numpy()).items()}
    stages = [_stages(trend) | {"seed": seed + i} for i, trend in enumerate(trends)]
    report = docket.report(
        {"nearest predictor along training": [{k: t[k] for k in columns} for t in trends[0]],
         "last step of each stage": stages, "examples in context": rows},
        ["Xie et al. 2022, arXiv:2111.02080", "Edelman et al. 2024, arXiv:2402.11004"], **told,
    )  # fmt: skip
    return replace(report, runs=paths)


def _stages(trend: list[dict[str, Any]]) -> dict[str, Any]:
    """The last step at which each predictor was the nearest, None where it never was; and the loss and distance at the end."""
    last = {k: max((t["step"] for t in trend if t["nearest"] == k), default=None) for k in NAMES}
    return last | {"loss at the end": trend[-1]["loss"], "KL from mixture at the end": trend[-1]["KL from mixture"]}


def _seal(rec: Recorder, predictions: dict[str, Prediction]) -> None:
    """Before the first step."""
    for key, said in predictions.items():
        predictions[key] = rec.seal(said)


def shots(world: Any) -> list[int]:
    """Numbers of examples that fit the context."""
    return [n for n in SHOTS if 4 * n + 3 <= world.knobs["context"]]


def _references(mixture: Mixture, x: np.ndarray) -> dict[str, np.ndarray]:
    """P(next word | before), (n, length − 1, words), of each predictor; n-grams of a million words, smoothed by the one below."""
    v, given = mixture.words, x[:, :-1]
    rng = np.random.default_rng(2)
    big = mixture.sample(rng, rng.integers(0, len(mixture.turn), 5000), 200)
    one = np.bincount(big.ravel(), minlength=v) + 1.0
    one /= one.sum()
    two = np.ones((v, v)) * 1e-2 * one
    np.add.at(two, (big[:, :-1].ravel(), big[:, 1:].ravel()), 1)
    two /= two.sum(1, keepdims=True)
    three = np.ones((v, v, v)) * 0.5 * two[None]
    np.add.at(three, (big[:, :-2].ravel(), big[:, 1:-1].ravel(), big[:, 2:].ravel()), 1)
    three /= three.sum(2, keepdims=True)
    exact, _ = mixture.predict(given)
    shape = exact.shape
    third = np.concatenate([two[given[:, :1]], three[given[:, :-1], given[:, 1:]]], 1)
    every = (np.full(shape, 1 / v), np.broadcast_to(one, shape), two[given], third, exact)
    return dict(zip(NAMES, every, strict=True))


def _entropies(references: dict[str, np.ndarray], x: np.ndarray) -> dict[str, float]:
    truth = x[:, 1 + SKIP :, None]
    return {k: float(-np.log(np.take_along_axis(p[:, SKIP:], truth, 2) + 1e-12).mean()) for k, p in references.items()}


def _nearest(model: nn.Module, x: torch.Tensor, references: dict[str, np.ndarray]) -> dict[str, Any]:
    model.eval()
    with torch.no_grad():
        said = model(x[:, :-1]).double().log_softmax(-1).numpy()
    gap = {
        k: float((p[:, SKIP:] * (np.log(p[:, SKIP:] + 1e-12) - said[:, SKIP:])).sum(2).mean())
        for k, p in references.items()
    }
    loss = float(-np.take_along_axis(said[:, SKIP:], x[:, 1 + SKIP :, None].numpy(), 2).mean())
    return {"nearest": min(gap, key=lambda k: gap[k]), "loss": loss} | {f"KL from {k}": v for k, v in gap.items()}


def _prompted(model: nn.Module, mixture: Mixture, examples: int, many: int, seed: int) -> dict[str, float]:
    rng = np.random.default_rng((seed, examples))
    which = rng.integers(0, len(mixture.turn), many)
    x = mixture.prompts(rng, which, examples)
    exact, post = mixture.predict(x[:, :-1])
    told, _ = mixture.predict(x[:, :-1], only=which)
    model.eval()
    with torch.no_grad():
        said = model(torch.from_numpy(x[:, :-1]))[:, -1].argmax(-1).numpy()
    y, best = x[:, -1], exact[:, -1].argmax(-1)
    gap = (said == y).astype(float) - (best == y)
    return {
        "accuracy": float((said == y).mean()), "mixture": float((best == y).mean()), "err of the difference": float(gap.std() / many**0.5),
        "told the model": float((told[:, -1].argmax(-1) == y).mean()), "agreement": float((said == best).mean()),
        "posterior of the right one": float(post[np.arange(many), which].mean()),
    }  # fmt: skip
