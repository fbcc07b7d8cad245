"""How unlike each other are random deep networks: plain ones, and ones with branches scaled down by the depth?"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strobe.core.cards import study
from strobe.core.prediction import Prediction
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.laws.depth_fluctuation import depth_fluctuation
from strobe.numerics.jackknife import jackknife
from strobe.studies.docket import Docket, Progress, sized
from strobe.studies.images import standardised
from strobe.studies.wide_networks import parity_digits

QUESTION = "Does the length of a signal differ between random networks as depth over width says, and do scaled branches bound it?"
SCALES: dict[
    str, dict[str, Any]
] = {  # plain networks drawn, and ones with branches; depths of branches scaled by 1/√depth
    "tiny": {"plain": 6000, "branches": 1000, "scaled": (2, 8)},
    "small": {"plain": 40_000, "branches": 4000, "scaled": (2, 8, 32)},
    "full": {"plain": 200_000, "branches": 20_000, "scaled": (2, 8, 32, 128)},
}
PLAIN = ((2, 32), (4, 64), (4, 32), (8, 64))  # depth and width, two of each ratio
UNSCALED = (2, 8)
WIDTH = 64  # of the branches: an input of 64 pixels is their stream
AT_ONCE, PARTS = 250, 40


@study(
    question="Does the length of a signal differ between random networks as depth over width says?",
    ref="arXiv:1812.05994",
)
def depth(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """The squared length of one digit's signal in thousands of random ReLU networks, against a formula without a fitted number.

    Sealed: its relative variance in plain networks, in ones whose branches are scaled by 1/√depth, and in ones whose branches are not.
    Nulls: width alone tells (one layer's value), plain layers for scaled branches, scaled branches for unscaled ones; each must fail.
    Recorded: a training on digits, for the strip. Cost: half a minute at "small". Raises `BadOption`.
    """
    size = sized(scale, SCALES)
    x, rows = standardised()[0][0], []
    cases: list[tuple[int, int, float | None, int]] = [(d, n, None, size["plain"]) for d, n in PLAIN]
    cases += [(d, WIDTH, d**-0.5, size["branches"]) for d in size["scaled"]]
    cases += [(d, WIDTH, 1.0, size["branches"]) for d in UNSCALED]
    deep = UNSCALED[-1]
    nulls: dict[tuple[int, int, float | None], tuple[Prediction, str]] = {
        (8, 64, None): (depth_fluctuation(widths=[64]), "width alone tells"),
        (deep, WIDTH, deep**-0.5): (depth_fluctuation(widths=[WIDTH] * deep), "plain layers"),
        (deep, WIDTH, 1.0): (
            depth_fluctuation(widths=[WIDTH] * deep, branch=deep**-0.5),
            "branches scaled by 1/√depth",
        ),
    }
    with Docket(parity_digits(width=32, alpha=1.0), out / "recorded", QUESTION, steps=50, seed=seed) as docket:
        for d, n, s, _ in cases:
            said = depth_fluctuation(widths=[n] * d, branch=s)
            docket.seal(f"{d} {n} {s}", said, f"relative variance of |h|², {named(d, n, s)}")
        for key, (said, text) in nulls.items():
            docket.seal(f"null {key}", said, f"the same, {named(*key)}: null, {text} (must fail)", law="", knobs={})
        for i, (d, n, s, nets) in enumerate(cases):
            q = lengths(x, depth=d, width=n, nets=nets, seed=1000 * seed + i, branch=s)
            read = spread(q)
            docket.judge(f"{d} {n} {s}", read)
            if (d, n, s) in nulls:
                docket.judge(f"null {(d, n, s)}", read)
            rows.append({"network": named(d, n, s), "networks": nets, "predicted": docket.sealed[f"{d} {n} {s}"].value,
                         "measured": read.value, "its error": read.err, "mean |h|² over the input's": float(q.mean())})  # fmt: skip
            if progress:
                progress("networks", i + 1, len(cases))
    return docket.report({"one digit's signal over random networks": rows}, [
        "Hanin and Rolnick 2018, arXiv:1803.01719", "Hanin and Nica 2018, arXiv:1812.05994", "Hanin and Nica 2019, arXiv:1909.05989",
    ])  # fmt: skip


def named(layers: int, width: int, branch: float | None) -> str:
    """What a network is, in words."""
    if branch is None:
        return f"{layers} plain layers of {width}"
    return f"{layers} blocks of {width}, branches × {branch:.3g}"


def spread(q: np.ndarray) -> Reading:
    """Var q / (E q)², and its error from forty parts."""
    parts = np.array([(p.mean(), np.square(p).mean()) for p in np.array_split(q, PARTS)])
    value, err = jackknife(parts, lambda m: m[1] / m[0] ** 2 - 1)
    return Reading(float(value), float(err), "relative", {"networks": len(q)})


def lengths(x: Tensor, *, depth: int, width: int, nets: int, seed: int, branch: float | None = None) -> np.ndarray:
    """Mean square of the last hidden signal over that of the input `x`, in `nets` random ReLU networks, many at once.

    Weights have variance 2 / fan-in; plain, or blocks h + branch · V relu(W h), V of variance 1 / fan-in on a stream of `width`.
    """
    g = torch.Generator().manual_seed(seed)

    def drawn(h: Tensor, out: int, variance: float) -> Tensor:
        w = torch.randn(len(h), out, h.shape[1], generator=g)
        return (variance / h.shape[1]) ** 0.5 * torch.bmm(w, h[:, :, None])[:, :, 0]

    found = []
    for start in range(0, nets, AT_ONCE):
        h = x.expand(min(AT_ONCE, nets - start), len(x))
        for _ in range(depth):
            up = drawn(h, width, 2.0).relu()
            h = up if branch is None else h + branch * drawn(up, width, 1.0)
        found.append((h.double().square().mean(1) / x.double().square().mean()).numpy())
    return np.concatenate(found)
