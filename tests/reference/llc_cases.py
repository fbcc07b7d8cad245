"""Snapshots whose N E[K] is known at a finite temperature and whose learning coefficient is known in the limit.

`CASES` are what `llc` is held against; `case.snapshot()` builds one, `case.exact` is N E[K] at its N and γ with its own
error, from `exact_llc.json`. That file is written by `PYTHONPATH=tests python -m reference.llc_cases` (seed 0).
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from reference.exact_llc import (
    Mean,
    chain,
    linear_excess,
    linear_network,
    mala,
    polynomial,
    quadratic,
    tanh_excess,
    tanh_network,
    two_layers,
)

from strobe.core.prediction import Prediction
from strobe.core.snapshot import Snapshot
from strobe.laws.known_rlct import normal_crossing_rlct, sum_rlct, tanh_rlct, weighted_rlct
from strobe.laws.rlct_linear import deep_linear_rlct, linear_fibre_rlct, reduced_rank_rlct
from strobe.laws.rlct_regular import regular_rlct
from strobe.studies.known_minima import INPUTS, Linear, Polynomial, Tanh, factors_of, half_square

STORE = Path(__file__).with_name("exact_llc.json")
SWEEPS, DRAWS = 40_000, 1_000_000  # of `linear_network`, for errors of 0.02 to 0.2%; of `mala`


@dataclass(frozen=True)
class Case:
    """One target: how to build it, at what N and γ, what is known. `route(N, γ)` computes the exact value anew."""

    name: str
    kind: str
    snapshot: Callable[[], Snapshot]
    route: Callable[[float, float], Mean]
    law: Prediction
    multiplicity: int
    parameters: int
    nbeta: float = 1000.0
    gamma: float = 1.0
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def limit(self) -> float:
        """λ, for N → ∞."""
        return float(self.law.value)

    @property
    def exact(self) -> Mean:
        """N E[K] at this case's N and γ, and its error."""
        row = _stored()[self.name]
        return row["value"], row["err"]


@cache
def _stored() -> dict[str, Any]:
    return json.loads(STORE.read_text())["cases"]


def _both(law: Callable[..., Prediction], **knobs: Any) -> tuple[Prediction, int]:
    return law(**knobs), int(law(**knobs, of="multiplicity").value)


# ------------------------------------------------------------------------------------------- polynomials


def _poly(
    name: str, at: Sequence[float], excess: Callable[[Any], Any], said: tuple[Prediction, int], points: int = 401,
    blocks: Sequence[tuple[int, Callable[[Any], Any]]] = (), **place: float,
) -> Case:  # fmt: skip
    """`blocks`: (size, K) of disjoint variables, whose values add: a grid of all of them would be too large."""

    def route(nbeta: float, gamma: float) -> Mean:
        total, i = 0.0, 0
        for size, part in blocks or [(len(at), excess)]:
            total += polynomial(part, nbeta=nbeta, gamma=gamma, center=at[i : i + size], points=points)
            i += size
        return total, 0.0

    build = lambda: Snapshot(Polynomial(at, excess), lambda m, _: m(), None)  # noqa: E731
    return Case(name, "polynomial", build, route, *said, len(at), **place)


def _square(w: Any) -> Any:
    return sum(x * x for x in w)


