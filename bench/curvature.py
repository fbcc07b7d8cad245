"""Spectral density and trace of the Hessian: Strobe against curvlinops and hessian-eigenthings.

    python -m venv /tmp/peers && /tmp/peers/bin/pip install -r bench/requirements-curvature.txt -c <(echo torch==2.13.0)
    export OPENBLAS_NUM_THREADS=1 OMP_NUM_THREADS=1 PYTHONPATH=.:bench
    /tmp/peers/bin/python bench/curvature.py [mlp transformer cnn] [--seeds 2] [--no-peers]

One torch thread, CPU seconds (`time.process_time`), all in one process on the same checkpoint, 20 steps into a run of
bench/sharpness.py's networks. All densities are of the same Gaussians on the same grid, so what differs is nodes, weights
and time; the peers' own search for the bounds of the spectrum is left out (in their favour). The reference is 16 chains of
80 steps by Strobe. Errors: `whole` is ∫|ρ − ref| over all λ, `outliers` the same above 5% of λ₁, relative to the mass there.
Errors of a mean over R repeats fall as 1/√R: "at equal error" is CPU time for the peer's repeats that would meet our error.
Top 5 eigenvalues: bench/sharpness.py.
PyHessian 0.1 has a density too, which calls torch.eig: removed from torch 1.13 on, so it does not run here.
"""

import argparse
import os
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from sharpness import training
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from strobe.core.snapshot import Snapshot
from strobe.observables.hessian_trace import hessian_trace
from strobe.observables.spectral_density import quadrature_of

STEPS, POINTS = 40, 400


