"""Is what a convolutional denoiser of digits puts out the posterior mean over patches of its training images?"""

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
from strobe.core.system import System
from strobe.laws.local_denoiser import local_denoiser
from strobe.numerics.local_score import local_denoise
from strobe.observables.local_score import agreement, local_score_match, receptive_field
from strobe.studies.docket import Docket, Progress, sized
from strobe.studies.images import drawn

QUESTION = "Is what a convolutional denoiser puts out the posterior mean over patches of its training images?"
SCALES = {
    "tiny": (16, 200, 3, 8),
    "small": (32, 2500, 10, 64),
    "full": (64, 20_000, 20, 256),
}  # width, steps, levels, held images
TRAIN, SIDE, BATCH, PATCHES = 1400, 8, 64, (1, 3, 5)
Batch = tuple[Tensor, Tensor, Tensor]  # noisy, level, clean


class Denoiser(nn.Module):
    """(noisy (m, 1, 8, 8), level (m,)) -> the clean image; a map of the level beside the pixels, variance-kept ends."""

    def __init__(self, kind: str, width: int, signals: Tensor) -> None:
        super().__init__()
        self.register_buffer("signals", signals)
        w, flat = width, 8 * width
        self.net = nn.Sequential(
            nn.Conv2d(2, w, 3, padding=1), nn.ReLU(), nn.Conv2d(w, w, 1), nn.ReLU(),
            nn.Conv2d(w, w, 3, padding=1), nn.ReLU(), nn.Conv2d(w, w, 1), nn.ReLU(), nn.Conv2d(w, 1, 1),
        ) if kind == "convolutions" else nn.Sequential(
            nn.Flatten(), nn.Linear(2 * SIDE**2, flat), nn.ReLU(), nn.Linear(flat, flat), nn.ReLU(), nn.Linear(flat, SIDE**2),
            nn.Unflatten(1, (1, SIDE, SIDE)),
        )  # fmt: skip

    def forward(self, noisy: Tensor, level: Tensor) -> Tensor:
        a = self.get_buffer("signals")[level][:, None, None, None]
        noise = (1 - a**2) / a**2  # its variance in units of the clean pixels', which is 1
        seen = torch.cat([noisy, (noise.log() / 4 + 1.5).expand_as(noisy)], 1)
        return noisy / a / (1 + noise) + (noise / (1 + noise)).sqrt() * self.net(seen)


def denoising(
    *, kind: str = "convolutions", width: int = 32, levels: int = 10, steps: int = 2500, lr: float = 4e-3
) -> System:
    """Digits under Gaussian noise at `levels` strengths, by squared error over 1 − a²; Adam on one cycle of lr."""
    x = drawn()[0][:TRAIN, None]
    signals = torch.cos(torch.linspace(0.08, 0.85, levels) * torch.pi / 2)

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return Denoiser(kind, width, signals)

    def batch(seed: int, step: int) -> Batch:
        g = torch.Generator().manual_seed(seed * 1_000_003 + step)
        clean, level = x[torch.randint(TRAIN, (BATCH,), generator=g)], torch.randint(levels, (BATCH,), generator=g)
        return *_noised(clean, level, signals, g), clean

    def loss(model: nn.Module, data: Batch) -> Tensor:
        noisy, level, clean = data
        return ((model(noisy, level) - clean).square().flatten(1).mean(1) / (1 - signals[level] ** 2)).mean()

    return System(
        "denoising", "strobe.studies.diffusion:denoising", {"kind": kind, "width": width, "levels": levels, "steps": steps, "lr": lr},
        build, batch, loss, lambda seed: batch(seed, -1 - seed),
        lambda m, rate: torch.optim.Adam(m.parameters(), lr=rate, betas=(0.9, 0.99)), lr,
        facts={"signals": signals, "images": x},
    )  # fmt: skip


