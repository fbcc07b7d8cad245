"""Do the covariance of data, or two exponents, say alone how a kernel learns?"""

from pathlib import Path
from typing import Any

import numpy as np

from strobe.core.cards import study
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.laws.hermite_curve import hermite_curve, hermite_regime
from strobe.laws.source_capacity import LEAST, source_capacity
from strobe.observables.kernel_alignment import kernel_alignment
from strobe.studies.docket import Docket, Progress, sized
from strobe.studies.kernel_curves import PANELS, curve_of, gauss
from strobe.studies.wide_networks import parity_digits

QUESTION = "Do the covariance of the data, or the exponents of spectrum and target, say alone how a kernel learns?"
SCALES: dict[str, dict[str, Any]] = {
    "tiny": {"hermite": 10, "most": 100, "sets": 2, "modes": 800},
    "small": {"hermite": 200, "most": 800, "sets": 16, "modes": 4000},
    "full": {"hermite": 400, "most": 1600, "sets": 16, "modes": 12000},
}
HERMITE: dict[str, dict[str, Any]] = {
    "30 axes, noise": {"axes": 30, "decay": 1.0, "width": 4.0, "noise": 0.1},
    "60 axes, noise": {"axes": 60, "decay": 0.7, "width": 3.0, "noise": 0.1},
    "60 axes, no noise": {"axes": 60, "decay": 0.7, "width": 3.0, "noise": 0.0},
    "9 axes, no noise": {"axes": 9, "decay": 0.1, "width": 5.0, "noise": 0.0},
}
TARGET = {"0": 0.6, "2": 0.4, "0,0": 0.5, "0,1": 0.48}
EXPONENTS = ((2.0, 1.5), (1.75, 2.0), (5.0, 1.25), (1.5, 1.25))  # source, capacity; the last is outside


