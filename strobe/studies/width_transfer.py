"""Does the best learning rate of a narrow network serve a wide one, once the network is parametrised for it?"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from strobe.core.cards import study
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.core.system import System
from strobe.edits.mup import widening
from strobe.laws.width_transfer import coordinate_slopes
from strobe.laws.width_transfer import width_transfer as law
from strobe.observables.width_scaling import best_learning_rate, coordinate_check
from strobe.studies.docket import Docket, Progress, sized
from strobe.studies.images import standardised

QUESTION = "Does the best learning rate of a narrow network serve a wide one, once it is parametrised for it?"
SCALES = {"tiny": ((16, 64), 30, 2), "small": ((32, 128, 512), 150, 6), "full": ((32, 128, 512, 2048), 150, 8)}
SPAN = 16  # of widths, from which the standard parametrisation is told apart
LAYERS, ROLES = ("0", "2", "4"), ("input", "hidden", "output")
KINDS = {"mup": "maximal update", "standard": "standard"}
CHECKED = (64, 128, 256, 512)  # widths of the coordinate check
TRAIN, BATCH = 1024, 64


def wide_digits(*, width: int = 128, lr: float = 3e-3) -> System:
    """Digits (64 pixels, 10 classes), two hidden ReLU layers of one width, Adam; the first 1024 are trained on."""
    x, y = standardised()

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10))

    def batch(seed: int, step: int) -> tuple[Tensor, Tensor]:
        at = torch.randint(TRAIN, (BATCH,), generator=torch.Generator().manual_seed(seed * 1_000_003 + step))
        return x[at], y[at]

    def loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(model(data[0]), data[1])

    return System(
        "wide_digits", "strobe.studies.width_transfer:wide_digits", {"width": width, "lr": lr}, build, batch, loss,
        lambda seed: (x[TRAIN:], y[TRAIN:]), lambda m, rate: torch.optim.Adam(m.parameters(), lr=rate), lr,
    )  # fmt: skip


@study(question="Does the best learning rate of a narrow network serve a wide one?", ref="arXiv:2203.03466")
def width_transfer(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """Digits at several widths, Adam at rates an octave apart, in the maximal update and in the standard parametrisation.

    Sealed: the best rate moves by at most half an octave in the one and by 1.5 at least in the other (where widths span a factor
    of 16); how the change of each layer's output goes with width, in both; and the null: the standard one judged by the claim of the
    other, which must fail. Cost: some seconds at "tiny", a minute at "small". Raises `BadOption`.
    """
    widths, steps, seeds = sized(scale, SCALES)
    few = scale == "tiny"
    base = widths[0]
    world = wide_digits(width=base)
    rates = [2.0**k for k in range(-12, -2 if few else -3)]
    starts = [seed * 1000 + k for k in range(seeds)]
    checked = widths if few else CHECKED
    kinds = list(KINDS) if widths[-1] >= SPAN * base else ["mup"]
    rows: list[dict[str, Any]] = []
    with Docket(world, out / "recorded", QUESTION, steps=60 if few else 200, seed=seed) as docket:
        for kind in kinds:
            docket.seal(kind, law(widths=widths, parametrisation=kind), f"octaves of the best lr: {KINDS[kind]}")
        if "standard" in kinds:
            null = "octaves of the best lr: null, the standard one by mup's claim (must fail)"
            docket.seal("null", law(widths=widths), null)
        for kind in KINDS:
            docket.seal(
                f"{kind} slopes",
                coordinate_slopes(roles=ROLES, parametrisation=kind),
                f"exponents of |Δh|: {KINDS[kind]}",
            )
        slopes = {}
        for kind in KINDS:
            slopes[kind] = coordinate_check(
                _start(kind, base, seed), world.loss, world.batch, widths=checked, modules=LAYERS, seeds=range(4)
            )
            docket.judge(f"{kind} slopes", slopes[kind])
        for k, kind in enumerate(kinds):
            found = []
            for j, width in enumerate(widths):
                build, table = _scaled(kind, width, base)
                found.append(best_learning_rate(build, world.loss, world.batch, rates=rates, seeds=starts, steps=steps,
                                                last=steps // 2, multipliers=table))  # fmt: skip
                rows.append({"parametrisation": KINDS[kind], "width": width, "log2 best lr": found[-1].value, "err": found[-1].err,
                             "lowest loss": found[-1].how["lowest"], "outside the sweep": bool(found[-1].how.get("flags"))})  # fmt: skip
                if progress:
                    progress("sweeps", k * len(widths) + j + 1, len(kinds) * len(widths))
            moved = octaves(found)
            inside = not any(f.how.get("flags") for f in found)
            docket.judge(kind, moved, applies=inside, why="" if inside else "a best rate lies outside the sweep")
            if kind == "standard":
                docket.judge("null", moved, applies=inside, why="" if inside else "a best rate lies outside the sweep")
        checks = [{"parametrisation": KINDS[kind], **{f"{r} layer": float(v) for r, v in zip(ROLES, slopes[kind].value, strict=True)},
                   "largest err": float(np.max(slopes[kind].err))} for kind in KINDS]  # fmt: skip
        table_rows = [{"parameter": r.name, "role": r.role, "initial values ×": r.scale, "lr ×": r.lr}
                      for r in widening(wide_digits(width=widths[-1]).build(0), wide_digits(width=base).build(0)).rows]  # fmt: skip
        return docket.report(
            {"best learning rates": rows, "exponent of |Δh| in width": checks, f"mup's table at {widths[-1]} from {base}": table_rows},
            ["Yang et al. 2022, arXiv:2203.03466"], steps=steps, seeds=seeds,
        )  # fmt: skip


def _scaled(kind: str, width: int, base: int) -> tuple[Any, dict[str, float]]:
    """build(seed), and the multipliers of the learning rates."""
    wide, narrow = wide_digits(width=width).build, wide_digits(width=base).build
    if kind == "standard":
        return wide, {}
    table = widening(wide(0), narrow(0))
    return lambda s: table.apply(wide(s)), {r.name: r.lr for r in table.rows}


def _start(kind: str, base: int, seed: int) -> Any:
    """build(width, seed) -> (model, optimizer) for the coordinate check."""

    def build(width: int, s: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = wide_digits(width=width).build(seed * 1000 + s)
        if kind == "standard":
            return model, torch.optim.Adam(model.parameters(), lr=1e-4)
        table = widening(model, wide_digits(width=base).build(0))
        return table.apply(model), torch.optim.Adam(table.groups(model, lr=1e-3))

    return build


def octaves(found: list[Reading]) -> Reading:
    """max − min of log₂ lr* over widths, with the errors of the two."""
    at = np.array([f.value for f in found])
    high, low = found[int(at.argmax())], found[int(at.argmin())]
    return Reading(float(at.max() - at.min()), float(np.hypot(high.err, low.err)), "octaves", {"log2 lr": at.tolist()})
