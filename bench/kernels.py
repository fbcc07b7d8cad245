"""The empirical tangent kernel: Strobe against a plain `torch.func` implementation, and the closed forms against neural-tangents.

    OMP_NUM_THREADS=1 PYTHONPATH=. python bench/kernels.py [mlp wide cnn resnet transformer short block] [--rounds 5] [--seeds 1]
    OMP_NUM_THREADS=1 PYTHONPATH=. python bench/kernels.py closed      # where neural-tangents 0.6.5 and jax 0.4.30 are: against it

The plain one is what torch's tutorial on tangent kernels does: `vmap(jacrev(functional_call))`, then an einsum for each parameter that sums
over outputs (its first form, with the trace in the einsum, which is the fastest of the forms there on these networks). Same kernel, single
precision, one torch thread, CPU seconds (`time.process_time`), both in one process in turns after one call of each; the median of the
rounds' ratios, and the range. Errors: against the plain one in double precision, relative to the largest entry.
The floor is the multiplications that our way needs (forward, a backward pass through activations for each output, the products of
each layer by the cheaper of its two ways, symmetric ones counted half), at the rate that this core multiplies matrices of 1,024.
"""

import argparse
import importlib.util
import statistics
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap
from torch.nn import functional as F  # noqa: N812

from strobe.core.snapshot import Snapshot
from strobe.numerics.wide_kernels import wide_kernels
from strobe.observables.tangent_kernel import ntk


class Residual(nn.Module):
    """x + a convolution of a convolution, without normalisation."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(c, c, 3, padding=1), nn.Conv2d(c, c, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.b(F.relu(self.a(F.relu(x))))


class Block(nn.Module):
    """Pre-norm attention with 4 heads, then a GELU layer."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.n1, self.n2, self.qkv, self.o = nn.LayerNorm(d), nn.LayerNorm(d), nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, h: Tensor) -> Tensor:
        q, k, v = (z.unflatten(-1, (4, -1)).transpose(1, 2) for z in self.qkv(self.n1(h)).chunk(3, -1))
        w = torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, -1)
        h = h + self.o((w @ v).transpose(1, 2).flatten(2))
        return h + self.down(F.gelu(self.up(self.n2(h))))


class Classifier(nn.Module):
    """Tokens to classes: two blocks, the mean of the last layer."""

    def __init__(self, d: int = 64, tokens: int = 16, classes: int = 10) -> None:
        super().__init__()
        self.tok, self.pos = nn.Embedding(64, d), nn.Parameter(0.02 * torch.randn(tokens, d))
        self.blocks, self.out = nn.Sequential(Block(d), Block(d)), nn.Linear(d, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.blocks(self.tok(x) + self.pos).mean(1))


def dense(*widths: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def world(name: str, seed: int) -> tuple[nn.Module, Tensor, int]:
    """The network, its inputs, and positions in its hidden layers."""
    torch.manual_seed(seed)
    if name in ("mlp", "block"):
        return dense(64, 256, 256, 10), torch.randn(64 if name == "block" else 128, 64), 1
    if name == "wide":
        return dense(64, 1024, 1024, 1), torch.randn(256, 64), 1
    if name == "cnn":
        net = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1, stride=2), nn.ReLU(),
            nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
        )  # fmt: skip
        return net, torch.randn(96, 1, 8, 8), 64
    if name == "resnet":
        head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 2)]
        net = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), Residual(32), Residual(32), *head)
        return net, torch.randn(48, 3, 16, 16), 256
    if name == "short":  # wide, and few tokens
        return Classifier(256, 8), torch.randint(64, (48, 8)), 8
    return Classifier(), torch.randint(64, (48, 16)), 16


def plain(net: nn.Module, x: Tensor, block: bool) -> Tensor:
    """As a user writes it."""
    params = {k: p.detach() for k, p in net.named_parameters()}
    jac = vmap(jacrev(lambda p, one: functional_call(net, p, (one[None],))[0]), (None, 0))(params, x)
    form = "iaf,jbf->iajb" if block else "iaf,jaf->ij"
    return sum(torch.einsum(form, j.flatten(2), j.flatten(2)) for j in jac.values())  # type: ignore[return-value]


