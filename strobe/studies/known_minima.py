"""Minima whose learning coefficient is known: polynomials, deep linear and tanh networks placed at them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from strobe.core.prediction import Prediction
from strobe.core.snapshot import Snapshot
from strobe.laws.known_rlct import normal_crossing_rlct, sum_rlct, tanh_rlct, weighted_rlct
from strobe.laws.rlct_linear import deep_linear_rlct, linear_fibre_rlct

INPUTS = np.sqrt(3) * (np.arange(64) - 31.5) / 32  # midpoints: uniform, of variance 1


@dataclass(frozen=True)
class Minimum:
    """One of them: what law says its coefficient, and how many parameters it has."""

    name: str
    kind: str
    law: Prediction
    parameters: int
    snapshot: Callable[[], Snapshot]


class Polynomial(nn.Module):
    """K(w) of a few numbers, at a point."""

    def __init__(self, at: Sequence[float], excess: Callable[[Any], Any]) -> None:
        super().__init__()
        self.w, self.excess = nn.Parameter(torch.tensor(at, dtype=torch.float32)), excess

    def forward(self) -> Tensor:
        return self.excess(list(self.w.unbind()))


class Linear(nn.Module):
    """y = W_L … W₁ x, at the factors given."""

    def __init__(self, factors: Sequence[np.ndarray]) -> None:
        super().__init__()
        self.w = nn.ParameterList([nn.Parameter(torch.tensor(f, dtype=torch.float32)) for f in factors])

    def forward(self, x: Tensor) -> Tensor:
        for w in self.w:
            x = x @ w.T
        return x


class Tanh(nn.Module):
    """f(x) = Σ a_h tanh(b_h x) at a = b = 0."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.a, self.b = nn.Parameter(torch.zeros(hidden)), nn.Parameter(torch.zeros(hidden))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x * self.b) @ self.a[:, None]


