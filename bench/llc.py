"""Learning coefficients by Langevin sampling: Strobe against devinterp 1.3.2 and 2.0.1.

    python -m venv /tmp/one && /tmp/one/bin/pip install -e . devinterp==1.3.2 -c <(echo torch==2.13.0)
    python -m venv /tmp/two && /tmp/two/bin/pip install -e . devinterp==2.0.1 -c <(echo torch==2.13.0)
    OMP_NUM_THREADS=1 /tmp/one/bin/python bench/llc.py speed            # and with /tmp/two: the transformer
    OMP_NUM_THREADS=1 /tmp/one/bin/python bench/llc.py precision

`speed`: CPU seconds (`time.process_time`; with `--device cuda` wall time, the device waited for) of a whole call per
gradient, both in one process in turns, the median of `--rounds` ratios; the same model, chains, draws and batch, one
torch thread. Ours includes its calibration, theirs its
baseline pass. The floor is the matrix products at this core's measured rate, normal noise and one update.
`precision`: spread and error of the estimate over `--seeds`, at equal gradients and the same N and γ; the peer has its
default baseline, and its default step and four others, of which the best is chosen with the truth in hand. Truth: a
long run, for digits with every gradient of all the data.
"""

import argparse
import contextlib
import io
import statistics
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from strobe.core.snapshot import Snapshot
from strobe.core.stacked import StackedLoss
from strobe.numerics.noise import Noise
from strobe.numerics.sgmcmc import Target, langevin
from strobe.observables.llc import llc

DEVICE = "cpu"  # --device


class Superposition(nn.Module):
    """relu(WᵀWx + b), six features in two dimensions: 18 parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(2, 6)), nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x @ self.w.T @ self.w + self.b)


class Attention(nn.Module):
    """Causal attention with four heads."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.out = nn.LayerNorm(d), nn.Linear(d, 3 * d, bias=False), nn.Linear(d, d, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        q, k, v = (z.unflatten(-1, (4, -1)).transpose(1, 2) for z in self.qkv(self.norm(h)).chunk(3, -1))
        return h + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Language(nn.Module):
    """Two layers of attention and nothing else: 271,232 parameters."""

    def __init__(self, d: int = 128, vocab: int = 512) -> None:
        super().__init__()
        self.tok, self.pos = nn.Embedding(vocab, d), nn.Parameter(0.02 * torch.randn(65, d))
        self.layers, self.norm, self.out = (
            nn.Sequential(Attention(d), Attention(d)),
            nn.LayerNorm(d),
            nn.Linear(d, vocab, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.norm(self.layers(self.tok(x) + self.pos[: x.shape[1]])))


def classes(m: nn.Module, d: Any) -> Tensor:
    return F.cross_entropy(m(d[0]), d[1])


def reconstruct(m: nn.Module, d: Any) -> Tensor:
    return (m(d[0]) - d[0]).square().mean()


def next_token(m: nn.Module, d: Any) -> Tensor:
    x = d[0] if isinstance(d, tuple | list) else d
    return F.cross_entropy(m(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())


def world(name: str) -> tuple[nn.Module, Any, Any, int, int, float, float]:
    """Model, loss, data, batch, chains, N and γ of a case, after a little training."""
    torch.manual_seed(0)
    wide = 64
    if name.startswith("digits"):  # "digits-300" is the specification's case: 300 steps on 256 examples
        from sklearn.datasets import load_digits

        x, y = load_digits(return_X_y=True)
        data: Any = (torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y))
        model: nn.Module = nn.Sequential(
            nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, 10)
        )
        loss, batch, chains, rest = classes, 32, 8, (240.0, 106.0)
        steps, wide = (300, 256) if name == "digits-300" else (1500, 64)
    elif name == "superposition":
        x = torch.zeros(1000, 6)
        x[torch.arange(1000), torch.randint(6, (1000,))] = torch.rand(1000)
        data, model, loss, batch, chains, steps, rest = (
            (x, x),
            Superposition(),
            reconstruct,
            100,
            10,
            3000,
            (145.0, 1.0),
        )
    else:
        half = torch.randint(512, (2000, 33))
        data, model, loss = (torch.cat([half, half[:, 1:]], 1),), Language(), next_token
        batch, chains, steps, rest = 8, 4, 150, (100.0, 100.0)
    model, data = model.to(DEVICE), tuple(d.to(DEVICE) for d in data)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(steps):
        i = torch.randint(len(data[0]), (wide,)).to(DEVICE)
        optimizer.zero_grad()
        loss(model, tuple(d[i] for d in data)).backward()
        optimizer.step()
    return model, loss, data, batch, chains, *rest


