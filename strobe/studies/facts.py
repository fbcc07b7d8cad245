"""Where does a network keep facts about names, does an affine map tell a relation, what makes it say another one, and at what price?"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from strobe.core.cards import study
from strobe.core.prediction import Prediction
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.runs.loop import train
from strobe.runs.run import open_run
from strobe.studies.docket import Docket, Progress, sized
from strobe.studies.facts_desk import LOOKED_UP, Desk, Hits, edited, readable, related
from strobe.studies.facts_rewritten import KEPT, NAMESAKES, OTHER, SAID, Editor, many_blocks, one_weight
from strobe.studies.steering_desk import over
from strobe.systems.relations import recall, relations

QUESTION = "Where are facts about names kept, is a relation an affine map, and what makes the network say another fact, at what price?"
RANK = 16
BLOCKS = (0, 1, 2)  # where subjects are edited and weights written
TIE = 1e-6  # as good is not better
FORMS = ("covariance", "blind")
Parts = dict[str, list[Hits]]  # by what was measured: one entry a network


@dataclass(frozen=True)
class Size:
    networks: int
    steps: int
    examples: int  # subjects that a Jacobian is taken of
    learned: int  # steps of learned vectors
    edits: int
    folds: int = 5  # of subjects
    knobs: dict[str, Any] = field(default_factory=dict)


TINY = {
    "names": 6,
    "pairs": 30,
    "attributes": 3,
    "context": 5,
    "d_model": 16,
    "heads": 2,
    "layers": 4,
    "batch": 8,
    "vary": True,
}
SCALES = {
    "tiny": Size(1, 12, 6, 3, 2, 2, TINY),
    "small": Size(1, 1000, 32, 100, 24),
    "full": Size(5, 1000, 32, 100, 24),
}


def _claims(chance: float) -> dict[str, Prediction]:
    lre, remedi, rome = "arXiv:2308.09124", "arXiv:2304.00740", "arXiv:2202.05262"

    def above(of: str, value: float, ref: str) -> Prediction:
        return Prediction(of, value, 0.0, side="above", ref=ref)

    def below(of: str, value: float, ref: str) -> Prediction:
        return Prediction(of, value, 0.0, side="below", ref=ref)

    at = "block 1, subjects held out"
    claims = {
        "LRE": above(f"C7 LRE gives the looked-up attribute, {at}", 3 * chance, lre),
        "LRC": above(f"C7 LRC of rank {RANK} tells the looked-up attribute, {at}", 3 * chance, "arXiv:2311.08968"),
        **{f"LRE {r}": below(f"C7 LRE of relation {r}, which one name tells, {at}", 2 * chance, lre) for r in (0, 1)},
        "LRE untrained": below(f"C7 control: LRE of the looked-up relation, untrained network, {at}", 2 * chance, lre),
        "learned": above("C8 share given by learned vectors − 1.5 × that of class means (x1 or x2, the better), block 0", 0.0, remedi),
        "random": below("C8 control: share given by random vectors of the same length, block 0", 2 * chance, remedi),
        "kept": above("C8 answers to other relations that stay, learned vectors, block 0", 0.95, remedi),
        **{f"fall {b}": above(f"C8 learned vectors: share given, block {b} − block {b + 1}", 0.0, remedi) for b in (0, 1)},
        "embedding": below("C9 looked-up attribute read at the embedding of the last name", 2 * chance, lre),
        "MLP 1": above("C9 looked-up attribute read after block 1", 0.5, lre),
        "last name": above("C9 attribute of the last name read at its embedding", 0.95, lre),
        "shuffled": below("C9 control: attributes dealt at random, after block 1", 2 * chance, lre),
        "untrained": below("C9 control: looked-up attribute, untrained network, after block 1", 2 * chance, lre),
        "exact": below("C15 largest relative error at the key, in double", 1e-12, rome),
    }  # fmt: skip
    for b in BLOCKS:
        claims[f"said {b}"] = above(f"C15 efficacy on unseen prefixes, with covariance − without, block {b}", TIE, rome)
        claims[f"kept {b}"] = above(f"C15 other subjects kept, with covariance − without, block {b}", TIE, rome)
    return claims


@study(
    question="Where are facts kept, is a relation an affine map, and what makes a network say another fact?",
    ref="arXiv:2308.09124",
)
def facts(
    out: Path, *, scale: str = "small", seed: int = 0, vary: bool = True, progress: Progress | None = None
) -> Report:  # fmt: skip
    """Networks trained on `relations`: two relations that one name tells, and one that only the pair tells, which has to be looked up.

    C7: linear relational embeddings and concepts from the last name after block 1 to the last block at the answer, and the swap of a
    subject through their inverse. C8: attribute vectors learned from the network's own probabilities. C9: ridge probes along the
    residual stream. C15: rank-one writes of one down-projection, with the covariance of the network's own keys and without, and writes
    spread over blocks. All predictions are sealed before any training. Chance is 1 / attributes. `vary`: 1 to 3 tokens of filler before the
    names (the default), else always 5: names that never move are looked up later, and much of this comes out otherwise.
    Err: over 5 folds of subjects ("small": one network) or 5 networks ("full"), at least that of a share of so many; writes: over edits.
    Cost: about 3 CPU minutes at "small", of which 1.3 are training, and 5 times that at "full". Raises `BadOption`.
    """
    size = sized(scale, SCALES)
    world = relations(**({"steps": size.steps, "vary": vary} | ({"context": 6} if vary else {}) | size.knobs))
    early: dict[str, Prediction] = {}
    said = _claims(1 / world.facts["attribute"].shape[1])
    with Docket(
        world, out / "network 0", QUESTION, steps=size.steps, seed=seed,
        setup=lambda rec: early.update({k: rec.seal(p) for k, p in said.items()}),
    ) as docket:  # fmt: skip
        docket.sealed.update(early)
        paths, got, writes, recalled = [docket.path], list[Parts](), list[dict[str, Any]](), list[list[float]]()
        for i in range(size.networks):
            if i:
                paths.append(train(world, out / f"network {i}", steps=size.steps, seed=seed + i))
            model = open_run(paths[i]).at(size.steps).model.eval()
            recalled.append(recall(world, model))
            desk = Desk.of(world, model, size.folds, seed + i)
            got.append(_measured(desk, size))
            writes.append(_written(Editor(desk, size.edits, size.learned)))
            if progress:
                progress("networks", i + 1, size.networks)
        tables: dict[str, list[dict[str, Any]]] = {
            "recall": [{"network": i, **{f"relation {r}": v for r, v in enumerate(x)}} for i, x in enumerate(recalled)]
        }
        often = [float(a.bincount().max() / len(a)) for a in world.facts["answers"]]
        tables["recall"].append(
            {"network": "most frequent answer", **{f"relation {r}": v for r, v in enumerate(often)}}
        )
        tables |= _judged(docket, got) | _judged_writes(docket, writes)
        report = docket.report(tables, [
            "Hernandez et al. 2023, arXiv:2308.09124", "Chanin et al. 2023, arXiv:2311.08968", "Hernandez et al. 2023, arXiv:2304.00740",
            "Meng et al. 2022, arXiv:2202.05262", "Meng et al. 2023, arXiv:2210.07229",
        ])  # fmt: skip
    return replace(report, runs=paths)


def _measured(desk: Desk, size: Size) -> Parts:
    """Everything of C7, C8 and C9 on one network, and the controls."""
    layers = desk.world.knobs["layers"]
    last = f"blocks.{layers - 1}"
    untrained = replace(desk, model=desk.world.build(desk.seed + 10_000).eval())
    dealt = desk.answers(LOOKED_UP)[
        torch.from_numpy(np.random.default_rng((desk.seed, 61)).permutation(len(desk.fold)))
    ]
    found: Parts = {}
    for place, hits in readable(desk, [*(desk.answers(r) for r in range(3)), dealt], layers).items():
        found |= {f"read {place}, {r}": [h] for r, h in zip((0, 1, 2, "dealt"), hits, strict=True)}
    for place, hits in readable(untrained, [desk.answers(LOOKED_UP)], layers).items():
        found[f"read {place}, untrained"] = [hits[0]]
    for b in BLOCKS:
        for r in range(3) if b == 1 else [LOOKED_UP]:
            for what, hit in related(desk, f"blocks.{b}", last, r, examples=size.examples, rank=RANK).items():
                found[f"{what} {r} at {b}"] = [hit]
        for arm, hit in edited(desk, f"blocks.{b}", steps=size.learned).items():
            found[f"{arm} at {b}"] = [hit]
    wild = related(untrained, "blocks.1", last, LOOKED_UP, examples=size.examples, rank=RANK)
    return found | {f"{what} untrained": [hit] for what, hit in wild.items()}


def _pooled(got: Sequence[Parts], combine: Callable[..., np.ndarray], *keys: str) -> Reading:
    """Of a function of paired measurements: over folds of one network, or over networks."""
    each = [[combine(*parts) for parts in zip(*(g[k][0] for k in keys), strict=True)] for g in got]
    return over(each[0] if len(each) == 1 else [np.concatenate(e) for e in each])


def _of(got: Sequence[Parts], key: str) -> Reading:
    return _pooled(got, np.asarray, key)


def _judged(docket: Docket, got: list[Parts]) -> dict[str, list[dict[str, Any]]]:
    for key, measured in (
        ("LRE", f"LRE {LOOKED_UP} at 1"), ("LRC", f"LRC {LOOKED_UP} at 1"), ("LRE 0", "LRE 0 at 1"), ("LRE 1", "LRE 1 at 1"),
        ("LRE untrained", "LRE untrained"), ("random", "random at 0"), ("kept", "learned, kept at 0"),
        ("embedding", f"read embedding, {LOOKED_UP}"), ("MLP 1", f"read MLP 1, {LOOKED_UP}"), ("last name", "read embedding, 1"),
        ("shuffled", "read MLP 1, dealt"), ("untrained", "read MLP 1, untrained"),
    ):  # fmt: skip
        docket.judge(key, _of(got, measured))
    means = max(("means x1 at 0", "means x2 at 0"), key=lambda k: float(_of(got, k).value))
    docket.judge("learned", _pooled(got, lambda a, b: a - 1.5 * b, "learned at 0", means))
    for b in (0, 1):
        docket.judge(f"fall {b}", _pooled(got, np.subtract, f"learned at {b}", f"learned at {b + 1}"))
    whose = [k.split(" ", 1)[1] for k in got[0] if k.startswith("LRE")]
    maps = [_row({"of": k}, got, {w: f"{w} {k}" for w in ("LRE", "LRC", "swap")}) for k in whose]
    arms = [
        _row({"arm": arm, "block": b}, got, {"given": f"{arm} at {b}", "others kept": f"{arm}, kept at {b}"})
        for b in BLOCKS for arm in ("learned", "means x1", "means x2", "random")
    ]  # fmt: skip
    lengths = [_row({"block": b}, got, {"length of learned / of the residual": f"length at {b}"}) for b in BLOCKS]
    where = [k.removeprefix("read ").removesuffix(", 0") for k in got[0] if k.startswith("read") and k.endswith(", 0")]
    kinds = {"relation 0": 0, "relation 1": 1, "relation 2": 2, "dealt": "dealt", "untrained": "untrained"}
    read = [_row({"after": p}, got, {name: f"read {p}, {k}" for name, k in kinds.items()}) for p in where]
    return {"affine maps": maps, "vectors at subjects": arms, "lengths": lengths, "probes": read}


def _row(told: dict[str, Any], got: list[Parts], keys: dict[str, str]) -> dict[str, Any]:
    for name, key in keys.items():
        r = _of(got, key)
        told |= {name: r.value, f"{name}, err": r.err}
    return told


def _written(editor: Editor) -> dict[str, Any]:
    found: dict[str, Any] = {"exact": 0.0}
    every = torch.arange(len(editor.who))
    for b in BLOCKS:
        found[f"block {b}"], worst = one_weight(editor, b)
        found["exact"] = max(found["exact"], worst)
    for blocks in ([0], [0, 1]):
        write = many_blocks(editor, blocks)
        name = "blocks " + " and ".join(map(str, blocks))
        found[f"{name}, all at once"] = write(every)
        if len(blocks) > 1:
            rows = [write(i) for i in every.split(1)]
            found[f"{name}, one at a time"] = {m: np.array([r[m] for r in rows]) for m in rows[0]}
    return found


def _judged_writes(docket: Docket, writes: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    docket.judge("exact", Reading(max(w["exact"] for w in writes), 0.0))
    for b in BLOCKS:
        for key, measure in (("said", SAID), ("kept", KEPT)):
            apart = [w[f"block {b}"]["covariance"][measure] - w[f"block {b}"]["blind"][measure] for w in writes]
            docket.judge(f"{key} {b}", _edits(apart))
    rows = []
    shown = [(f"block {b}, {form}", [w[f"block {b}"][form] for w in writes]) for b in BLOCKS for form in FORMS]
    shown += [(k, [w[k] for w in writes]) for k in writes[0] if k.startswith("blocks")]
    for name, found in shown:
        row: dict[str, Any] = {"written": name}
        for m in (SAID, KEPT, NAMESAKES, OTHER):
            r = _edits([np.atleast_1d(f[m]) for f in found])
            row |= {m: r.value, f"{m}, err": r.err if r.how else None}
        rows.append(row)
    return {"rewritten": rows}


def _edits(parts: list[np.ndarray]) -> Reading:
    """Mean over edits, with its error over them and, where there are some, over networks."""
    parts = [p[np.isfinite(p)] for p in parts]
    every = np.concatenate(parts)
    if len(every) < 2:
        return Reading(float(every.mean()) if len(every) else None, 1.0)
    err = float(every.std(ddof=1) / len(every) ** 0.5)
    if len(parts) > 1:
        err = max(err, float(np.std([p.mean() for p in parts], ddof=1) / len(parts) ** 0.5))
    return Reading(float(np.mean([p.mean() for p in parts])), err, "", {"edits": len(every), "networks": len(parts)})
