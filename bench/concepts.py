"""Concepts: recursive feature machines against PyPI xrfm, many concepts at once, the bake-off, and what a steering hook costs.

    OMP_NUM_THREADS=1 PYTHONPATH=. python bench/concepts.py [rfm many bake-off hooks] [--rounds 3]

Needs xrfm 0.4.5 for its column (bench/requirements-concepts.txt). CPU seconds (`time.process_time`), one torch thread, both in one process
in turns after one call of each; the median of the rounds' ratios, and the range.

rfm: rows (n, d) as a residual stream has them (power-law spectrum), a mean shift between two groups, ten iterations, L = 10,
λ = 1e-3, gradients centred; ours with the span, theirs with the eigendecomposition that gives the direction (`eigh`) and without it
(`fit`). Agreement: the smallest |cos| over the iterations of our first direction with that of the dense formulas in double.
many: 32 concepts on the same prompts, five iterations: ours at once, ours one at a time (its span made anew), and theirs one at a time.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from strobe.core.capture import Activations
from strobe.core.tap import patch
from strobe.edits.steer import steer
from strobe.features.fit_concept import fit_concept
from strobe.numerics.probes import ridge_path
from strobe.numerics.rfm import Span, rfm

SHAPES = ((300, 512), (300, 1024), (400, 2048), (400, 4096))


def states(n: int, d: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows of mean length about 1, and their basis."""
    k = min(d, 256)
    basis = torch.linalg.qr(torch.randn(d, k, generator=torch.Generator().manual_seed(10_000 + d)))[0]
    gen = torch.Generator().manual_seed(seed)
    s = torch.arange(1, k + 1) ** -0.5
    s = s / s.norm()
    return (torch.randn(n, k, generator=gen) * s) @ basis.T + 0.05 * torch.randn(n, d, generator=gen) / d**0.5, basis