def theirs(name: str, lr: float, draws: int, burn: int, seed: int) -> Callable[[], float]:
    """One call of the peer; returns its estimate."""
    model, loss, data, batch, chains, nbeta, gamma = world(name)
    if version("devinterp").startswith("2"):
        from datasets import Dataset
        from devinterp.slt.llc import llc as peer

        rows = Dataset.from_dict({"input_ids": data[0].tolist()}).with_format("torch")

        def two() -> float:
            got = peer(model, rows, {}, lr=lr, n_beta=nbeta, localization=gamma, num_chains=chains, num_draws=draws,
                       num_burnin_steps=burn, batch_size=batch, init_seed=seed, device=DEVICE)  # fmt: skip
            return float(got["llc_mean"])

        return two
    from devinterp.optim.sgld import SGLD
    from devinterp.slt.sampler import estimate_learning_coeff_with_summary
    from torch.utils.data import DataLoader, TensorDataset

    loader = DataLoader(
        TensorDataset(*(d.cpu() for d in data)),
        batch_size=batch,
        shuffle=True,
        generator=torch.Generator().manual_seed(seed),
    )
    options = {"lr": lr, "nbeta": nbeta, "localization": gamma}

    def one() -> float:
        got = estimate_learning_coeff_with_summary(
            model, loader, evaluate=lambda m, d: loss(m, d), sampling_method=SGLD, optimizer_kwargs=dict(options), num_draws=draws,
            num_chains=chains, num_burnin_steps=burn, seed=seed, verbose=False, device=DEVICE,
        )  # fmt: skip
        return float(got["llc/mean"])

    return one


def ours(name: str, budget: int, seed: int) -> Callable[[], Any]:
    model, loss, data, batch, chains, nbeta, gamma = world(name)
    snap = Snapshot(model, loss, data)
    return lambda: llc(snap, nbeta=nbeta, gamma=gamma, batch=batch, chains=chains, budget=budget, seed=seed)


def now() -> float:
    """Seconds of CPU spent, or with a GPU of time, once it is idle."""
    if DEVICE == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def cost(call: Callable[[], Any]) -> tuple[float, Any]:
    began = now()
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        got = call()
    return now() - began, got


