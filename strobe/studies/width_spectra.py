"""Do the leading spectral numbers of a training settle as the network gets wider, and only in the maximal update parametrisation?"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strobe.core.cards import study
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.core.snapshot import Snapshot
from strobe.core.stacked import StackedLoss, stacked
from strobe.core.stacked_adam import StackedAdam
from strobe.core.system import System
from strobe.edits.mup import widening
from strobe.laws.width_spectra import spectra_settle, standard_updates
from strobe.observables.effective_rank import weight_spectrum
from strobe.observables.sharpness import preconditioned_sharpness
from strobe.observables.update_spectrum import update_spectrum
from strobe.studies.docket import Docket, Progress, sized
from strobe.studies.width_transfer import KINDS, ROLES, wide_digits

QUESTION = "Do the leading spectral numbers of a training settle as the network gets wider?"
SCALES = {  # widths, seeds, looks
    "tiny": ((16, 32, 64, 128), 3, (5, 50)),
    "small": ((32, 64, 128, 256, 512), 6, (5, 25, 50, 150)),
    "full": ((32, 64, 128, 256, 512, 1024), 8, (5, 25, 50, 100, 150, 300)),
}
LR = 3e-3  # of the narrowest
MATRICES = ("0.weight", "2.weight", "4.weight")
LATEST = 5  # batches that the sharpness is measured on
CLASSES = 10


@study(
    question="Do the leading spectral numbers of a training settle as the network gets wider?", ref="arXiv:2402.17457"
)
def width_spectra(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """Digits at four widths or more, one base learning rate, Adam, in the maximal update and in the standard parametrisation.

    Sealed: exponents in width, 0 in the maximal update parametrisation, of how strongly each matrix's change acts at the end, of
    the largest singular value over the edge and the number of spikes of the hidden matrix, and of the preconditioned sharpness
    along training; the nulls, the standard parametrisation by the same claims, which must fail; the exponents of its first updates.
    Cost: some seconds at "tiny", a minute and a half at "small". Raises `BadOption`.
    """
    widths, seeds, looks = sized(scale, SCALES)
    late, last = looks[1:], looks[-1]
    wide = [w for w in widths if w >= 6 * CLASSES]
    spiky = len(wide) >= 4
    claims = {
        "updates": (spectra_settle(of="updates", widths=widths, numbers=len(MATRICES)), f"action of updates, step {last}"),
        "sharpness": (spectra_settle(of="sharpness", widths=widths, numbers=len(late)), f"sharpness, steps {late}"),
    }  # fmt: skip
    if spiky:
        claims["spikes"] = (spectra_settle(of="spikes", widths=wide, numbers=2), f"largest / edge, spikes, step {last}")
    with Docket(wide_digits(width=widths[0]), out / "recorded", QUESTION, steps=50, seed=seed) as docket:
        for key, (said, text) in claims.items():
            docket.seal(f"mup {key}", said, f"exponents in width, {KINDS['mup']}: {text}")
            null = f"exponents in width, null, {KINDS['standard']}: {text} (must fail)"
            docket.seal(f"standard {key}", said, null, law="", knobs={})
        early = standard_updates(roles=ROLES, widths=widths)
        docket.seal("first", early, f"exponents in width, {KINDS['standard']}: action of updates, step {looks[0]}")
        rows, exponents = [], []
        for k, kind in enumerate(KINDS):
            seen = []
            for j, width in enumerate(widths):
                seen.append(spectra(kind, width, widths[0], [1000 * seed + s for s in range(seeds)], looks))
                rows.append({"parametrisation": KINDS[kind], "width": width} | _row(seen[-1], looks))
                if progress:
                    progress("widths", k * len(widths) + j + 1, len(KINDS) * len(widths))
            at = {name: np.stack([s[name] for s in seen]) for name in seen[0]}  # (width, look, seed, ...)
            found = {
                "updates": exponent(widths, at["action"][:, -1]),
                "sharpness": exponent(widths, np.moveaxis(at["sharpness"][:, 1:], 1, -1)),
            }
            if spiky:
                found["spikes"] = exponent(
                    wide, np.maximum(at["spikes"][len(widths) - len(wide) :, -1], 0.5)
                )  # none counts half
            for key, read in found.items():
                docket.judge(f"{kind} {key}", read)
            first = exponent(widths, at["action"][:, 0])
            if kind == "standard":
                docket.judge("first", first)
            all_of_them = [*found.items(), (f"updates, step {looks[0]}", first)]
            exponents += [{"parametrisation": KINDS[kind], "of": what, "exponents": " ".join(f"{v:.3f}" for v in r.value),
                           "largest err": float(np.max(r.err))} for what, r in all_of_them]  # fmt: skip
        return docket.report({"exponents in width": exponents, "means over seeds": rows}, [
            "Noci et al. 2024, arXiv:2402.17457", "Yang, Simon and Bernstein 2023, arXiv:2310.17813",
            "Martin and Mahoney 2018, arXiv:1810.01075",
        ], seeds=seeds, lr=LR)  # fmt: skip


def spectra(kind: str, width: int, base: int, seeds: list[int], looks: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Of networks trained side by side, at each look, (look, seed, ...): action and stable rank of ΔW by matrix, spikes, sharpness."""
    world = wide_digits(width=width, lr=LR)
    models, rates = [world.build(s) for s in seeds], dict[str, float]()
    if kind == "mup":
        table = widening(models[0], wide_digits(width=base).build(seeds[0]))
        models, rates = [table.apply(m) for m in models], {r.name: r.lr for r in table.rows}
    f = StackedLoss(Snapshot(models[0], world.loss, world.batch(seeds[0], 0)))
    scale = torch.cat([torch.full((p.numel(),), rates.get(n, 1.0)) for n, p in f.values.items()])
    w = stacked(models)
    start, adam = w.clone(), StackedAdam(f, w, LR * scale)
    found: dict[str, list[Any]] = {"action": [], "stable rank": [], "spikes": [], "sharpness": [], "loss": []}
    for t in range(1, looks[-1] + 1):
        losses = adam.step(tuple(torch.stack(x) for x in zip(*(world.batch(s, t) for s in seeds), strict=True)))
        if t not in looks:
            continue
        point = adam.preconditioner() / scale / LR
        read: dict[str, list[Any]] = {name: [] for name in found}
        for s, own in enumerate(seeds):
            snap = _placed(f, w[s], _seen(world, own, t))
            change = update_spectrum(snap, start=f.split(start[s]), matrices=MATRICES)
            read["action"].append(change.value[:, 0])
            read["stable rank"].append(change.value[:, 1])
            read["spikes"].append(weight_spectrum(snap, matrices=[MATRICES[1]]).value[0, 2:])
            read["sharpness"].append(preconditioned_sharpness(snap, preconditioner=f.split(point[s]), tol=0.02).value)
            read["loss"].append(float(losses[s]))
        for name, values in read.items():
            found[name].append(np.array(values))
    return {name: np.stack(values) for name, values in found.items()}


