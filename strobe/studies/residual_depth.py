"""Does the best learning rate of a shallow residual network serve a deep one, and what do its branches do together?"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from strobe.core.cards import study
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.core.snapshot import Snapshot
from strobe.core.stacked import StackedLoss, stacked
from strobe.core.stacked_adam import StackedAdam
from strobe.core.system import System
from strobe.edits.mup import widening
from strobe.laws.residual_depth import coherence_slope, depth_slope, depth_transfer, residual_growth
from strobe.observables.branch_coherence import branch_coherence
from strobe.observables.width_scaling import best_learning_rate, coordinate_check
from strobe.studies.depth import lengths
from strobe.studies.docket import Docket, Progress, sized
from strobe.studies.images import standardised
from strobe.studies.width_spectra import exponent
from strobe.studies.width_transfer import TRAIN, octaves, wide_digits

QUESTION = "Does the best learning rate of a shallow residual network serve a deep one?"
SCALES: dict[str, dict[str, Any]] = {
    "tiny": {"depths": (2, 4, 8), "looked": (2, 4, 8), "swept": (1, 8), "tried": 12, "steps": 12, "seeds": 2,
             "drawn": (2, 8), "nets": 400},
    "small": {"depths": (4, 8, 16, 32), "looked": (4, 8, 16), "swept": (4, 32), "tried": 50, "steps": 100, "seeds": 6,
              "drawn": (4, 16, 64), "nets": 800},
    "full": {"depths": (4, 8, 16, 32, 64), "looked": (4, 8, 16, 32, 64), "swept": (4, 8, 16, 32, 64), "tried": 50, "steps": 150,
             "seeds": 12, "drawn": (4, 16, 64, 256), "nets": 4000},
}  # fmt: skip
WIDTH, STREAM = 32, 64  # of trained networks; of the random ones, whose input is the stream
RULES = {  # (branch, rate): powers of 1/depth
    "1/L": (1.0, 0.0), "1/√L, rates too": (0.5, 0.5), "1/√L alone": (0.5, 0.0), "none": (0.0, 0.0),
}  # fmt: skip
SWEPT = ("1/L", "1/√L, rates too", "none")
LR, CHECKED = 4e-3, 1e-4  # of the trainings whose branches are looked at; of the coordinate check


class Block(nn.Module):
    """h + down(relu(up(norm(h))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, h: Tensor) -> Tensor:
        return h + self.down(self.up(self.norm(h)).relu())


class Residual(nn.Module):
    """Pixels to ten classes: a linear map, blocks, a norm, a linear map. `added` is what the blocks add together."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Linear(64, width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.added, self.norm, self.out = nn.Identity(), nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        first = h = self.embed(x)
        for block in self.blocks:
            h = block(h)
        return self.out(self.norm(first + self.added(h - first)))


def residual_digits(*, depth: int = 4, width: int = WIDTH, lr: float = LR) -> System:
    """Digits (64 pixels, 10 classes), a pre-norm residual network of ReLU blocks, Adam; the first 1024 are trained on."""
    digits = wide_digits(lr=lr)

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return Residual(width, depth)

    return System(
        "residual_digits", "strobe.studies.residual_depth:residual_digits", {"depth": depth, "width": width, "lr": lr}, build,
        digits.batch, digits.loss, digits.probe, digits.optimizer, lr,
    )  # fmt: skip


@study(question="Does the best learning rate of a shallow residual network serve a deep one?", ref="arXiv:2505.01618")
def residual_depth(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """Residual networks of several depths whose branches are scaled by 1/L, by 1/√L or not at all: digits, Adam.

    Sealed: how long the stream of random ones is; how far a few steps move what the branches add, by depth; over how many octaves the best
    learning rate moves; and whether what branches learn adds up. Nulls: each scale by the formula of the other, networks without a
    rule by the claim of those with one, learned branches by that of random ones, 1/√L's by that of 1/L's; each must fail.
    Cost: some seconds at "tiny", two minutes at "small". Raises `BadOption`.
    """
    size = sized(scale, SCALES)
    depths, looked, swept, drawn = (size[k] for k in ("depths", "looked", "swept", "drawn"))
    growth = {"1/L": 1.0, "1/√L": 0.5}
    with Docket(residual_digits(depth=depths[0]), out / "recorded", QUESTION, steps=50, seed=seed) as docket:
        for text, power in growth.items():
            said = residual_growth(depths=drawn, branch=power)
            docket.seal(f"grows {text}", said, f"mean |h_L|² / |h_0|², branches × {text}, depths {drawn}")
            other = "1/√L" if text == "1/L" else "1/L"
            docket.seal(f"grows null {other}", said, f"the same of branches × {other}: null, by the formula of {text} (must fail)",
                        law="", knobs={})  # fmt: skip
        for rule, (branch, rate) in RULES.items():
            docket.seal(
                f"moves {rule}",
                depth_slope(depths=depths, branch=branch, rate=rate),
                f"exponent of |ΔΣb| in depth: {rule}",
            )
        for rule in ("1/√L alone", "none"):
            still = depth_slope(depths=depths, branch=1.0, rate=0.0)
            docket.seal(f"moves null {rule}", still, f"the same, {rule}: null, by the claim of 1/L (must fail)",
                        law="", knobs={})  # fmt: skip
        for rule in SWEPT:
            branch, rate = RULES[rule]
            said = depth_transfer(depths=swept, branch=branch, rate=rate)
            docket.seal(f"transfers {rule}", said, f"octaves of the best lr over depths {swept}: {rule}")
        stays = depth_transfer(depths=swept, branch=1.0, rate=0.0)
        docket.seal("transfers null", stays, "the same, none: null, by the claim of 1/L (must fail)", law="", knobs={})
        walks, adds = coherence_slope(depths=looked, of="start"), coherence_slope(depths=looked)
        docket.seal("walk", walks, "exponent in depth of |Σb|² / Σ|b|², at the start")
        docket.seal("overlap", adds, "exponent in depth of the overlap of branches, learned: 1/L")
        for key, said, text in (("walk null", walks, "|Σb|² / Σ|b|², learned: 1/L, null, by the claim of random ones"),
                                ("overlap null", adds, "the overlap of branches, learned: 1/√L, null, by the claim of 1/L")):  # fmt: skip
            docket.seal(key, said, f"exponent in depth of {text} (must fail)", law="", knobs={})
        tables = {
            "stream of random networks": _grow(docket, growth, drawn, size["nets"], seed),
            "a few steps": _move(docket, depths, seed),
            "branches": _add(docket, looked, size["steps"], max(size["seeds"] // 2, 2), seed),
            "best learning rates": _sweep(docket, size, seed, progress),
        }
        return docket.report(tables, [
            "Dey et al. 2025, arXiv:2505.01618", "Yang et al. 2023, arXiv:2310.02244", "Bordelon et al. 2023, arXiv:2309.16620",
        ], seeds=size["seeds"], width=WIDTH)  # fmt: skip


def ruled(rule: str, depth: int, base: int) -> tuple[Callable[[int], nn.Module], dict[str, float]]:
    """build(seed) with branches scaled by the rule from the base's depth on, and the multipliers of the learning rates."""
    build = residual_digits(depth=depth).build
    branch, rate = RULES[rule]
    more = depth / base
    if branch == 0 or more == 1:
        return build, {}
    roles = {
        "blocks.*.up.weight": "hidden",
        "blocks.*.down.weight": "hidden",
        "blocks.*.bias": "vector",
        "blocks.*.norm.*": "vector",
    }
    table = widening(
        build(0), build(0), branches=["blocks.*.down.weight"], depth=more, depth_exponent=branch, roles=roles
    )
    undone = more ** (1 - branch - rate)  # the table's own rate is 1 − branch
    rates = {r.name: r.lr * (undone if r.name.startswith("blocks.") else 1.0) for r in table.rows}
    return lambda s: table.apply(build(s)), rates


def _grow(docket: Docket, growth: dict[str, float], depths: tuple[int, ...], nets: int, seed: int) -> list[dict[str, Any]]:  # fmt: skip
    x, rows = standardised()[0][0], []
    for i, (text, power) in enumerate(growth.items()):
        draws = [
            lengths(x, depth=d, width=STREAM, nets=nets, seed=10_000 * seed + 100 * i + d, branch=d**-power)
            for d in depths
        ]
        read = Reading(np.array([q.mean() for q in draws]), np.array([q.std(ddof=1) / nets**0.5 for q in draws]), "")
        docket.judge(f"grows {text}", read)
        docket.judge(f"grows null {text}", read)
        rows += [{"branches ×": text, "depth": d, "mean |h_L|² / |h_0|²": float(v), "err": float(e), "predicted": float(p)}
                 for d, v, e, p in zip(depths, read.value, read.err, docket.sealed[f"grows {text}"].value, strict=True)]  # fmt: skip
    return rows


def _move(docket: Docket, depths: tuple[int, ...], seed: int) -> list[dict[str, Any]]:
    world, rows = residual_digits(), []
    for rule in RULES:

        def start(depth: int, s: int, rule: str = rule) -> tuple[nn.Module, torch.optim.Optimizer]:
            build, rates = ruled(rule, depth, depths[0])
            model = build(1000 * seed + s)
            groups = [{"params": [p], "lr": CHECKED * rates.get(n, 1.0)} for n, p in model.named_parameters()]
            return model, torch.optim.Adam(groups)

        read = coordinate_check(start, world.loss, world.batch, widths=depths, modules=["added"], seeds=range(4))
        one = _one(read)
        docket.judge(f"moves {rule}", one)
        if f"moves null {rule}" in docket.sealed:
            docket.judge(f"moves null {rule}", one)
        rows.append(
            {
                "rule": rule,
                "exponent of |ΔΣb|": one.value,
                "err": one.err,
                "predicted": docket.sealed[f"moves {rule}"].value,
            }
        )
    return rows


def _add(docket: Docket, depths: tuple[int, ...], steps: int, seeds: int, seed: int) -> list[dict[str, Any]]:
    rows = []
    x, y = standardised()
    for rule in SWEPT[:2]:
        before, after = [], []
        for depth in depths:
            build, rates = ruled(rule, depth, depths[0])
            models = [build(1000 * seed + s) for s in range(seeds)]
            world = residual_digits(depth=depth)
            f = StackedLoss(Snapshot(models[0], world.loss, (x[:TRAIN], y[:TRAIN])))
            scale = torch.cat([torch.full((p.numel(),), rates.get(n, 1.0)) for n, p in f.values.items()])
            w = stacked(models)
            first, adam = w.clone(), StackedAdam(f, w, LR * scale)
            for t in range(steps):
                drawn = [world.batch(1000 * seed + s, t) for s in range(seeds)]
                losses = adam.step(tuple(torch.stack(d) for d in zip(*drawn, strict=True)))
            sites = [f"blocks.{i}.down" for i in range(depth)]
            found: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
            for s in range(seeds):
                untrained = f.split(first[s])
                for into, start in ((found[0], None), (found[1], untrained)):
                    with torch.no_grad():
                        for name, value in f.split(first[s] if start is None else w[s]).items():
                            f.snap.model.get_parameter(name).copy_(value)
                    into.append(branch_coherence(f.snap, branches=sites, start=start).value)
            before.append(np.array(found[0]))
            after.append(np.array(found[1]))
            rows.append({"rule": rule, "depth": depth, "coherence at the start": float(before[-1][:, 0].mean()),
                         "learned": float(after[-1][:, 0].mean()),

                         "overlap": float((after[-1][:, 0].mean() - 1) / (depth - 1)),
                         "cosine of successive ones, start": float(before[-1][:, 1].mean()),
                         "cosine, learned": float(after[-1][:, 1].mean()), "learned together": float(after[-1][:, 2].mean()),
                         "training loss": float(losses.mean())})  # fmt: skip
        random, learned = (np.stack(v)[:, :, :1] for v in (before, after))  # (depth, seed, 1)
        pairs = (learned - 1) / (np.array(depths)[:, None, None] - 1)
        if rule == "1/L":
            docket.judge("walk", _one(exponent(depths, random)))
            docket.judge("walk null", _one(exponent(depths, learned)))
        docket.judge("overlap" if rule == "1/L" else "overlap null", _one(exponent(depths, np.maximum(pairs, 1e-3))))
    return rows


def _one(read: Reading) -> Reading:
    return Reading(float(read.value[0]), float(read.err[0]), "exponent in depth", read.how)


def _sweep(docket: Docket, size: dict[str, Any], seed: int, progress: Progress | None) -> list[dict[str, Any]]:
    depths, steps, rows = size["swept"], size["tried"], []
    starts = [1000 * seed + s for s in range(size["seeds"])]
    rates = [2.0**k for k in range(-10 if steps > 20 else -9, -2)]
    world = residual_digits()
    first: Reading | None = None  # at the base depth all rules give one network
    for k, rule in enumerate(SWEPT):
        found = []
        for j, depth in enumerate(depths):
            build, table = ruled(rule, depth, depths[0])
            if first is None or j:
                read = best_learning_rate(
                    build,
                    world.loss,
                    world.batch,
                    rates=rates,
                    seeds=starts,
                    steps=steps,
                    last=steps // 2,
                    multipliers=table,
                )
            else:
                read = first
            first = first or read
            found.append(read)
            rows.append({"rule": rule, "depth": depth, "log2 best lr": read.value, "err": read.err,
                         "lowest loss": read.how["lowest"], "outside the sweep": bool(read.how.get("flags"))})  # fmt: skip
            if progress:
                progress("sweeps", k * len(depths) + j + 1, len(SWEPT) * len(depths))
        moved = octaves(found)
        inside = not any(r.how.get("flags") for r in found)
        for key in (f"transfers {rule}", *(["transfers null"] if rule == "none" else [])):
            docket.judge(key, moved, applies=inside, why="" if inside else "a best rate lies outside the sweep")
    return rows