def half_square(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
    """½ mean over examples of |f(x) - y|²."""
    return (model(data[0]) - data[1]).square().sum(-1).mean() / 2


def factors_of(widths: Sequence[int], rank: int, seed: int = 0) -> list[np.ndarray]:
    """W_l = Q_l diag(1, …, 1, 0, …) Q_{l-1}ᵀ of rank min(rank, its sizes), with random rotations Q: no axis is special."""
    rng = np.random.default_rng(seed)
    q = [np.linalg.qr(rng.normal(size=(d, d)))[0] for d in widths]
    middle = [np.eye(b, a) * (np.arange(a) < rank) for a, b in pairwise(widths)]
    return [q[i + 1] @ m @ q[i].T for i, m in enumerate(middle)]


def polynomials() -> list[Minimum]:
    """Fourteen, of one to five numbers, all at a most singular point."""

    def at(name: str, size: int, excess: Callable[[Any], Any], law: Prediction) -> Minimum:
        build = lambda: Snapshot(Polynomial([0.0] * size, excess), lambda m, _: m(), None)  # noqa: E731
        return Minimum(name, "polynomial", law, size, build)

    crossing, weighted = normal_crossing_rlct, weighted_rlct
    square = lambda w: sum(x * x for x in w)  # noqa: E731
    return [
        at("w⁴", 1, lambda w: w[0] ** 4, crossing(exponents=[4])),
        at("w⁶", 1, lambda w: w[0] ** 6, crossing(exponents=[6])),
        at("(w₁w₂)²", 2, lambda w: (w[0] * w[1]) ** 2, crossing(exponents=[2, 2])),
        at("w₁²w₂⁴", 2, lambda w: w[0] ** 2 * w[1] ** 4, crossing(exponents=[2, 4])),
        at("w₁⁴w₂⁶", 2, lambda w: w[0] ** 4 * w[1] ** 6, crossing(exponents=[4, 6])),
        at("(w₁w₂w₃)²", 3, lambda w: (w[0] * w[1] * w[2]) ** 2, crossing(exponents=[2] * 3)),
        at("|w|⁴ in 2", 2, lambda w: square(w) ** 2, weighted(weights=[1 / 4] * 2)),
        at("|w|⁴ in 4", 4, lambda w: square(w) ** 2, weighted(weights=[1 / 4] * 4)),
        at("|w|⁶ in 3", 3, lambda w: square(w) ** 3, weighted(weights=[1 / 6] * 3)),
        at("w₁² + w₂⁴", 2, lambda w: w[0] ** 2 + w[1] ** 4, weighted(weights=[1 / 2, 1 / 4])),
        at("w₁² + w₂⁴ + w₃⁶", 3, lambda w: w[0] ** 2 + w[1] ** 4 + w[2] ** 6, weighted(weights=[1 / 2, 1 / 4, 1 / 6])),
        at("(w₁w₂)² + w₃⁴ + (w₄w₅)²", 5, lambda w: (w[0] * w[1]) ** 2 + w[2] ** 4 + (w[3] * w[4]) ** 2,
           sum_rlct(parts=[0.5, 0.25, 0.5], multiplicities=[2, 1, 2])),
        at("cusp (w₁² − w₂³)²", 2, lambda w: (w[0] ** 2 - w[1] ** 3) ** 2, weighted(weights=[1 / 4, 1 / 6], vanishing=2)),
        at("three lines (w₁w₂(w₁ − w₂))²", 2, lambda w: (w[0] * w[1] * (w[0] - w[1])) ** 2,
           weighted(weights=[1 / 6] * 2, vanishing=2)),
    ]  # fmt: skip


def deep_linear_at(widths: Sequence[int], rank: int, *, seed: int = 0) -> Minimum:
    """A deep linear network whose factors all have the rank of the truth: the most singular of its minima."""
    factors = factors_of(widths, rank, seed)
    law = deep_linear_rlct(widths=tuple(widths), rank=rank)
    name = f"linear {'-'.join(map(str, widths))}, rank {rank}"
    return Minimum(name, "deep linear", law, sum(f.size for f in factors), partial(_linear, factors))


def generic_linear_at(widths: Sequence[int], *, seed: int = 0) -> Minimum:
    """One whose factors have full rank: a smooth point of its minima."""
    factors = factors_of(widths, max(widths), seed)
    law = linear_fibre_rlct(widths=tuple(widths))
    name = f"linear {'-'.join(map(str, widths))}, full rank"
    return Minimum(name, "deep linear", law, sum(f.size for f in factors), partial(_linear, factors))


def random_linear(count: int, *, layers: tuple[int, int], width: tuple[int, int], seed: int = 0) -> list[Minimum]:
    """As many deep linear networks of random depth (matrices), widths and rank, between the ends given."""
    rng = np.random.default_rng((seed, count))
    out = []
    for i in range(count):
        widths = rng.integers(width[0], width[1] + 1, size=int(rng.integers(layers[0], layers[1] + 1)) + 1).tolist()
        out.append(deep_linear_at(widths, int(rng.integers(0, min(widths) + 1)), seed=1000 * seed + i))
    return out


def tanh_at(hidden: int) -> Minimum:
    """A tanh network of one input and output at zero, on a zero truth."""

    def build() -> Snapshot:
        x = torch.tensor(INPUTS[:, None], dtype=torch.float32)
        return Snapshot(Tanh(hidden), half_square, (x, torch.zeros_like(x)))

    return Minimum(f"tanh 1-{hidden}-1", "tanh", tanh_rlct(hidden=hidden), 2 * hidden, build)


def _linear(factors: list[np.ndarray]) -> Snapshot:
    """On whitened inputs, so that the excess loss is ½ |W − W*|²."""
    width = factors[0].shape[1]
    x = torch.eye(width) * width**0.5
    model = Linear(factors)
    with torch.no_grad():
        return Snapshot(model, half_square, (x, model(x).clone()))