def _polynomials() -> list[Case]:
    crossing = partial(_both, normal_crossing_rlct)
    weighted = partial(_both, weighted_rlct)
    xy = lambda w: (w[0] * w[1]) ** 2  # noqa: E731
    x4 = lambda w: w[0] ** 4  # noqa: E731
    return [
        _poly("w^2", [0.3], lambda w: (w[0] - 0.3) ** 2, _both(regular_rlct, directions=1), 8001, nbeta=145),
        _poly("w^4", [0], x4, crossing(exponents=[4])),
        _poly("w^6", [0], lambda w: w[0] ** 6, crossing(exponents=[6])),
        _poly("(w1 w2)^2, N=145", [0, 0], xy, crossing(exponents=[2, 2]), nbeta=145),
        _poly("(w1 w2)^2, N=145, gamma=100", [0, 0], xy, crossing(exponents=[2, 2]), nbeta=145, gamma=100),
        _poly("(w1 w2)^2, N=1e4", [0, 0], xy, crossing(exponents=[2, 2]), nbeta=1e4),
        _poly("(w1 w2)^2 at (1, 0)", [1, 0], xy, _both(regular_rlct, directions=1)),
        _poly("w1^2 w2^4", [0, 0], lambda w: w[0] ** 2 * w[1] ** 4, crossing(exponents=[2, 4])),
        _poly("(w1 w2 w3)^2", [0] * 3, lambda w: (w[0] * w[1] * w[2]) ** 2, crossing(exponents=[2] * 3), 161),
        _poly(
            "(w1 w2 w3 w4)^2", [0] * 4, lambda w: (w[0] * w[1] * w[2] * w[3]) ** 2, crossing(exponents=[2] * 4), 73
        ),
        _poly("(|w|^2)^2 in 2", [0, 0], lambda w: _square(w) ** 2, weighted(weights=[1 / 4] * 2)),
        _poly("(|w|^2)^2 in 4", [0] * 4, lambda w: _square(w) ** 2, weighted(weights=[1 / 4] * 4), 73),
        _poly("(|w|^2)^3 in 3", [0] * 3, lambda w: _square(w) ** 3, weighted(weights=[1 / 6] * 3), 161),
        _poly("w1^2 + w2^4", [0, 0], lambda w: w[0] ** 2 + w[1] ** 4, weighted(weights=[1 / 2, 1 / 4])),
        _poly(
            "(w1 w2)^2 + w3^4 + (w4 w5)^2", [0] * 5, lambda w: xy(w) + x4(w[2:]) + xy(w[3:]),
            _both(sum_rlct, parts=[0.5, 0.25, 0.5], multiplicities=[2, 1, 2]), blocks=[(2, xy), (1, x4), (2, xy)],
        ),
        _poly("cusp", [0, 0], _cusp, weighted(weights=[1 / 4, 1 / 6], vanishing=2), 6001),
        _poly("cusp at (1, 1)", [1, 1], _cusp, _both(regular_rlct, directions=1), 6001, gamma=10),
        _poly(
            "three lines", [0, 0], lambda w: (w[0] * w[1] * (w[0] - w[1])) ** 2,
            weighted(weights=[1 / 6] * 2, vanishing=2), 4001,
        ),
    ]  # fmt: skip


def _cusp(w: Any) -> Any:
    return (w[0] ** 2 - w[1] ** 3) ** 2


# --------------------------------------------------------------------------------------- linear networks


def _net(
    name: str, widths: Sequence[int], rank: int | None, said: tuple[Prediction, int], *, n: int = 0, noise: float = 0.0,
    layers: Sequence[int] | None = None, kind: str = "deep", **place: float,
) -> Case:  # fmt: skip
    """A linear network at factors of rank `rank` (None: full), on whitened inputs, or on `n` examples drawn once."""
    factors = factors_of(widths, max(widths) if rank is None else rank)
    rng = np.random.default_rng(7)
    x = rng.normal(size=(n, widths[0])) if n else np.sqrt(widths[0]) * np.eye(widths[0])
    rest = noise * rng.normal(size=(len(x), widths[-1]))
    y = x @ chain(factors).T + rest - x @ np.linalg.lstsq(x, rest, rcond=None)[0]  # w* is the least-squares fit
    root = np.linalg.cholesky(x.T @ x / len(x))
    options: dict[str, Any] = {} if layers is None else {"names": [f"w.{i - 1}" for i in layers]}

    def build() -> Snapshot:
        data = torch.tensor(x, dtype=torch.float32), torch.tensor(y, dtype=torch.float32)
        return Snapshot(Linear(factors), half_square, data)

    def route(nbeta: float, gamma: float) -> Mean:
        if len(factors) == 1 or len(layers or ()) == 1:
            i = layers[0] - 1 if layers else 0
            above, below = chain(factors[i + 1 :], widths[i + 1]), chain([root, *factors[:i]])
            spectra = [np.linalg.eigvalsh(m) for m in (above.T @ above, below @ below.T)]
            return quadratic(np.outer(*spectra).ravel().clip(0), nbeta=nbeta, gamma=gamma), 0.0
        if len(factors) == 2 and rank == 0 and min(widths[:2]) <= 6 and not n:
            return two_layers(widths, nbeta=nbeta, gamma=gamma), 0.0
        return linear_network(factors, nbeta=nbeta, gamma=gamma, inputs=root, sweeps=SWEEPS)

    size = sum(f.size for i, f in enumerate(factors) if layers is None or i + 1 in layers)
    return Case(name, kind, build, route, *said, size, options=options, **place)


