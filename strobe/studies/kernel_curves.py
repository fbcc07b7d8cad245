"""Does the spectrum of a kernel say how its regression learns: on synthetic spectra, digits, two tables, and a network's own kernel?"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from strobe.core.cards import study
from strobe.core.prediction import Prediction
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.core.snapshot import Snapshot
from strobe.laws.learning_curve import learning_curve
from strobe.laws.leave_one_out import kernel_alignment_risk, leave_one_out
from strobe.numerics.eigenlearning import dual, eigenbasis, eigenlearning
from strobe.observables.kernel_alignment import kernel_alignment
from strobe.observables.tangent_kernel import ntk
from strobe.studies.docket import Docket, Progress, sized
from strobe.studies.images import ORDER, standardised
from strobe.studies.wide_networks import parity_digits

QUESTION = "Does the spectrum of a kernel say how its regression learns, on digits, tables and a network's own kernel?"
SCALES: dict[str, dict[str, Any]] = {  # left: training sets of each size
    "tiny": {"draws": 20, "synthetic": (25, 50), "modes": 300, "points": 240, "left": {24: 10}},
    "small": {"draws": 200, "synthetic": (50, 100, 200, 400), "modes": 1000, "points": 1797, "left": {100: 400, 200: 300}},
    "full": {"draws": 1000, "synthetic": (50, 100, 200, 400, 800), "modes": 4000, "points": 1797,
             "left": {50: 1000, 100: 1000, 200: 400, 400: 200}},
}  # fmt: skip
SYNTHETIC = {"b 1.25, a 1.5": (1.25, 1.5, 1e-3, 0.1), "b 2, a 1.75": (2.0, 1.75, 1e-2, 0.0)}  # k^-b, k^-a, ridge, noise
RIDGES = (1e-3, 0.1, 1.0)
PANELS: list[dict[str, Any]] = [
    {"title": "training loss", "series": ["loss"], "unit": "loss", "log": True},
    {"title": "alignment of the tangent kernel with the targets", "series": ["kernel_alignment"], "unit": "cosine"},
]


@dataclass(frozen=True, slots=True)
class Fits:
    """Kernel ridge regressions on random samples of a population: one number for each."""

    test: np.ndarray
    unseen: np.ndarray
    train: np.ndarray


def sample(m: int, n: int, i: int, seed: int) -> np.ndarray:
    """The i-th sample of n points of m, without replacement."""
    return np.random.default_rng([seed, n, i]).permutation(m)[:n]


def fits(kernel: np.ndarray, targets: np.ndarray, n: int, ridge: float, sets: int, seed: int) -> Fits:
    """Errors on samples, summed over outputs: on all points, on those left out, on those taken."""
    found, m = [], len(kernel)
    for i in range(sets):
        taken = sample(m, n, i, seed)
        alpha = np.linalg.solve(kernel[np.ix_(taken, taken)] + ridge * np.eye(n), targets[taken])
        miss = np.square(kernel[:, taken] @ alpha - targets).sum(1)
        found.append((miss.mean(), (miss.sum() - miss[taken].sum()) / (m - n), miss[taken].mean()))
    return Fits(*np.array(found).T)


def training_sets(
    kernel: np.ndarray, targets: np.ndarray, n: int, ridge: float, sets: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Of the same samples, without a look at any other point: Σ_k α_ik² and (G⁻¹)_ii, (sets, n) each."""
    found = []
    for i in range(sets):
        taken = sample(len(kernel), n, i, seed)
        alpha, diagonal = dual(kernel[np.ix_(taken, taken)], targets[taken], ridge)
        found.append((np.square(alpha).sum(1), diagonal))
    squares, diagonals = zip(*found, strict=True)
    return np.array(squares), np.array(diagonals)