def floor(name: str) -> float:
    """Microseconds of one gradient's matrix products, noise and update, at this device's rates."""
    model, loss, data, batch, chains, _, _ = world(name)
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        loss(model, tuple(d[:batch] for d in data)).backward()
    side = 512 if DEVICE == "cpu" else 8192
    a, b = torch.randn(2, side, side, device=DEVICE)
    rate = min(cost(lambda: [a @ b for _ in range(20)])[0] for _ in range(5)) / (20 * 2 * side**3)
    size = sum(p.numel() for p in model.parameters())
    w, xi = torch.zeros(2, chains, size, device=DEVICE)
    k = max(2_000_000 // (chains * size), 1)
    noise = min(cost(lambda: [w.add_(xi.normal_(), alpha=0.1) for _ in range(k)])[0] for _ in range(5)) / k / chains
    return 1e6 * (counter.get_total_flops() * rate + noise)


def speed(cases: list[str], rounds: int) -> None:
    print(f"devinterp {version('devinterp')}; microseconds of {'CPU' if DEVICE == 'cpu' else 'time'} per gradient")
    for name in cases:
        budget = {"language": 500}.get(name, 2000)
        call, peer = ours(name, budget, 0), theirs(name, 1e-5, budget // 5, 0, 0)
        cost(call)
        pairs = []
        for _ in range(rounds):
            t, got = cost(call)
            p, _ = cost(peer)
            pairs.append((1e6 * t / got.how["gradients"], 1e6 * p / (budget // 5 * got.how["chains"])))
        ratio, at_least = statistics.median(b / a for a, b in pairs), floor(name)
        mine, other = (statistics.median(c) for c in zip(*pairs, strict=True))
        print(
            f"{name:14} ours {mine:8.1f}  theirs {other:8.1f}  ratio {ratio:6.2f}  floor {at_least:8.1f} ({at_least / mine:.0%} of ours)",
            flush=True,
        )
    if "superposition" in cases:
        stacked(rounds)


def stacked(rounds: int, points: int = 50) -> None:
    """Fifty checkpoints, ten chains each, in one stack; theirs one after another."""
    model, loss, data, batch, chains, nbeta, gamma = world("superposition")
    f, one = StackedLoss(Snapshot(model, loss, data)), torch.ones(points * chains, 1, device=DEVICE)
    x = (data[0][:batch], data[0][:batch])
    target, draws = Target(f.center, nbeta * one, gamma * one), 200

    def many() -> None:
        langevin(
            lambda w, t: f(w, x),
            f.center.repeat(points * chains, 1),
            target,
            step=1e-4 * one,
            metric=torch.ones(18, device=DEVICE),
            draws=draws,
            noise=Noise(0, DEVICE),
        )

    peer = theirs("superposition", 1e-5, draws, 0, 0)
    cost(many)
    pairs = [
        (1e6 * cost(many)[0] / (draws * points * chains), 1e6 * cost(peer)[0] / (draws * chains)) for _ in range(rounds)
    ]
    mine, other = (statistics.median(c) for c in zip(*pairs, strict=True))
    print(
        f"{'50 stacked':14} ours {mine:8.2f}  theirs {other:8.1f}  ratio {statistics.median(b / a for a, b in pairs):6.1f}"
    )


def _or_nan(call: Callable[[], float]) -> float:
    """What the peer says, NaN where its chains left the numbers."""
    try:
        return float(cost(call)[1])
    except RuntimeError as e:
        if "NaN" not in str(e):
            raise
        return float("nan")


def precision(cases: list[str], seeds: int) -> None:
    for name in cases:
        model, loss, data, _, _, nbeta, gamma = world(name)
        size = len(data[0])
        long: dict[str, Any] = (
            {"batch": size, "chains": 8, "budget": 1500}
            if name.startswith("digits")
            else {"batch": 8, "chains": 4, "budget": 3000}
        )
        true = llc(Snapshot(model, loss, data), nbeta=nbeta, gamma=gamma, seed=99, **long)
        print(f"{name}: truth {true}, flags {true.how['flags']}", flush=True)
        budget = {"digits": 1000, "digits-300": 200, "language": 250}[name]
        got = [cost(ours(name, budget, s))[1] for s in range(seeds)]
        mine = np.array([g.value for g in got])
        rms = float(np.sqrt(np.mean((mine - true.value) ** 2)))
        print(
            f"  ours, {budget} gradients a chain: {mine.mean():.3f} sd {mine.std(ddof=1):.3f}, rms error {rms:.3f}, "
            f"err said {np.mean([g.err for g in got]):.3f}"
        )
        best = None
        for lr in (1e-2, 1e-5, 3e-5, 1e-4, 3e-4):  # the first is the peer's default
            run = np.array(
                [_or_nan(theirs(name, lr, budget - budget * 2 // 5, budget * 2 // 5, s)) for s in range(seeds)]
            )
            bad = float(np.sqrt(np.mean((run - true.value) ** 2)))
            print(
                f"  theirs, lr {lr:g}: {run.mean():.3f} sd {run.std(ddof=1):.3f}, rms error {bad:.3f}: "
                f"{(bad / rms) ** 2:.1f} x the gradients to our error",
                flush=True,
            )
            best = bad if best is None or not bad >= best else best
        assert best is not None
        print(f"  with the best of these steps, chosen with the truth in hand: {(best / rms) ** 2:.1f} x", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["speed", "precision"])
    parser.add_argument("--cases", nargs="*", default=None)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    a = parser.parse_args()
    DEVICE = a.device
    torch.set_num_threads(1)
    old = version("devinterp").startswith("1")
    if a.what == "speed":
        speed(a.cases or (["digits", "superposition", "language"] if old else ["language"]), a.rounds)
    else:
        precision(a.cases or (["digits-300", "digits", "language"] if old else ["language"]), a.seeds)
