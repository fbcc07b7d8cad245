"""What do networks trained from other seeds share: representations, a basin, the spectrum of their weights?"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from strobe.core.cards import study
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.core.snapshot import Snapshot
from strobe.laws.universality import matched_connectivity, shared_representation, spectrum_outliers
from strobe.observables.effective_rank import SPECTRUM, effective_rank, weight_spectrum
from strobe.observables.mode_connectivity import mode_connectivity
from strobe.observables.representation_similarity import cka, fresh, mutual_neighbours
from strobe.studies.docket import Docket, Progress, sized
from strobe.studies.images import standardised
from strobe.systems.digits import digits

QUESTION = "What do networks from other seeds share: representations, a basin, the spectrum of their weights?"
SCALES = {
    "tiny": ((16, 64), 2, 30),
    "small": ((16, 64, 256), 4, 60),
    "full": ((16, 64, 256, 1024), 6, 60),
}  # widths, pairs, epochs
TRAIN, HELD, NULLS, SITES, LAYERS = 1200, 300, 8, ["1", "3"], ["0", "2", "4"]


@study(
    question="What do networks from other seeds share: representations, a basin, the spectrum?", ref="arXiv:2209.04836"
)
def universality(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """Pairs of perceptrons 64-w-w-10 on digits from other seeds, at several widths.

    Sealed: similarity of the second layer on held-out digits above untrained pairs, by CKA and by mutual neighbours; the null,
    two other untrained networks, must fail. The loss barrier, on the training digits, is at least 9 times lower after
    weight matching; the null, the units in random order, must fail. The middle matrix has as many singular values above its bulk as
    there are classes, from width 64 on; untrained ones have none. Its other numbers are shown with their spread over seeds.
    Cost: some seconds at "tiny", under a minute at "small". Raises `BadOption`.
    """
    widths, pairs, epochs = sized(scale, SCALES)
    rows: dict[str, list[dict[str, Any]]] = {
        "similarity of the second layer": [],
        "barriers": [],
        "spectrum of the middle matrix": [],
    }
    with Docket(digits(flipped=0.0), out / "recorded", QUESTION, steps=200, seed=seed) as docket:
        for what in ("CKA", "mutual neighbours"):
            said = shared_representation(widths=widths)
            docket.seal(what, said, f"excess of {what} over untrained pairs, widths {list(widths)}")
            docket.seal(
                f"{what} null", said, f"excess of {what}, null: two more untrained (must fail)", law="", knobs={}
            )
        for w in widths:
            said = matched_connectivity(widths=[w])
            docket.seal(f"barrier {w}", said, f"barrier as they are / matched, width {w}")
            text = f"barrier as they are / units at random, width {w}, null (must fail)"
            docket.seal(f"shuffled {w}", said, text, law="", knobs={})
        wide = [w for w in widths if w >= 60]
        said = spectrum_outliers(classes=10, widths=wide)
        docket.seal("outliers", said, f"outlying singular values of the middle matrix, widths {wide}")
        docket.seal("outliers null", said, "the same, null: untrained (must fail)", law="", knobs={})
        seen: dict[str, list[Reading]] = {k: [] for k in docket.sealed}
        for i, width in enumerate(widths):
            nets = [_trained(width, 1000 * seed + j, epochs) for j in range(2 * pairs)]
            _similar(nets, width, seed, seen, rows["similarity of the second layer"])
            _barriers(nets, width, seed, seen, rows["barriers"])
            rows["spectrum of the middle matrix"] += _spectra(nets, width, seed, seen if width in wide else {})
            if progress:
                progress("widths", i + 1, len(widths))
        for key, read in seen.items():
            docket.judge(key, Reading(np.array([r.value for r in read]), np.array([r.err for r in read]), read[0].unit))
    return docket.report(rows, [
        "Kornblith et al. 2019, arXiv:1905.00414", "Huh et al. 2024, arXiv:2405.07987", "Ainsworth et al. 2022, arXiv:2209.04836",
    ])  # fmt: skip


def _trained(width: int, seed: int, epochs: int) -> Snapshot:
    x, y = standardised()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))
        optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
        for _ in range(epochs):
            for part in torch.randperm(TRAIN).split(100):
                optimizer.zero_grad()
                _loss(net, (x[part], y[part])).backward()
                optimizer.step()
    return Snapshot(net, _loss, (x[TRAIN : TRAIN + HELD], y[TRAIN : TRAIN + HELD]))


def _loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
    return cross_entropy(model(data[0]), data[1])


def _similar(
    nets: Sequence[Snapshot], width: int, seed: int, seen: Mapping[str, list[Reading]], rows: list[dict[str, Any]]
) -> None:
    couples = list(zip(nets[::2], nets[1::2], strict=True))
    first = 500_000 + 1000 * seed  # not the seeds of the nulls that `cka` draws itself
    plain = [(fresh(nets[0], first + 2 * i), fresh(nets[0], first + 2 * i + 1)) for i in range(NULLS)]
    for what, measure in (("CKA", cka), ("mutual neighbours", mutual_neighbours)):
        found = {}
        for key, those in ((what, couples), (f"{what} null", plain)):
            read = [measure(a, other=b, sites=SITES, seed=100 * seed + i) for i, (a, b) in enumerate(those)]
            raw, null = (np.mean([r.how[k] for r in read], 0) for k in ("raw", "null"))
            found[key] = Reading(
                *_mean([float(r.value[1]) for r in read], max(float(r.err[1]) for r in read)), "excess"
            )
            seen[key].append(found[key])
            if key == what:
                row = {"raw, layer 1": raw[0], "raw, layer 2": raw[1], "untrained, layer 2": null[1]}
        row |= {"excess": found[what].value, "err": found[what].err, "null's excess": found[f"{what} null"].value,
                "null's err": found[f"{what} null"].err}  # fmt: skip
        rows.append({"width": width, "measure": what} | {k: float(v) for k, v in row.items()})


def _mean(values: Sequence[float], least: float) -> tuple[float, float]:
    """(mean, standard error over pairs, at least `least` / √pairs: few pairs tell their spread badly)."""
    v = np.asarray(values)
    return float(v.mean()), float(max(v.std(ddof=1), least) / len(v) ** 0.5)


def _barriers(
    nets: Sequence[Snapshot], width: int, seed: int, seen: Mapping[str, list[Reading]], rows: list[dict[str, Any]]
) -> None:
    x, y = standardised()
    data = (x[:TRAIN], y[:TRAIN])
    ratios, chance, plain, after = [], [], [], []
    moved: list[Any] = []
    for i, (a, b) in enumerate(zip(nets[::2], nets[1::2], strict=True)):
        here = replace(a, data=data)
        got = mode_connectivity(here, other=b, match=LAYERS, seed=i)
        other = mode_connectivity(here, other=_shuffled(b, seed + i))
        plain.append(float(got.value[0]))
        after.append(float(got.value[1]))
        moved.append(got.how["moved"])
        ratios.append(float(got.value[0] / max(got.value[1], 1e-6)))
        chance.append(float(got.value[0] / max(float(other.value), 1e-6)))
    for key, values in ((f"barrier {width}", ratios), (f"shuffled {width}", chance)):
        logs = np.log(values)
        mean, err = float(np.exp(logs.mean())), float(np.exp(logs.mean()) * logs.std(ddof=1) / len(logs) ** 0.5)
        seen[key].append(Reading(mean, err, "times", {"pairs": len(values)}))
    drop, null = seen[f"barrier {width}"][-1], seen[f"shuffled {width}"][-1]
    row = {"as they are": np.mean(plain), "matched": np.mean(after), "drop": drop.value, "err": drop.err, "drop at random": null.value,
           "units moved": np.mean(moved)}  # fmt: skip
    rows.append({"width": width} | {k: float(v) for k, v in row.items()})


def _shuffled(snap: Snapshot, seed: int) -> Snapshot:
    """The same function, its hidden units in random order."""
    g, net = torch.Generator().manual_seed(seed), deepcopy(snap.model)
    with torch.no_grad():
        for layer, after in (("0", "2"), ("2", "4")):
            order = torch.randperm(len(net.get_parameter(f"{layer}.bias")), generator=g)
            for name in (f"{layer}.weight", f"{layer}.bias"):
                net.get_parameter(name).copy_(net.get_parameter(name)[order].clone())
            net.get_parameter(f"{after}.weight").copy_(net.get_parameter(f"{after}.weight")[:, order].clone())
    return replace(snap, model=net)


def _spectra(
    nets: Sequence[Snapshot], width: int, seed: int, seen: Mapping[str, list[Reading]]
) -> list[dict[str, Any]]:
    rows = []
    for name, group in (
        ("trained", nets),
        ("untrained", [fresh(n, 700_000 + 1000 * seed + i) for i, n in enumerate(nets)]),
    ):
        spectra = np.stack([weight_spectrum(n, matrices=["2.weight"]).value[0] for n in group])
        ranks = np.array([float(effective_rank(n, sites=["3"]).value[0]) for n in group])
        row: dict[str, Any] = {"width": width, "networks": name}
        if seen:
            key = "outliers" if name == "trained" else "outliers null"
            seen[key].append(Reading(*_mean(spectra[:, SPECTRUM.index("outliers")].tolist(), 0.0), "outliers"))
        for j, label in enumerate(SPECTRUM):
            row |= {label: float(spectra[:, j].mean()), f"{label}, sd": float(spectra[:, j].std(ddof=1))}
        rows.append(row | {"effective rank of features": float(ranks.mean()), "its sd": float(ranks.std(ddof=1))})
    return rows
