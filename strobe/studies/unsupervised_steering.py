"""Directions found without labels: what they are at small norm, at working norm, told apart by contrast, and what they do to the answer."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from strobe.core.cards import study
from strobe.core.prediction import Prediction
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.features.downstream import downstream
from strobe.features.pushing import pushing
from strobe.features.unsupervised import unsupervised
from strobe.runs.loop import train
from strobe.runs.run import open_run
from strobe.studies.docket import Docket, Progress, sized
from strobe.studies.steering_desk import spread_of_mean
from strobe.systems.relations import asked, relations

QUESTION = "Which vectors found without labels are the Jacobian's, which go beyond it, and does contrast find more that differ?"
SOURCE, TARGET = "blocks.0", "blocks.2"
RADII = (0.003, 0.03, 0.3, 1.0, 3.0)  # of the median length of the residual
WORKING = 0.3
SIZES = (0.0, 1.0, 3.0)  # weights of the effect's size in the contrast
Row = dict[str, float]


@dataclass(frozen=True)
class Size:
    steps: int
    networks: int
    seeds: int  # of inputs and starts, each network
    inputs: int
    climb: int  # steps of a climb
    count: int  # directions of a set
    knobs: dict[str, Any]


SCALES = {
    "tiny": Size(12, 1, 2, 3, 4, 3, {"d_model": 16, "heads": 2, "layers": 3, "batch": 8}),
    "small": Size(1000, 1, 5, 8, 60, 8, {}),
    "full": Size(1000, 3, 2, 8, 120, 8, {}),
}


def _claims() -> dict[str, Prediction]:
    def said(of: str, value: float, side: Any = "above", tol: float = 0.0) -> Prediction:
        return Prediction(of, value, tol, side=side, ref="arXiv:2312.05390" if "contrast" in of else "")

    return {
        "gain small": said("change / (R σ₁) of MELBO at R = .003 of the median length", 1.0, "both", 0.01),
        "cos small": said("|cos| of MELBO, from random starts, with the Jacobian's first right singular vector, R = .003", 0.99),
        "start": said("|cos| of 15 passes of power iteration with that vector", 0.99),
        "gain working": said("change / (R σ₁) of MELBO at R = .3", 1.0),
        "cos falls": said("|cos| with the Jacobian's first vector: R = .003 less R = .3", 0.0),
        "cos large": said("|cos| with the Jacobian's first vector, R = 3", 0.5, "below"),
        "gain large": said("change / (R σ₁) of MELBO at R = 3", 1.0, "below"),
        "random": said("change of random directions / of MELBO, R = .3", 0.7, "below"),
        "overlap": said("mean |cos| of effects: contrast (size 3) less repeated MELBO, R = .3", 0.0, "below"),
        "total": said("total effect: contrast (size 3) / repeated MELBO, R = .3", 0.9),
        "alone": said("total effect: contrast without its size / repeated MELBO, R = .3", 0.6, "below"),
        "orthogonal overlap": said("mean |cos| of effects: contrast (size 1) less orthogonal MELBO, R = .3", 0.0, "below"),
        "orthogonal total": said("total effect: contrast (size 1) / orthogonal MELBO, R = .3", 0.9),
        "answer": said("ln of divergence of the answer: orthogonal MELBO less random, R = .3", 0.0),
    }  # fmt: skip


@study(question="Do vectors found without labels go beyond the Jacobian, and does contrast find more that differ?")
def unsupervised_steering(
    out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None
) -> Report:
    """Vectors added after block 0 of a network that learned `relations`, at every token, change what block 2 hands on.

    C10: MELBO from random starts at five norms: change / (R σ₁), |cos| with the first right singular vector of the dense Jacobian,
    beside that vector at the same norm and 20 random directions; the same of the network before training. C10b: sets of directions of one
    norm: contrastive (weights of the size 0, 1, 3), repeated MELBO (independent, random starts), orthogonal MELBO, the Jacobian's,
    random; of each the mean |cos| of effects between two of them, the total effect Σ_k ‖Z(θ_k) − Z(0)‖, and the divergence of the answer.
    All is sealed before the networks are trained.
    Err: over seeds of inputs and starts; with several networks ("full") over networks. Cost: about 5 CPU minutes at "small", a third of it
    training. Raises `BadOption`. Ref: Mack and Turner 2024; arXiv:2312.05390.
    """
    size = sized(scale, SCALES)
    world = relations(steps=size.steps, **size.knobs)
    early: dict[str, Prediction] = {}
    with Docket(
        world, out / "network 0", QUESTION, steps=size.steps, seed=seed,
        setup=lambda rec: early.update({k: rec.seal(p) for k, p in _claims().items()}),
    ) as docket:  # fmt: skip
        docket.sealed.update(early)
        paths = [docket.path]
        paths += [train(world, out / f"network {i}", steps=size.steps, seed=seed + i) for i in range(1, size.networks)]
        radii: dict[str, list[list[list[Row]]]] = {"trained": [], "untrained": []}
        sets: list[list[dict[str, Row]]] = []
        for i, path in enumerate(paths):
            nets = {"trained": open_run(path).at(size.steps).model, "untrained": world.build(seed + i)}
            rows: dict[str, list[list[Row]]] = {k: [] for k in nets}
            found: list[dict[str, Row]] = []
            for s in range(size.seeds):
                draw = 1000 * seed + 100 * i + s
                who = np.random.default_rng((draw, 5)).permutation(len(world.facts["first"]))[: size.inputs]
                x = asked(world, torch.from_numpy(who), 0, draw)
                for name, net in nets.items():
                    rows[name].append(_radii(net, x, size.climb, draw))
                found.append(_sets(nets["trained"], x, size, draw))
                if progress:
                    progress("seeds", i * size.seeds + s + 1, len(paths) * size.seeds)
            for name, got in rows.items():
                radii[name].append(got)
            sets.append(found)
        report = docket.report(
            {"norms": _norms(docket, radii), "sets": _told(docket, sets)},
            [
                "Mack and Turner 2024, Mechanistically eliciting latent behaviors",
                "Dalva and Yanardag, arXiv:2312.05390",
            ],
        )
    return replace(report, runs=paths)


def _radii(net: nn.Module, x: Tensor, climb: int, seed: int) -> list[Row]:
    """One row a norm."""
    with pushing(net, x, SOURCE, TARGET) as push, torch.no_grad():
        J = push.forward(torch.eye(push.size)).flatten(1).T
        _, sigma, V = torch.linalg.svd(J, full_matrices=False)
        some = torch.randn(20, push.size, generator=torch.Generator().manual_seed(seed))
        some = torch.cat([V[:1], -V[:1], some / some.norm(dim=1, keepdim=True)])
        moved = [push.effect(r * push.length * some).flatten(1).norm(dim=1) for r in RADII]
        length = push.length
    rows = []
    for radius, change in zip(RADII, moved, strict=True):
        norm = radius * length
        unit = float(norm * sigma[0])
        best = unsupervised(
            net, x, SOURCE, TARGET, count=1, norm=norm, orthogonal=False, starts=4, steps=climb, lr=0.1, seed=seed
        )
        rows.append(
            {
                "gain": float(best.effect[0]) / unit,
                "|cos|": float((best.vectors[0] @ V[0]).abs() / norm),
                "singular vector": float(change[:2].max()) / unit,
                "random": float(change[2:].mean()) / unit,
                "power iteration": float((best.jacobian[0] @ V[0]).abs()),
                "σ₂ / σ₁": float(sigma[1] / sigma[0]),
            }
        )
    return rows


def _sets(net: nn.Module, x: Tensor, size: Size, seed: int) -> dict[str, Row]:
    with pushing(net, x, SOURCE, TARGET) as push:
        norm = WORKING * push.length
    arms: dict[str, dict[str, Any]] = {
        "repeated MELBO": {"orthogonal": False, "starts": 1, "passes": 1},
        "orthogonal MELBO": {"starts": 2},
        **{f"contrast, size {w:g}": {"method": "contrastive", "size": w, "passes": 1} for w in SIZES},
        "Jacobian": {"method": "jacobian"},
        "random": {"method": "random", "passes": 1},
    }
    rows = {}
    for name, how in arms.items():
        got = unsupervised(
            net, x, SOURCE, TARGET, count=size.count, norm=norm, steps=size.climb, lr=0.1, seed=seed, **how
        )
        answer = downstream(net, x, got, tokens="last")
        assert answer.divergence is not None
        assert answer.flipped is not None
        rows[name] = {
            "overlap": got.overlap,
            "total effect": float(got.effect.sum()),
            "divergence": float(answer.divergence.mean()),
            "flipped": float(answer.flipped.mean()),
            "rank correlation": float(spearmanr(got.effect.numpy(), answer.divergence.numpy()).statistic),
        }
    return rows


def _over(values: Sequence[Sequence[float]]) -> Reading:
    """Mean over networks of their means over seeds; err over networks, or, of one network, over seeds."""
    units = values[0] if len(values) == 1 else [float(np.mean(v)) for v in values]
    return Reading(float(np.mean(units)), spread_of_mean(units), "", {"networks": len(values), "seeds": len(values[0])})


def _norms(docket: Docket, radii: dict[str, list[list[list[Row]]]]) -> list[dict[str, Any]]:
    def seen(what: Any, at: float, of: str = "trained") -> Reading:
        i = RADII.index(at)
        return _over([[row[i][what] if isinstance(what, str) else what(row) for row in n] for n in radii[of]])

    docket.judge("gain small", seen("gain", 0.003))
    docket.judge("cos small", seen("|cos|", 0.003))
    docket.judge("start", seen("power iteration", 0.003))
    docket.judge("gain working", seen("gain", WORKING))
    small, work = RADII.index(0.003), RADII.index(WORKING)
    docket.judge("cos falls", seen(lambda row: row[small]["|cos|"] - row[work]["|cos|"], WORKING))
    docket.judge("cos large", seen("|cos|", 3.0))
    docket.judge("gain large", seen("gain", 3.0))
    docket.judge("random", seen(lambda row: row[work]["random"] / row[work]["gain"], WORKING))
    rows = []
    for name in radii:
        for radius in RADII:
            told: dict[str, Any] = {"network": name, "R / length": radius}
            for what in radii[name][0][0][0]:
                got = seen(what, radius, name)
                told |= {what: got.value, f"{what}, err": got.err}
            rows.append(told)
    return rows


def _told(docket: Docket, sets: list[list[dict[str, Row]]]) -> list[dict[str, Any]]:
    def pair(a: str, b: str, how: Any, what: str) -> Reading:
        return _over([[how(s[a][what], s[b][what]) for s in network] for network in sets])

    def less(p: float, q: float) -> float:
        return p - q

    def ratio(p: float, q: float) -> float:
        return p / q

    again, apart = "repeated MELBO", "orthogonal MELBO"
    docket.judge("overlap", pair("contrast, size 3", again, less, "overlap"))
    docket.judge("total", pair("contrast, size 3", again, ratio, "total effect"))
    docket.judge("alone", pair("contrast, size 0", again, ratio, "total effect"))
    docket.judge("orthogonal overlap", pair("contrast, size 1", apart, less, "overlap"))
    docket.judge("orthogonal total", pair("contrast, size 1", apart, ratio, "total effect"))
    docket.judge("answer", pair(apart, "random", lambda p, q: float(np.log(p / q)), "divergence"))
    rows = []
    for arm in sets[0][0]:
        told: dict[str, Any] = {"set": arm}
        for what in sets[0][0][arm]:
            got = _over([[s[arm][what] for s in network] for network in sets])
            told |= {what: got.value, f"{what}, err": got.err}
        rows.append(told)
    return rows