def timed(fn: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    got = fn()
    return time.process_time() - start, got


def ours(X: Tensor, y: Tensor, iterations: int, every: bool = False) -> Any:
    """The last directions; or the first of every iterate's gradients."""
    span = Span.of(X)
    found = rfm(span, y, bandwidth=10.0, ridge=1e-3, iterations=iterations - 1, centred=True, scale="max")
    return [span.lift(one.agop.directions[0, :1])[0] for one in found] if every else [*found][-1].agop.directions


def dense(X: Tensor, y: Tensor, iterations: int) -> list[Tensor]:
    """The formulas in double precision."""
    X, y = X.double() - X.double().mean(0), y.double()
    n, d = X.shape
    M, found = torch.eye(d, dtype=torch.float64), []
    for _ in range(iterations):
        XM = X @ M
        q = (XM * X).sum(1)
        D = (q[:, None] + q - 2 * XM @ X.T).clamp_min(0)
        D.fill_diagonal_(0)
        D = D.sqrt()
        K = torch.exp(-D / 10)
        alpha = torch.linalg.solve(K + 1e-3 * torch.eye(n, dtype=torch.float64), y)
        W = torch.where(D > 1e-10, alpha[:, None] * K / D.clamp_min(1e-300), 0.0)
        g = (W.T @ XM - W.sum(0)[:, None] * XM) / 10
        g = g - g.mean(0)
        M = g.T @ g / n
        M = M / M.max()
        v = g[0] / g[0].norm()
        for _ in range(300):
            v = M @ v
            v = v / v.norm()
        found.append(v)
    return found


def theirs(X: Tensor, y: Tensor, iterations: int, whole: bool) -> Any:
    """xrfm as its users call it; `whole`: with the direction."""
    from xrfm.rfm_src import RFM

    m = RFM(kernel="l2_high_dim", bandwidth=10.0, iters=iterations, device="cpu", verbose=False, tuning_metric="mse")
    held = (X[:50], y[:50, None])
    m.fit((X, y[:, None]), held, reg=1e-3, center_grads=True, early_stop_rfm=False, get_agop_best_model=True)
    return torch.linalg.eigh(m.agop_best_model)[1][:, -1] if whole else m


def ratios(a: Callable[[], Any], b: Callable[[], Any], rounds: int) -> str:
    """b / a in turns."""
    a(), b()
    got = [timed(b)[0] / timed(a)[0] for _ in range(rounds)]
    return f"{statistics.median(got):.1f} ({min(got):.1f} to {max(got):.1f})"


def machines(rounds: int) -> None:
    peer = importlib.util.find_spec("xrfm") is not None
    print(
        f"{'n, d':>12s}  {'ours, ms':>8s}  {'xrfm with eigh / ours':>24s}  {'xrfm fit / ours':>24s}  {'|cos| to dense':>14s}"
    )
    for n, d in SHAPES:
        X, basis = states(n, d, 1)
        y = (torch.rand(n, generator=torch.Generator().manual_seed(2)) > 0.5).float()
        X = X + (2 * y[:, None] - 1) * 0.25 * basis[:, 20]
        mine = lambda X=X, y=y: ours(X, y, 10)  # noqa: E731
        ms = 1e3 * min(timed(mine)[0] for _ in range(3))
        cos = (
            min(abs(float(u.double() @ v)) for u, v in zip(ours(X, y, 10, True), dense(X, y, 10), strict=True))
            if d <= 2048
            else float("nan")
        )
        if d > 2048:
            cos = min(abs(float(u.double() @ v)) for u, v in zip(ours(X, y, 3, True), dense(X, y, 3), strict=True))
        both = ["-", "-"]
        if peer:
            few = max(rounds if d < 4096 else 2, 1)
            both = [ratios(mine, lambda X=X, y=y, w=w: theirs(X, y, 10, w), few) for w in (True, False)]
        print(f"{n:5d}, {d:5d}  {ms:8.0f}  {both[0]:>24s}  {both[1]:>24s}  {cos:14.7f}", flush=True)


def many(rounds: int) -> None:
    n, d, c = 400, 2048, 32
    X, basis = states(n, d, 5)
    Y = torch.stack(
        [
            (X @ (basis[:, :40] @ torch.randn(40, generator=torch.Generator().manual_seed(j))) > 0).float()
            for j in range(c)
        ]
    )

    def together() -> Any:
        *_, last = rfm(Span.of(X), Y, bandwidth=10.0, iterations=4, centred=True, scale="max")
        return last.span.lift(last.agop.directions[:, 0])

    single = lambda: [ours(X, y, 5) for y in Y]  # noqa: E731
    line = lambda Y=Y: ridge_path(Span.of(X).Z, Y, [1e-2, 1e-1, 1.0])  # noqa: E731
    print(
        f"{c} concepts, ridge: at once against one at a time {ratios(line, lambda: [line(y[None]) for y in Y], rounds)}"
    )
    print(f"{c} concepts, n = {n}, d = {d}, five iterations: {timed(together)[0]:.2f} s at once;", end=" ")
    print(f"one at a time, each with its own span: {ratios(together, single, rounds)}", end="")
    if importlib.util.find_spec("xrfm") is not None:
        theirs(X, Y[0], 5, True)
        print(
            f"; xrfm one at a time: {c * timed(lambda: theirs(X, Y[0], 5, True))[0] / timed(together)[0]:.0f} (one timed, times {c})",
            end="",
        )
    print(flush=True)


def full(rounds: int) -> None:
    n, d, layers = 400, 768, 12
    for kind in ("shift", "even"):
        X, basis = states(n, d, 0)
        y = torch.arange(n) % 2
        if kind == "even":
            p = X @ basis[:, 1]
            y = (p.abs() > p.abs().median()).int()
        else:
            X = X + 0.2 * (2.0 * y[:, None] - 1) * basis[:, 20]
        noise = [
            0.02 * i * torch.randn(n, d, generator=torch.Generator().manual_seed(i)) / d**0.5 for i in range(layers)
        ]
        acts = Activations(
            {f"blocks.{i}": X + e for i, e in enumerate(noise)}, torch.arange(n), torch.full((n,), -1), n
        )
        seconds = [timed(lambda a=acts, t=y: fit_concept(a, t))[0] for _ in range(rounds)]
        print(
            f"bake-off, {layers} layers, n = {n}, d = {d}, {kind}: {statistics.median(seconds):.1f} CPU s "
            f"({min(seconds):.1f} to {max(seconds):.1f})",
            flush=True,
        )


class Block(nn.Module):
    def __init__(self, d: int) -> None:
        super().__init__()
        self.attn = nn.MultiheadAttention(d, 4, batch_first=True)
        self.norms = nn.ModuleList([nn.LayerNorm(d), nn.LayerNorm(d)])
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norms[0](x)
        x = x + self.attn(h, h, h, need_weights=False)[0]
        return x + self.down(torch.nn.functional.gelu(self.up(self.norms[1](x))))


def hooks(rounds: int) -> None:
    """All four blocks of a transformer of the demo's size steered, against none."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(512, 128), *(Block(128) for _ in range(4)), nn.Linear(128, 512)).eval()
    x = torch.randint(512, (16, 128))
    edits = {f"{i + 1}": steer(direction=torch.randn(128).tolist(), by=1.0) for i in range(4)}
    got = []
    with torch.no_grad():
        for _ in range(10 * rounds):
            bare = min(timed(lambda: net(x))[0] for _ in range(3))
            with patch(net, edits):
                got.append(min(timed(lambda: net(x))[0] for _ in range(3)) / bare - 1)
    q = statistics.quantiles(got, n=4)
    print(
        f"steering four blocks of width 128, 16 x 128 tokens: {100 * statistics.median(got):+.1f} % of a forward pass "
        f"(quartiles {100 * q[0]:+.1f} to {100 * q[2]:+.1f})"
    )


def main() -> None:
    ask = argparse.ArgumentParser()
    ask.add_argument("cases", nargs="*", default=["rfm", "many", "bake-off", "hooks"])
    ask.add_argument("--rounds", type=int, default=3)
    args = ask.parse_args()
    torch.set_num_threads(1)
    for name in args.cases:
        {"rfm": machines, "many": many, "bake-off": full, "hooks": hooks}[name](args.rounds)


if __name__ == "__main__":
    main()