def _seen(world: System, seed: int, step: int) -> tuple[Tensor, Tensor]:
    """The last batches: what no step has seen has pixels, and so parameters, whose P is nothing but epsilon."""
    drawn = [world.batch(seed, t) for t in range(max(step - LATEST, 0) + 1, step + 1)]
    return torch.cat([x for x, _ in drawn]), torch.cat([y for _, y in drawn])


def _placed(f: StackedLoss, row: Tensor, data: tuple[Tensor, Tensor]) -> Snapshot:
    """The shared model with one copy's parameters in it."""
    with torch.no_grad():
        for name, value in f.split(row).items():
            f.snap.model.get_parameter(name).copy_(value)
    return Snapshot(f.snap.model, f.snap.loss, data)


def exponent(widths: list[int] | tuple[int, ...], values: np.ndarray) -> Reading:
    """Slope in log₂ width of the mean over seeds of log₂ of values (width, seed, numbers), with its standard error over seeds."""
    x = np.log2(widths) - np.log2(widths).mean()
    slopes = np.einsum("w,ws...->s...", x, np.log2(values)) / (x @ x)
    n = len(slopes)
    return Reading(slopes.mean(0), np.maximum(slopes.std(0, ddof=1) / n**0.5, 1e-3), "exponent in width", {"seeds": n})


def _row(seen: dict[str, np.ndarray], looks: tuple[int, ...]) -> dict[str, Any]:
    last = {name: v[-1].mean(0) for name, v in seen.items()}
    row = {f"action of Δ{r}": float(v) for r, v in zip(ROLES, last["action"], strict=True)}
    row |= {"stable rank of Δhidden": float(last["stable rank"][1]), "largest / edge": float(last["spikes"][0]),
            "spikes": float(last["spikes"][1]), "training loss": float(last["loss"])}  # fmt: skip
    return row | {
        f"sharpness, step {t}": float(np.exp(np.log(v).mean())) for t, v in zip(looks, seen["sharpness"], strict=True)
    }