@study(question="Does the spectrum of a kernel say how its regression learns?", ref="arXiv:2110.03922")
def kernel_curves(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """Test errors of kernel ridge regression against what its spectrum says of them before one is fitted, or its training set after.

    Populations: features of a power-law spectrum, all 1,797 digits, two tables that scikit-learn bundles. Kernels: of Gauss, and the
    tangent kernel of a network at its start. Null: no overfitting coefficient, which must fail. Cost: a minute at "small". Raises
    `BadOption`.
    """
    size = sized(scale, SCALES)
    docket = Docket(parity_digits(width=128, alpha=1.0), out / "recorded", QUESTION, steps=100, seed=seed, panels=PANELS,
                    setup=lambda rec: rec.watch(kernel_alignment, every="log"))  # fmt: skip
    parts: dict[str, Callable[..., list[dict[str, Any]]]] = {
        "synthetic spectra": _synthetic,
        "data sets, scored on the whole population": _populations,
        "test error from the training set": _left_out,
    }
    tables = {}
    with docket:
        for i, (title, part) in enumerate(parts.items()):
            tables[title] = part(docket, size, seed)
            if progress:
                progress("parts", i + 1, len(parts))
    return docket.report(tables, [
        "Simon et al. 2023, arXiv:2110.03922", "Canatar et al. 2021, arXiv:2006.13198", "Jacot et al. 2020, arXiv:2006.09796",
        "Wei et al. 2022, arXiv:2203.06176",
    ])  # fmt: skip


def curve_of(columns: list[np.ndarray], unit: str = "squared error") -> Reading:
    """Means over draws at each n, with their standard errors."""
    err = [c.std(ddof=1) / len(c) ** 0.5 for c in columns]
    return Reading(np.array([c.mean() for c in columns]), np.array(err), unit, {"draws": len(columns[0])})


def _no_overfitting(said: Prediction) -> dict[str, Any]:
    """What changes where E₀ is left out: bias alone."""
    k = said.knobs
    over = [eigenlearning(np.array(k["spectrum"]), n, k["ridge"]).overfitting for n in k["n"]]
    return {"value": said.value / over, "law": "", "knobs": {}}


def _synthetic(docket: Docket, size: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    rows, modes = [], np.arange(1.0, size["modes"] + 1)
    for name, (b, a, ridge, noise) in SYNTHETIC.items():
        lam, c = modes**-b, modes ** (-a / 2)
        given: dict[str, Any] = {
            "spectrum": lam.tolist(),
            "coefficients": c.tolist(),
            "n": size["synthetic"],
            "ridge": ridge,
            "noise": noise,
        }
        for of in ("test", "train", "learned"):
            docket.seal(f"{name} {of}", learning_curve(of=of, **given), f"{of}, spectrum and power {name}")
        said = docket.sealed[f"{name} test"]
        docket.seal(
            f"{name} null", said, f"test, {name}: null, no overfitting coefficient (must fail)", **_no_overfitting(said)
        )
        found: dict[str, list[np.ndarray]] = {"test": [], "train": [], "learned": []}
        for n in size["synthetic"]:
            drawn = []
            for i in range(size["draws"]):
                g = np.random.default_rng([seed, n, i])
                phi = g.standard_normal((n, len(lam)))
                y = phi @ c + noise**0.5 * g.standard_normal(n)
                alpha = np.linalg.solve((phi * lam) @ phi.T + ridge * np.eye(n), y)
                learned = lam * (alpha @ phi)  # coefficients of what is learned: the error over the population is exact
                drawn.append(
                    (np.square(c - learned).sum() + noise, ridge**2 * np.mean(alpha**2), c @ learned / (c @ c))
                )
            for of, column in zip(found, np.array(drawn).T, strict=True):
                found[of].append(column)
        for of, columns in found.items():
            docket.judge(f"{name} {of}", curve_of(columns, "share" if of == "learned" else "squared error"))
        docket.judge(f"{name} null", curve_of(found["test"]))
        for i, n in enumerate(size["synthetic"]):
            ratio = {of: float(np.mean(v[i]) / docket.sealed[f"{name} {of}"].value[i]) for of, v in found.items()}
            sem = float(found["test"][i].std(ddof=1) / size["draws"] ** 0.5 / said.value[i])
            rows.append({"spectrum": name, "n": n, "predicted": float(said.value[i]), "test / predicted": ratio["test"], "its error": sem,
                         "train / predicted": ratio["train"], "learned / predicted": ratio["learned"]})  # fmt: skip
    return rows


def _worlds(size: dict[str, Any], seed: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Kernel over the population, and targets (M, outputs), by name."""
    from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits

    pixels, labels = (t[: size["points"]] for t in standardised())
    parity = (2.0 * (labels % 2) - 1)[:, None].double().numpy()
    ten = torch.nn.functional.one_hot(labels, 10).double().numpy()
    raw = load_digits().data[np.random.default_rng(ORDER).permutation(1797)[: size["points"]]]  # the same order
    unit = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    cancer, sugar = load_breast_cancer(), load_diabetes()
    tables = [(d.data - d.data.mean(0)) / d.data.std(0) / d.data.shape[1] ** 0.5 for d in (cancer, sugar)]
    net = nn.Sequential(nn.Linear(64, 256), nn.GELU(), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 1))
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=g) / (p.shape[-1] ** 0.5 if p.ndim > 1 else 10))
    own = ntk(Snapshot(net, None, pixels)).value  # type: ignore[arg-type]
    return {
        "digits, ten classes": (gauss(unit, 0.5), ten), "digits, odd or even": (gauss(unit, 0.5), parity),
        "digits, odd or even, a network's tangent kernel": (own / np.trace(own) * len(own), parity),
        "breast cancer": (gauss(tables[0], 1.0), (2.0 * cancer.target - 1)[:, None]),
        "diabetes": (gauss(tables[1], 1.0), ((sugar.target - sugar.target.mean()) / sugar.target.std())[:, None]),
    }  # fmt: skip


def gauss(x: np.ndarray, width: float, other: np.ndarray | None = None) -> np.ndarray:
    """exp(−|x − x'|²/2s²)."""
    z = x if other is None else other
    return np.asarray(
        np.exp(-np.maximum(np.square(x).sum(1)[:, None] + np.square(z).sum(1) - 2 * x @ z.T, 0) / (2 * width**2))
    )


def _populations(docket: Docket, size: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for name, (kernel, y) in _worlds(size, seed).items():
        m = len(kernel)
        sizes = [m // 40, m // 20, m // 10]
        lam, c = eigenbasis(kernel, y)
        power = np.sqrt(
            np.square(c).sum(1)
        )  # errors are summed over outputs, so that of each mode is all there is to say
        for ridge in RIDGES:
            given: dict[str, Any] = {
                "spectrum": lam.tolist(),
                "coefficients": power.tolist(),
                "n": sizes,
                "ridge": ridge,
                "population": m,
            }
            docket.seal(f"{name} {ridge}", learning_curve(**given), f"test error, {name}, ridge {ridge:g}")
            said, trained = docket.sealed[f"{name} {ridge}"], learning_curve(of="train", **given)
            if ridge == RIDGES[-1]:
                docket.seal(f"{name} train", trained, f"training error, {name}, ridge {ridge:g}")
            null = ridge == RIDGES[0] and name == "digits, odd or even"
            if null:
                of = f"test error, {name}, ridge {ridge:g}: null, no overfitting coefficient (must fail)"
                docket.seal("null", said, of, **_no_overfitting(said))
            found = [fits(kernel, y, n, ridge, size["draws"], seed) for n in sizes]
            docket.judge(f"{name} {ridge}", curve_of([f.test for f in found]))
            if ridge == RIDGES[-1]:
                docket.judge(f"{name} train", curve_of([f.train for f in found]))
            if null:
                docket.judge("null", curve_of([f.test for f in found]))
            for i, (n, f) in enumerate(zip(sizes, found, strict=True)):
                rows.append({"data": name, "ridge": ridge, "n": n, "predicted": float(said.value[i]),
                             "test / predicted": float(f.test.mean() / said.value[i]),
                             "its error": float(f.test.std(ddof=1) / len(f.test) ** 0.5 / said.value[i]),
                             "points left out / predicted": float(f.unseen.mean() / said.value[i]),
                             "train / predicted": float(f.train.mean() / trained.value[i])})  # fmt: skip
    return rows


def _left_out(docket: Docket, size: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    worlds, laws = _worlds(size, seed), {"leave one out": leave_one_out, "alignment risk": kernel_alignment_risk}
    for name in ("digits, odd or even", "digits, odd or even, a network's tangent kernel", "diabetes"):
        kernel, y = worlds[name]
        for ridge in RIDGES[:2]:
            for n, sets in [(n, sets) for n, sets in size["left"].items() if n <= len(kernel) // 4]:
                known: tuple[Any, Any] = training_sets(kernel, y, n, ridge, sets, seed)
                told = {"training sets": sets, "n": n, "ridge": ridge}  # in the journal, instead of the sets
                said = {k: law(dual_squares=known[0], inverse_diagonal=known[1]) for k, law in laws.items()}
                for k, one in said.items():
                    of = f"test error from {k}, {name}, ridge {ridge:g}, n = {n}"
                    docket.seal(f"{k} {name} {ridge} {n}", one, of, knobs=told)
                unseen = fits(kernel, y, n, ridge, sets, seed).unseen
                row: dict[str, Any] = {
                    "data": name,
                    "ridge": ridge,
                    "n": n,
                    "sets": sets,
                    "test error": float(unseen.mean()),
                }
                for k, law in laws.items():
                    each = [law(dual_squares=a, inverse_diagonal=d).value for a, d in zip(*known, strict=True)]
                    err = float(np.std(unseen - each, ddof=1) / sets**0.5)  # both fluctuate with the sample
                    docket.judge(f"{k} {name} {ridge} {n}", Reading(float(unseen.mean()), err, "squared error", told))
                    row |= {
                        f"{k} / test": float(said[k].value / unseen.mean()),
                        f"{k}, its error": err / float(unseen.mean()),
                    }
                rows.append(row)
    return rows