def _reduced_rank() -> list[Case]:
    def at(widths: tuple[int, ...], rank: int, **place: float) -> Case:
        tail = "".join(f", {k}={v:g}" for k, v in place.items())
        said = _both(reduced_rank_rlct, widths=widths, rank=rank)
        return _net(f"rrr {'-'.join(map(str, widths))}, r={rank}{tail}", widths, rank, said, kind="rrr", **place)

    return [
        at((1, 1, 1), 0), at((2, 2, 2), 0, nbeta=145), at((2, 2, 2), 0, nbeta=1e4), at((3, 1, 3), 0), at((4, 2, 4), 0),
        at((5, 3, 5), 0), at((2, 5, 3), 0), at((6, 4, 2), 0, gamma=10), at((5, 5, 5), 0), at((10, 10, 10), 0),
        at((2, 2, 2), 1), at((5, 3, 5), 1), at((5, 3, 5), 2), at((4, 4, 3), 2, gamma=10), at((8, 6, 8), 3),
    ]  # fmt: skip


def _deep() -> list[Case]:
    def at(widths: tuple[int, ...], rank: int, **place: float) -> Case:
        tail = "".join(f", {k}={v:g}" for k, v in place.items())
        said = _both(deep_linear_rlct, widths=widths, rank=rank)
        return _net(f"deep {'-'.join(map(str, widths))}, r={rank}{tail}", widths, rank, said, **place)

    return [
        at((1, 1, 1, 1), 0), at((2, 2, 2, 2), 0), at((3, 3, 3, 3), 0), at((3, 3, 3, 3), 1), at((4, 6, 5, 3), 0),
        at((2, 3, 3, 2), 1), at((5, 4, 3, 4), 2), at((5, 5, 5, 5, 5), 0), at((10, 8, 6, 8, 10), 0),
        at((10, 8, 6, 8, 10), 1), at((10, 10, 10, 10), 3, gamma=10), at((20, 20, 20, 20), 0), at((20, 20, 20, 20), 5),
    ]  # fmt: skip


def _smooth() -> list[Case]:
    regular = partial(_both, regular_rlct)
    fibre = partial(_both, linear_fibre_rlct)
    spread = (2.0, 1.0, 0.1, 0.001)
    wide = (6, 4, 5, 3)

    def layers(*which: int) -> Case:
        name = "6-4-5-3, layers " + " ".join(map(str, which))
        return _net(name, wide, None, fibre(widths=wide, layers=which), layers=which, kind="smooth")

    return [
        _poly("spread quadratic", [0] * 4, lambda w: sum(h * x * x / 2 for h, x in zip(spread, w, strict=True)),
              regular(directions=4), nbeta=145, blocks=[(1, lambda w, h=h: h * w[0] ** 2 / 2) for h in spread]),
        _net("regression, 50 examples", (5, 1), None, regular(directions=5), n=50, noise=0.5, kind="smooth", nbeta=145),
        _net("regression of 3 outputs, 200 examples", (6, 3), None, regular(directions=18), n=200, noise=0.5, kind="smooth"),
        _net("hidden layer, 60 examples", (4, 6, 2), None, fibre(widths=(4, 6, 2)), n=60, noise=0.3, kind="smooth"),
        layers(1), layers(2), layers(3),
        _net("6-4-5-3", wide, None, fibre(widths=wide), kind="smooth"),
        _net("4-4-4-4 of full rank", (4, 4, 4, 4), None, fibre(widths=(4, 4, 4, 4)), kind="smooth", gamma=10),
    ]  # fmt: skip


