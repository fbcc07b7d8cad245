"""Which probe for which concept: recursive feature machines gain where no line can see it, and not where a line is enough."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strobe.core.cards import study
from strobe.core.prediction import Prediction
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.features.methods import METHODS, Shelf
from strobe.numerics.auc import auc
from strobe.numerics.rfm import Span
from strobe.studies.docket import Docket, Progress, sized
from strobe.systems.digits import digits

QUESTION = "Which probe for which concept: when does a recursive feature machine gain over a line, and when not?"
SCALES = {"tiny": (200, 96, 2), "small": (500, 512, 5), "full": (1000, 1024, 10)}  # examples, dimension, seeds
BENT, LINES = ("even", "xor", "ring"), ("shift", "threshold")
FRESH = 2000


@study(question="When does a recursive feature machine gain over a line, and when not?", ref="arXiv:2502.03708")
def concept_methods(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """Concepts planted in rows with the spectrum of a residual stream; settings chosen on held-out rows, judged on fresh ones.

    even: |p₁| above its median; xor: p₁ p₂ > 0; ring: p₁² + p₂² above 2 ln 2, p in deviations: no line sees them. shift: two means
    0.5 apart (in mean lengths of a row); threshold: p₅ + p₃₀ and noise of 0.3 of its deviation above 0. Sealed: where no line sees it,
    RFM gains at least 0.4 of area over logistic regression and its first directions hold 0.9 of the plane; where one does, logistic
    regression is at most 0.01 behind. Null: the gain with shuffled labels, which must fail.
    Err: over seeds (rows and labels drawn anew). Cost: half a minute at "small". Raises `BadOption`.
    """
    n, d, seeds = sized(scale, SCALES)
    rows: list[dict[str, Any]] = []
    with Docket(digits(flipped=0.0), out / "recorded", QUESTION, steps=100, seed=seed) as docket:
        for kind in BENT:
            docket.seal(f"{kind} gain", _above(f"area of RFM − logistic, {kind}", 0.4))
            docket.seal(f"{kind} plane", _above(f"share of the plane that RFM's directions hold, {kind}", 0.9))
        for kind in LINES:
            docket.seal(f"{kind} behind", _above(f"area of logistic − RFM, {kind}", -0.01))
        docket.seal("null", _above("area of RFM − logistic, even, null: shuffled labels (must fail)", 0.4))
        kinds = (*BENT, *LINES, "shuffled")
        for i, kind in enumerate(kinds):
            got = [_once(kind, n, d, 100 * seed + s) for s in range(seeds)]
            mean = {k: float(np.mean([g[k] for g in got])) for k in got[0]}
            rows.append({"concept": kind} | mean)
            if kind in BENT:
                docket.judge(f"{kind} gain", _spread([g["rfm"] - g["logistic"] for g in got]))
                docket.judge(f"{kind} plane", _spread([g["plane, rfm"] for g in got]))
            elif kind in LINES:
                docket.judge(f"{kind} behind", _spread([g["logistic"] - g["rfm"] for g in got]))
            else:
                docket.judge("null", _spread([g["rfm"] - g["logistic"] for g in got]))
            if progress:
                progress("concepts", i + 1, len(kinds))
    return docket.report({"area on fresh rows": rows}, ["Beaglehole et al. 2025, arXiv:2502.03708"])


def _above(of: str, value: float) -> Prediction:
    return Prediction(of, value, 0.0, side="above", ref="arXiv:2502.03708")


def _spread(values: list[float]) -> Reading:
    return Reading(
        float(np.mean(values)), float(np.std(values, ddof=1) / len(values) ** 0.5), "", {"seeds": len(values)}
    )


def planted(kind: str, n: int, d: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """(rows (n, d) of mean length about 1, labels 1 or −1, the directions (d, r) that the concept lies in)."""
    k = min(d, 256)
    basis = torch.linalg.qr(torch.randn(d, k, generator=torch.Generator().manual_seed(10_000 + d)))[0]
    gen = torch.Generator().manual_seed(seed)
    s = torch.arange(1, k + 1) ** -0.5
    s = s / s.norm()
    p = torch.randn(n, k, generator=gen)
    X = (p * s) @ basis.T + 0.05 * torch.randn(n, d, generator=gen) / d**0.5
    coin = torch.where(torch.rand(n, generator=gen) > 0.5, 1.0, -1.0)
    if kind == "shift":
        return X + 0.25 * coin[:, None] * basis[:, 20], coin, basis[:, 20:21]
    if kind == "threshold":
        u = s[5] * basis[:, 5] + s[30] * basis[:, 30]
        along = (s[5] * p[:, 5] + s[30] * p[:, 30]) / (s[5] ** 2 + s[30] ** 2) ** 0.5
        return X, torch.where(along + 0.3 * torch.randn(n, generator=gen) > 0, 1.0, -1.0), (u / u.norm())[:, None]
    if kind == "xor":
        return X, torch.where(p[:, 1] * p[:, 2] > 0, 1.0, -1.0), basis[:, 1:3]
    if kind == "ring":
        return X, torch.where(p[:, 1] ** 2 + p[:, 2] ** 2 > 2 * np.log(2), 1.0, -1.0), basis[:, 1:3]
    y = torch.where(p[:, 1].abs() > 0.6745, 1.0, -1.0)
    return X, y if kind == "even" else y[torch.randperm(n, generator=gen)], basis[:, 1:2]


def _once(kind: str, n: int, d: int, seed: int) -> dict[str, float]:
    X, y, plane = planted(kind, n + n // 4 + FRESH, d, seed)
    held = n + n // 4
    shelf = Shelf(Span.of(X[:held]), y[:held])
    train, ask = torch.arange(n), torch.arange(n, held)
    fresh, outside = shelf.span.project(X[held:])
    found: dict[str, float] = {}
    for name, method in METHODS.items():
        tried = list(method.tried(shelf, train, ask))
        marks = [auc(s, y[ask].numpy() > 0)[0] for _, s in tried]
        got = method.fitted(shelf, train, tried[int(np.argmax(marks))][0])
        score = got.machine.predict(fresh, outside)[0] if got.machine is not None else fresh @ got.directions[0]
        found[name] = auc(score.numpy(), y[held:].numpy() > 0)[0]
        if name in ("rfm", "logistic"):
            V = torch.linalg.qr(shelf.span.lift(got.directions[: plane.shape[1]]).T)[0]
            found[f"plane, {name}"] = float((V.T @ plane).square().sum() / plane.shape[1])
    return found