def timed(fn: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    got = fn()
    return time.process_time() - start, got


def operator(snap: Snapshot) -> Any:
    import curvlinops

    params = {n: p for n, p in snap.model.named_parameters() if p.requires_grad}
    make, loss, data = curvlinops.HessianLinearOperator, nn.CrossEntropyLoss(), [snap.data]
    try:
        return make(snap.model, loss, list(params.values()), data, check_deterministic=False)
    except (AttributeError, TypeError, ValueError):  # later versions take a dict
        return make(snap.model, loss, params, data, check_deterministic=False)


def by_curvlinops(snap: Snapshot, repeats: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    from curvlinops.papyan2020traces.spectrum import fast_lanczos

    torch.manual_seed(seed)
    with sdpa_kernel(SDPBackend.MATH):
        chains = [fast_lanczos(operator(snap), STEPS) for _ in range(repeats)]
    return [(x.numpy().astype(float), y[0].numpy().astype(float) ** 2) for x, y in chains]


def by_eigenthings(snap: Snapshot, repeats: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    from hessian_eigenthings.algorithms.spectral_density import spectral_density
    from hessian_eigenthings.loss_fns.standard import supervised_loss
    from hessian_eigenthings.operators.hessian import HessianOperator

    with snap.quiet(), sdpa_kernel(SDPBackend.MATH):
        op = HessianOperator(snap.model, [snap.data], supervised_loss(nn.CrossEntropyLoss()))
        got = spectral_density(op, num_runs=repeats, lanczos_steps=STEPS, num_grid_points=100, seed=seed)
    return [(x.numpy(), w.numpy()) for x, w in zip(got.raw_eigenvalues.double(), got.raw_weights.double(), strict=True)]


class Smooth:
    """Densities on one grid with one width, and their distances from the reference."""

    def __init__(self, snap: Snapshot) -> None:
        ref = quadrature_of(snap, "hessian", None, None, None, 16, 80, 991)
        low, high = ref.range()
        self.width = 0.01 * (high - low)
        self.grid = np.linspace(low - 4 * self.width, high + 4 * self.width, POINTS)
        self.ref, err = ref.mean(self.bumps)
        self.out = self.grid > 0.05 * high
        step = self.grid[1] - self.grid[0]
        self.step, self.mass = step, float(self.ref[self.out].sum() * step)
        self.sure = self.errors(self.ref + err)

    def bumps(self, x: np.ndarray) -> np.ndarray:
        w = self.width
        return np.asarray(np.exp(-(((x[:, None] - self.grid) / w) ** 2) / 2) / (w * np.sqrt(2 * np.pi)))

    def errors(self, rho: np.ndarray) -> tuple[float, float]:
        gap = np.abs(rho - self.ref) * self.step
        return float(gap.sum()), float(gap[self.out].sum() / self.mass)

    def of(self, chains: list[tuple[np.ndarray, np.ndarray]]) -> tuple[float, float]:
        return self.errors(np.mean([w @ self.bumps(x) for x, w in chains], 0))


def density(name: str, seeds: int, peers: bool) -> None:
    rows: dict[str, list[tuple[float, float, float]]] = {}
    for seed in range(seeds):
        snap = next(training(name, seed, 1, 20))
        smooth = Smooth(snap)
        print(
            f"  {name} seed {seed}: reference known to {smooth.sure[0]:.1e}, outliers {smooth.sure[1]:.1e}", flush=True
        )
        for draw in range(3):
            seconds, got = timed(partial(quadrature_of, snap, "hessian", None, None, None, 4, STEPS, draw))
            rows.setdefault("strobe, 4 probes", []).append((seconds, *smooth.errors(got.mean(smooth.bumps)[0])))
            seconds, chains = timed(partial(by_curvlinops, snap, 4, draw))
            rows.setdefault("curvlinops, 4 repeats", []).append((seconds, *smooth.of(chains)))
        if peers and seed == 0:
            seconds, chains = timed(partial(by_eigenthings, snap, 4, 0))
            rows.setdefault("hessian-eigenthings, 4", []).append((seconds, *smooth.of(chains)))
    base = np.mean(rows["curvlinops, 4 repeats"], 0)
    ours = np.mean(rows["strobe, 4 probes"], 0)
    print(f"\n{name}: density, {STEPS} products a chain, {seeds} seeds x 3 draws")
    print(f"  {'':24s} {'CPU':>7s} {'ratio':>7s} {'whole':>9s} {'outliers':>9s}")
    for label, got in rows.items():
        s, whole, out = np.mean(got, 0)
        print(f"  {label:24s} {s:7.2f} {s / base[0]:7.2f} {whole:9.1e} {out:9.1e}")
    for which, i in (("whole", 1), ("outliers", 2)):
        need = max((base[i] / ours[i]) ** 2, 0.25)  # at least one of four repeats
        print(f"  at equal error, {which}: {ours[0] / (base[0] * need):.2f} of curvlinops' CPU time", flush=True)


def trace_by_curvlinops(snap: Snapshot, how: str, seed: int) -> float:
    import curvlinops

    torch.manual_seed(seed)
    with sdpa_kernel(SDPBackend.MATH):
        return float(getattr(curvlinops, how)(operator(snap), 30))


def traces(name: str, seeds: int) -> None:
    rows: dict[str, list[tuple[float, float]]] = {}
    for seed in range(seeds):
        snap = next(training(name, seed, 1, 20))
        ref = hessian_trace(snap, vectors=120, seed=99)
        print(f"  {name} seed {seed}: trace {ref}", flush=True)
        for draw in range(6):
            seconds, got = timed(partial(hessian_trace, snap, vectors=15, seed=draw))
            rows.setdefault("strobe, 30 products", []).append((seconds, abs(got.value / ref.value - 1)))

            for how in ("hutchpp_trace", "xtrace"):
                seconds, value = timed(partial(trace_by_curvlinops, snap, how, draw))
                rows.setdefault(f"curvlinops {how}", []).append((seconds, abs(value / ref.value - 1)))
    base = np.mean([r[0] for r in rows["curvlinops xtrace"]])
    print(f"\n{name}: trace from 30 products, {seeds} seeds x 6 draws")
    for label, got in rows.items():
        s, e = np.mean([r[0] for r in got]), np.sqrt(np.mean(np.square([r[1] for r in got])))
        print(f"  {label:24s} {s:7.2f} {s / base:7.2f}   r.m.s. relative error {e:.1e}", flush=True)


def main() -> None:
    ask = argparse.ArgumentParser()
    ask.add_argument("nets", nargs="*", default=["mlp", "transformer", "cnn"])
    ask.add_argument("--seeds", type=int, default=2)
    ask.add_argument("--no-peers", action="store_true", help="curvlinops only")
    args = ask.parse_args()
    print(f"torch threads: 1; OpenBLAS threads: {os.environ.get('OPENBLAS_NUM_THREADS', 'as many as there are cores')}")
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    for name in args.nets:
        density(name, args.seeds, not args.no_peers)
        traces(name, args.seeds)


if __name__ == "__main__":
    main()