# ------------------------------------------------------------------------------------------ tanh networks


def _tanh(hidden: int, **place: float) -> Case:
    def build() -> Snapshot:
        x = torch.tensor(INPUTS[:, None], dtype=torch.float32)
        return Snapshot(Tanh(hidden), half_square, (x, torch.zeros_like(x)))

    def route(nbeta: float, gamma: float) -> Mean:
        return tanh_network(hidden, INPUTS, nbeta=nbeta, gamma=gamma)

    tail = "".join(f", {k}={v:g}" for k, v in place.items())
    return Case(f"tanh 1-{hidden}-1{tail}", "tanh", build, route, *_both(tanh_rlct, hidden=hidden), 2 * hidden, **place)


CASES = [
    *_polynomials(), *_reduced_rank(), *_deep(), *_smooth(), *(_tanh(h) for h in (1, 2, 3, 4, 9)), _tanh(2, nbeta=1e4),
]  # fmt: skip
BY_NAME = {c.name: c for c in CASES}


LONG: dict[str, tuple[Any, float]] = {  # what one long chain of `mala` is run on as well, and with what step
    "deep 2-2-2-2, r=0": (linear_excess(factors_of((2, 2, 2, 2), 0)), 4e-4),
    "deep 3-3-3-3, r=1": (linear_excess(factors_of((3, 3, 3, 3), 1)), 2e-4),
    "6-4-5-3": (linear_excess(factors_of((6, 4, 5, 3), 6)), 2e-4),
    "rrr 5-3-5, r=1": (linear_excess(factors_of((5, 3, 5), 1)), 3e-4),
    "tanh 1-4-1": (tanh_excess(4, INPUTS), 1e-3),
}


def main(names: Sequence[str]) -> None:
    """Compute what is asked for (names, "missing", "mala"; by default all) and write it into the store."""
    kept = json.loads(STORE.read_text()) if names and STORE.exists() else {"mala": {}, "cases": {}}
    kept = {
        "command": "PYTHONPATH=tests python -m reference.llc_cases",
        "seed": 0,
        "sweeps": SWEEPS,
        "draws": DRAWS,
    } | kept
    for c in CASES:
        if not names or c.name in names or ("missing" in names and c.name not in kept["cases"]):
            value, err = c.route(c.nbeta, c.gamma)
            kept["cases"][c.name] = {"nbeta": c.nbeta, "gamma": c.gamma, "value": round(value, 6), "err": round(err, 6)}
            print(f"{c.name:40s} {value:10.5f} ± {err:.5f}", flush=True)
            _write(kept)
    for name, (problem, step) in LONG.items():
        if not names or "mala" in names:
            value, err = mala(*problem, nbeta=1000, gamma=1, step=step, draws=DRAWS)
            kept["mala"][name] = {"step": step, "value": round(value, 6), "err": round(err, 6)}
            print(f"{name:40s} {value:10.5f} ± {err:.5f}, mala", flush=True)
            _write(kept)


def _write(kept: dict[str, Any]) -> None:
    """One line a case, in the order of `CASES`."""
    kept["cases"] = {c.name: kept["cases"][c.name] for c in CASES if c.name in kept["cases"]}
    text = json.dumps(kept, indent=1)
    for group in ("cases", "mala"):
        for row in kept[group].values():
            text = text.replace(json.dumps(row, indent=1).replace("\n", "\n  "), json.dumps(row))
    STORE.write_text(text + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