def floor(net: nn.Module, x: Tensor, k: int, block: bool) -> float:
    """Multiply-adds that our way needs at least: of Linear and Conv2d layers."""
    sizes: list[tuple[int, int, int]] = []

    def see(m: Any, args: Any, out: Tensor) -> None:
        if isinstance(m, nn.Linear):
            sizes.append((args[0][0].numel() // m.in_features, m.in_features, m.out_features))
        else:
            sizes.append((out[0, 0].numel(), m.weight[0].numel(), m.out_channels))

    hooks = [m.register_forward_hook(see) for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    with torch.no_grad():
        net(x[:1])
    for h in hooks:
        h.remove()
    n, total = len(x), 0.0
    for i, (t, d, m) in enumerate(sizes):
        total += n * t * d * m * (1 + k * (i > 0))  # nothing is passed back through the first
        s = k * k if block else k
        whole = n * k * t * d * m * (t > 1) + n * n / 2 * s * m * d
        pairs = n * n / 2 * t * t * (d + s * m)
        total += min(whole, pairs)
    return total


def rate() -> float:
    """Multiply-adds a CPU second, single precision."""
    a = torch.randn(1024, 1024)
    a @ a
    best = min(timed(lambda: a @ a)[0] for _ in range(7))
    return 1024**3 / best


def timed(fn: Callable[[], Any]) -> tuple[float, Any]:
    start = time.process_time()
    got = fn()
    return time.process_time() - start, got


def empirical(name: str, rounds: int, seeds: int) -> None:
    block = name == "block"
    ratios, floors, errs, theirs_errs = [], [], [], []
    for seed in range(seeds):
        net, x, _ = world(name, seed)
        snap = Snapshot(net.eval(), None, x)  # type: ignore[arg-type]
        ours = lambda s=snap: ntk(s, outputs="block" if block else "trace")  # noqa: E731
        peer = lambda m=net, z=x: plain(m, z, block).detach()  # noqa: E731
        twin, wide = net.double(), x.double() if x.is_floating_point() else x
        truth = plain(twin, wide, block).detach().numpy()
        net.float()
        first, other = ours(), peer()
        k = first.how["outputs"]
        errs.append(np.abs(first.value - truth).max() / np.abs(truth).max())
        theirs_errs.append(np.abs(other.numpy() - truth).max() / np.abs(truth).max())
        for _ in range(rounds):
            a, b = timed(ours)[0], timed(peer)[0]
            ratios.append(b / a)
            floors.append(a * rate() / floor(net, x, k, block))
    p = sum(q.numel() for q in net.parameters())
    print(
        f"{name:12s} {p:8,d} {len(x):4d} {k:3d} {first.how['plain']:6,d} {statistics.median(ratios):8.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}) {statistics.median(floors):8.2f} {max(errs):9.1e} {max(theirs_errs):9.1e}",
        flush=True,
    )


def closed(rounds: int) -> None:
    x = np.random.default_rng(0).standard_normal((512, 64))
    ours = lambda: wide_kernels(x, depth=3)  # noqa: E731
    if importlib.util.find_spec("neural_tangents") is None:
        seconds = min(timed(ours)[0] for _ in range(rounds))
        print(f"closed forms, 512 inputs, depth 3: ours {seconds:.3f} CPU s; no neural-tangents here")
        return
    import jax

    jax.config.update("jax_enable_x64", True)
    from neural_tangents import stax

    parts: list[Any] = []
    for _ in range(3):
        parts += [stax.Dense(1, W_std=2**0.5, b_std=0.0), stax.Relu()]
    _, _, kernel = stax.serial(*parts, stax.Dense(1, W_std=2**0.5, b_std=0.0))
    fn = jax.jit(lambda a: kernel(a, None, ("nngp", "ntk")))
    peer = lambda: jax.block_until_ready(fn(x))  # noqa: E731
    got, mine = peer(), ours()
    off = ~np.eye(len(x), dtype=bool)  # theirs has the rounding of an angle on the diagonal, 1e-7
    apart = max(np.abs(np.asarray(a) - b)[off].max() for a, b in zip((got.nngp, got.ntk), mine, strict=True))
    ratios = []
    for _ in range(rounds):
        a, b = timed(ours)[0], timed(peer)[0]
        ratios.append(b / a)
    ratio = statistics.median(ratios)
    print(f"closed forms, 512 inputs, depth 3: neural-tangents / ours {ratio:.2f} CPU, apart {apart:.1e}")


def main() -> None:
    ask = argparse.ArgumentParser()
    ask.add_argument(
        "cases", nargs="*", default=["mlp", "wide", "block", "cnn", "resnet", "transformer", "short", "closed"]
    )
    ask.add_argument("--rounds", type=int, default=5)
    ask.add_argument("--seeds", type=int, default=1)
    args = ask.parse_args()
    torch.set_num_threads(1)
    head = f"{'':12s} {'params':>8s} {'n':>4s} {'k':>3s} {'plain':>6s}"
    print(f"{head} plain / ours (range)      ours/floor    ours err  plain err")
    for name in args.cases:
        if name == "closed":
            closed(args.rounds)
        else:
            empirical(name, args.rounds, args.seeds)


if __name__ == "__main__":
    main()
