"""Is a wide linear network that starts above the edge thrown to a flatter place, and lost from four times on?"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from strobe.core.cards import study
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.core.system import System
from strobe.laws.catapult import catapult as law
from strobe.studies.docket import Docket, Progress, sized

QUESTION = "Is a wide linear network that starts above the edge thrown to a flatter place, and lost from four times on?"
SCALES = {"tiny": (400, 64), "small": (1000, 64), "full": (4000, 256)}  # width, starts
RATES = (1.0, 2.2, 2.8, 3.5, 3.9, 4.2)  # lr λ₀
STEPS, TARGET = 3000, 1.0
ACTIVATIONS = {"linear": lambda x: x, "relu": torch.relu}


class OneHidden(nn.Module):
    """f(x) = v·φ(u x) / √n for a single number x."""

    def __init__(self, width: int, seed: int) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.u, self.v = (nn.Parameter(torch.randn(width, generator=g)) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return (x[:, None] * self.u) @ self.v / len(self.u) ** 0.5


def one_example(*, width: int = 400, lr: float = 1.4) -> System:
    """One example, x = 1, y = 1, loss ½ (f − y)²; plain descent."""
    data = (torch.ones(1), torch.full((1,), TARGET))

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (model(batch[0]) - batch[1]).square().mean() / 2

    return System(
        "one_example", "strobe.studies.catapult:one_example", {"width": width, "lr": lr}, lambda seed: OneHidden(width, seed),
        lambda seed, step: data, loss, lambda seed: data, lambda m, rate: torch.optim.SGD(m.parameters(), lr=rate), lr,
    )  # fmt: skip


@study(question="Is a wide linear network from above the edge thrown to a flatter place?", ref="arXiv:2003.02218")
def catapult(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """Many starts side by side at lr λ₀ from 1 to 4.2: which converge, and where their kernel ends.

    λ₀ is read at each start, and its rate set from it. Sealed for each of the rates: the share that converges (1 below 4, 0 above);
    between 2 and 4, the largest last kernel is at most 2 / lr, and the null: gradient flow, which leaves the kernel where it was and so
    must fail; for a ReLU network at 4.2 the linear law, which must fail (its limit is another).
    Cost: a second at "tiny", some seconds at "small". Raises `BadOption`.
    """
    width, starts = sized(scale, SCALES)
    rows: list[dict[str, Any]] = []
    with Docket(one_example(width=min(width, 1000)), out / "recorded", QUESTION, steps=20, seed=seed) as docket:
        for size in RATES:
            docket.seal(
                f"{size} share", law(lr=size, kernel=1.0, of="converged"), f"share that converges at lr λ₀ = {size}"
            )
            if 2 < size < 4:
                end = law(lr=size, kernel=1.0)
                docket.seal(f"{size} end", end, f"largest last lr λ at lr λ₀ = {size}", value=2.0, tol=0.01)
                rival = {"value": size, "tol": 0.1 * size, "side": "both", "law": "", "knobs": {}}
                docket.seal(f"{size} flow", end, f"mean last lr λ at {size}: null, gradient flow (must fail)", **rival)
        docket.seal(
            "relu",
            law(lr=4.2, kernel=1.0, of="converged"),
            "share of ReLU networks at 4.2: rival, the linear law (must fail)",
        )
        for k, size in enumerate(RATES):
            done, last, peak = descend(width, starts, size, seed)
            docket.judge(f"{size} share", share(done))
            row = {"lr λ₀": size, "converged": int(done.sum()), "of": starts, "largest loss": float(np.median(peak)),
                   "last lr λ, mean": None, "largest": None}  # fmt: skip
            if 2 < size < 4:
                ends = size * last[done]  # in units of each start's λ₀
                largest = Reading(float(ends.max()) if len(ends) else None, 1e-3, "lr λ", {"starts": len(ends)})
                docket.judge(f"{size} end", largest, applies=len(ends) > 0, why="" if len(ends) else "none converged")
                mean = Reading(float(ends.mean()), float(ends.std(ddof=1) / len(ends) ** 0.5), "lr λ")
                docket.judge(f"{size} flow", mean)
                row |= {"last lr λ, mean": float(ends.mean()), "largest": float(ends.max())}
            rows.append(row)
            if progress:
                progress("rates", k + 1, len(RATES))
        done, _, _ = descend(width, starts, 4.2, seed, "relu")
        docket.judge("relu", share(done))
        rows.append({**dict.fromkeys(rows[0]), "lr λ₀": "4.2, ReLU", "converged": int(done.sum()), "of": starts})
        return docket.report({"starts side by side": rows}, ["Lewkowycz et al. 2020, arXiv:2003.02218"], width=width)


def share(done: np.ndarray) -> Reading:
    """The share of starts, with its binomial error (of one more of each, so that none is without error)."""
    p = float(done.mean())
    smooth = (done.sum() + 1) / (len(done) + 2)
    return Reading(p, float((smooth * (1 - smooth) / len(done)) ** 0.5), "share", {"starts": len(done)})


def descend(
    width: int, starts: int, size: float, seed: int, kind: str = "linear"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All starts at lr = size / λ₀ of each: which converge, their last λ / λ₀, and the largest loss on the way."""
    g = torch.Generator().manual_seed(seed)
    u, v = (torch.randn(starts, width, generator=g, dtype=torch.float64) for _ in range(2))
    act, root = ACTIVATIONS[kind], width**0.5

    def kernel() -> Tensor:
        on = (u > 0).double() if kind == "relu" else torch.ones_like(u)
        return (act(u).square() + (v * on).square()).sum(1) / width

    first = kernel()
    lr, peak = size / first, torch.zeros(starts, dtype=torch.float64)
    alive = torch.ones(starts, dtype=torch.bool)
    for _ in range(STEPS):
        h = act(u)
        miss = (h * v).sum(1) / root - TARGET
        peak = torch.maximum(peak, (miss.square() / 2).clamp_max(1e12))
        alive &= miss.abs() < 1e6
        push = torch.where(alive, lr * miss, 0.0)[:, None] / root
        on = (u > 0).double() if kind == "relu" else 1.0
        u, v = u - push * v * on, v - push * h
    done = alive & (((act(u) * v).sum(1) / root - TARGET).abs() < 1e-3)
    return done.numpy(), (kernel() / first).numpy(), peak.numpy()