@study(question="Do covariance, or two exponents, say alone how a kernel learns?", ref="arXiv:2510.14878")
def kernel_scaling(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """Normal data of falling variances with a target of four Hermite modes; power-law spectra and targets of four pairs of exponents.

    Measured by regressions with a real kernel matrix, by regressions on Gaussian features, and for time, size and compute by the
    sums themselves. Nulls: a flat covariance, the exponent of the spectrum alone; both must fail. Cost: a minute at "small". Raises
    `BadOption`.
    """
    size = sized(scale, SCALES)
    docket = Docket(parity_digits(width=128, alpha=10.0), out / "recorded", QUESTION, steps=100, seed=seed, panels=PANELS,
                    setup=lambda rec: rec.watch(kernel_alignment, every="log"))  # fmt: skip
    with docket:
        tables = {"normal data, from their covariance": _hermite(docket, size, seed)}
        if progress:
            progress("parts", 1, 2)
        tables["exponents"] = _exponents(docket, size, seed)
        if progress:
            progress("parts", 2, 2)
    return docket.report(tables, ["Hermite eigenstructure ansatz, arXiv:2510.14878", "Bordelon et al. 2024, arXiv:2402.01092",
                                  "Cui et al. 2021, arXiv:2105.15004"])  # fmt: skip


def _hermite(docket: Docket, size: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    rows, sizes, ridge = [], [100, 200, 400], 1e-3
    for name, w in HERMITE.items():
        gamma = (np.arange(1.0, w["axes"] + 1) + 1) ** -w["decay"]
        gamma /= gamma.sum()
        given: dict[str, Any] = {"width": w["width"], "target": TARGET, "n": sizes, "ridge": ridge, "noise": w["noise"]}
        said = docket.seal(name, hermite_curve(variances=gamma.tolist(), **given), f"test error, normal data, {name}")
        broken = hermite_regime(said)
        flat = name == "30 axes, noise"
        if flat:
            other = hermite_curve(variances=[1 / w["axes"]] * w["axes"], **given)
            docket.seal("flat", other, f"test error, normal data, {name}: null, a flat covariance (must fail)")
        columns: list[np.ndarray] = []
        for n in sizes:
            column = []
            for i in range(size["hermite"]):
                g = np.random.default_rng([seed, n, i])
                z = g.standard_normal((n + 1000, w["axes"]))
                y = 0.6 * z[:, 0] + 0.4 * z[:, 2] + 0.5 * (z[:, 0] ** 2 - 1) / 2**0.5 + 0.48 * z[:, 0] * z[:, 1]
                y += w["noise"] ** 0.5 * g.standard_normal(len(z))
                x = z * gamma**0.5
                kernel = gauss(x, w["width"], x[:n])
                alpha = np.linalg.solve(kernel[:n] + ridge * np.eye(n), y[:n])
                column.append(np.mean(np.square(kernel[n:] @ alpha - y[n:])))
            columns.append(np.array(column))
        docket.judge(name, curve_of(columns), applies=not broken, why=broken)
        if flat:
            docket.judge("flat", curve_of(columns))
        for n, errors, value in zip(sizes, columns, said.value, strict=True):
            rows.append({"data": name, "n": n, "predicted": float(value), "test / predicted": float(errors.mean() / value),
                         "its error": float(errors.std(ddof=1) / len(errors) ** 0.5 / value), "outside for": broken})  # fmt: skip
    return rows


def _exponents(docket: Docket, size: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for a, b in EXPONENTS:
        for of in ("time", "size", "data", "compute"):
            docket.seal(
                f"{a} {b} {of}",
                source_capacity(source=a, capacity=b, of=of),
                f"exponent in {of}, source {a:g}, capacity {b:g}",
            )
        if (a, b) == EXPONENTS[0]:
            alone = docket.sealed[f"{a} {b} data"]
            docket.seal(
                "alone",
                alone,
                "exponent in data, source 2: null, of the spectrum alone, -2b (must fail)",
                value=-2 * b,
                law="",
                knobs={},
            )
        found = exponents(a, b, size["most"], size["sets"], size["modes"], seed)
        row: dict[str, Any] = {"source": a, "capacity": b}
        for of, reading in found.items():
            docket.judge(
                f"{a} {b} {of}", reading, applies=a >= LEAST, why="" if a >= LEAST else f"source below {LEAST:g}"
            )
            row |= {f"{of}, predicted": docket.sealed[f"{a} {b} {of}"].value, of: reading.value}
        if (a, b) == EXPONENTS[0]:
            docket.judge("alone", found["data"])
        rows.append(row)
    return rows


def exponents(a: float, b: float, most: int, sets: int, modes: int, seed: int) -> dict[str, Reading]:
    """Slopes of ln loss: in time and size by the sums themselves, in data by regressions on Gaussian features, in compute along the best.

    Modes beyond `modes` are in the regressions as what they are for Gaussian features: their eigenvalues a ridge, their power a noise.
    """
    k = np.arange(1.0, 100_001)
    lam, power = k**-b, k**-a
    times, counts = np.logspace(2, 4.5, 9) ** (b / 1.5), np.logspace(1.5, 3.5, 9).astype(int)
    below = power[::-1].cumsum()[::-1]  # of mode k and all after it
    rest = len(k) ** (1 - a) / (a - 1)
    loss = {"time": np.array([power @ np.exp(-2 * lam * t) for t in times]), "size": below[counts] + rest}
    found = {of: _slope(np.log(x), np.log(loss[of])) for of, x in (("time", times), ("size", counts))}
    grid = np.unique(np.logspace(1, 4, 120).astype(int))
    spent = np.logspace(2.5, 2.5 + 1.2 * (1 + b), 9)
    best = [min(power[:m] @ np.exp(-2 * lam[:m] * c / m) + below[m] + rest for m in grid) for c in spent]
    samples = np.unique(np.logspace(np.log10(most / 8), np.log10(most), 5).astype(int))
    drawn = np.array(
        [
            [_ridgeless(lam[:modes], power[:modes], below[modes] + rest, b, n, [seed, n, i]) for n in samples]
            for i in range(sets)
        ]
    )
    slopes = np.array([np.polyfit(np.log(samples), np.log(np.delete(drawn, i, 0).mean(0)), 1)[0] for i in range(sets)])
    err = float(np.sqrt((sets - 1) / sets * np.square(slopes - slopes.mean()).sum()))
    data = Reading(
        float(np.polyfit(np.log(samples), np.log(drawn.mean(0)), 1)[0]), err, "order", {"samples": samples.tolist()}
    )
    return {**found, "data": data, "compute": _slope(np.log(spent), np.log(best))}


def _slope(x: np.ndarray, y: Any) -> Reading:
    """Of all points; its error is half of what the two halves differ by."""
    half = len(x) // 2
    halves = [float(np.polyfit(x[s], np.asarray(y)[s], 1)[0]) for s in (slice(0, half + 1), slice(half, None))]
    return Reading(float(np.polyfit(x, y, 1)[0]), abs(halves[0] - halves[1]) / 2, "order", {"points": len(x)})


def _ridgeless(lam: np.ndarray, power: np.ndarray, noise: float, b: float, n: int, seed: list[int]) -> float:
    g = np.random.default_rng(seed)
    phi, c = g.standard_normal((n, len(lam))), power**0.5
    ridge = len(lam) ** (1 - b) / (b - 1)
    y = phi @ c + noise**0.5 * g.standard_normal(n)
    alpha = np.linalg.solve((phi * lam) @ phi.T + ridge * np.eye(n), y)
    return float(np.square(c - lam * (alpha @ phi)).sum() + noise)