@study(
    question="Is a convolutional denoiser the posterior mean over patches of its training images?",
    ref="arXiv:2412.20292",
)
def diffusion(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """A network of convolutions alone (receptive field 5) and a perceptron denoise digits of 8 x 8; the local score machine predicts them.

    The patch size is fitted at each noise level on noisy digits of their own, then sealed; judged are other held-out digits under other
    noise: r² of the output at every level, and of the images that both make from one noise by the same sampler. The nulls, which must
    fail: the ideal machine (memory of whole images), the local machine whose patches keep their places, a machine that says the mean
    image, and the law itself on the perceptron, whose patch sizes are fitted in the same way. Receptive fields are measured first.
    Cost: ten seconds at "tiny", 90 s at "small". Raises `BadOption`.
    """
    width, steps, levels, held = sized(scale, SCALES)
    world = denoising(width=width, levels=levels, steps=steps)
    rivals = {"ideal": (2 * SIDE - 1, True), "fixed": (None, False)}
    with Docket(world, out / "recorded", QUESTION, steps=min(steps // 5, 200), seed=seed) as docket:
        nets = {
            k: _trained(denoising(kind=k, width=width, levels=levels, steps=steps), seed, progress)
            for k in ("convolutions", "perceptron")
        }
        data, signals = world.facts["images"], world.facts["signals"].tolist()
        g = torch.Generator().manual_seed(77_000 + seed)
        digits = drawn()[0][TRAIN:, None]
        digits = digits[torch.randperm(len(digits), generator=g)]
        fit_on, judge_on = digits[: held // 2], digits[held // 2 : held // 2 + held]
        fields, sizes = {}, {}
        for kind, net in nets.items():
            looks = [_at(net, fit_on, k, world, 500 + seed) for k in range(levels)]
            fields[kind] = receptive_field(looks[levels // 2])
            fits = [
                {
                    p: local_score_match(s, data=data, patch=p, signal=a).value
                    for p in PATCHES
                    if p <= fields[kind].value
                }
                for s, a in zip(looks, signals, strict=True)
            ]
            sizes[kind] = [max(f, key=lambda p: f[p]) for f in fits]
        receptive = int(fields["convolutions"].value)
        defect = fields["convolutions"].how["equivariance"]
        local = receptive < SIDE and defect is not None and defect < 1e-3
        said = {k: local_denoiser(patches=s, receptive=int(fields[k].value), image=SIDE) for k, s in sizes.items()}
        made = local_denoiser(patches=sizes["convolutions"], receptive=receptive, image=SIDE, of="images")
        docket.seal("law", said["convolutions"], f"r² of the local machine, convolutions, {levels} noise levels")
        docket.seal("made", made, "r² of images made from one noise, convolutions")
        names = {
            "ideal": "the ideal machine",
            "fixed": "the local machine, places not shared",
            "mean": "the mean image",
        }
        for key, text in names.items():
            docket.seal(key, said["convolutions"], f"r² of {text}, null (must fail)", law="", knobs={})
            docket.seal(f"made {key}", made, f"r² of images made, {text}, null (must fail)", law="", knobs={})
        docket.seal(
            "perceptron",
            said["perceptron"],
            "r² of the local machine, a perceptron, null (must fail)",
            law="",
            knobs={},
        )
        rows, seen = _levels(nets, sizes, rivals, judge_on, world, seed)
        for key, reads in seen.items():
            value, err = (np.array([getattr(r, f) for r in reads]) for f in ("value", "err"))
            _judge(docket, key, Reading(value, err, "r²"), local or key != "law")
        made_rows = []
        for key, read in _sampled(nets["convolutions"], sizes["convolutions"], world, 2 * held, g).items():
            _judge(docket, "made" if key == "law" else f"made {key}", read, local or key != "law")
            made_rows.append({"machine": names.get(key, "the local machine, places shared"), **_row(read)})
        fields_rows = [
            {"network": k, "receptive field": int(f.value), "image": SIDE, "place defect": f.how["equivariance"]}
            for k, f in fields.items()
        ]
        tables = {"receptive fields": fields_rows} | {f"outputs by noise level, {k}": v for k, v in rows.items()}
        return docket.report(
            tables | {"images made from one noise, convolutions": made_rows},
            ["Kamb and Ganguli 2025, arXiv:2412.20292, PMLR 267"], held=held, train=TRAIN,
        )  # fmt: skip


def _judge(docket: Docket, key: str, read: Reading, applies: bool) -> None:
    docket.judge(
        key,
        read,
        applies=applies,
        why="" if applies else "the network is not local, or its rule changes with the place",
    )


def _row(read: Reading) -> dict[str, Any]:
    low, high = read.how["quartiles"]
    return {
        "r²": read.value,
        "err": read.err,
        "quartiles": f"{low:.2f} to {high:.2f}",
        "beyond the mean": read.how["beyond"],
    }


def _sampled(net: nn.Module, sizes: list[int], world: System, count: int, g: torch.Generator) -> dict[str, Reading]:
    """r² between the images that the network and each machine make of the same noise."""
    data, signals = world.facts["images"], world.facts["signals"].tolist()
    start = torch.randn((count, 1, SIDE, SIDE), generator=g)
    images = _made(lambda y, k: net(y, torch.full((len(y),), k)), start, signals)
    machines = {"law": (sizes, True), "ideal": ([2 * SIDE - 1] * len(sizes), True), "fixed": (sizes, False)}
    found = {}
    for key, (patch, shared) in machines.items():

        def machine(y: Tensor, k: int, patch: list[int] = patch, shared: bool = shared) -> Tensor:
            return local_denoise(y, data, patch=patch[k], signal=signals[k], shared=shared)

        found[key] = agreement(images, _made(machine, start, signals), data.mean(0))
    return found | {"mean": agreement(images, data.mean(0).expand_as(images), data.mean(0))}


def _levels(
    nets: dict[str, nn.Module], sizes: dict[str, list[int]], rivals: dict[str, tuple[int | None, bool]], images: Tensor, world: System,
    seed: int,
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, list[Reading]]]:  # fmt: skip
    """Tables of both networks, and readings of each sealed key, level by level."""
    data, signals = world.facts["images"], world.facts["signals"].tolist()
    rows: dict[str, list[dict[str, Any]]] = {k: [] for k in nets}
    seen: dict[str, list[Reading]] = {"law": [], "ideal": [], "fixed": [], "mean": [], "perceptron": []}
    for k, a in enumerate(signals):
        for kind, net in nets.items():
            look, own = _at(net, images, k, world, 900 + seed), sizes[kind][k]
            with torch.no_grad():
                said = net(*look.data)
            read = {"law": local_score_match(look, data=data, patch=own, signal=a)}
            for key, (patch, shared) in rivals.items():
                read[key] = local_score_match(look, data=data, patch=patch or own, signal=a, shared=shared)
            read["mean"] = agreement(said, data.mean(0).expand_as(said), data.mean(0))
            if kind == "convolutions":
                for key, r in read.items():
                    seen[key].append(r)
            else:
                seen["perceptron"].append(read["law"])
            row = {"signal a": a, "patch": own, **_row(read["law"]), "ideal": read["ideal"].value}
            row |= {"places not shared": read["fixed"].value, "mean image": read["mean"].value}
            rows[kind].append(row | {"ideal beyond the mean": read["ideal"].how["beyond"]})
    return rows, seen


def _trained(world: System, seed: int, progress: Progress | None) -> nn.Module:
    model, steps = world.build(seed), world.knobs["steps"]
    optimizer = world.optimizer(model, world.lr)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, world.lr, steps)
    for t in range(steps):
        optimizer.zero_grad()
        world.loss(model, world.batch(seed, t)).backward()
        optimizer.step()
        cycle.step()
        if progress and t % 100 == 0:
            progress(world.knobs["kind"], t, steps)
    return model.eval()


def _noised(clean: Tensor, level: Tensor, signals: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    a = signals[level][:, None, None, None]
    return a * clean + (1 - a**2).sqrt() * torch.randn(clean.shape, generator=g), level


def _at(net: nn.Module, clean: Tensor, level: int, world: System, seed: int) -> Snapshot:
    """The network and noisy images of one level."""
    g = torch.Generator().manual_seed(1000 * seed + level)
    return Snapshot(net, world.loss, _noised(clean, torch.full((len(clean),), level), world.facts["signals"], g))


def _made(denoise: Callable[[Tensor, int], Tensor], noisy: Tensor, signals: list[float]) -> Tensor:
    """The images that a denoiser makes of pure noise, by the deterministic sampler (arXiv:2010.02502, equation 12, η = 0)."""
    y = noisy
    with torch.no_grad():
        for k in reversed(range(len(signals))):
            a, clean = signals[k], denoise(y, k)
            if k:
                noise, b = (y - a * clean) / (1 - a**2) ** 0.5, signals[k - 1]
                y = b * clean + (1 - b**2) ** 0.5 * noise
    return clean
