"""Deep linear network on whitened data: the network whose training is solved in closed form."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn

from strobe.core.cards import system
from strobe.core.errors import BadOption
from strobe.core.system import System

Pair = tuple[Tensor, Tensor]


@system(what="A deep linear network learns a matrix of known singular values, mode by mode", ref="arXiv:1312.6120")
def deep_linear(
    *,
    singular_values: Sequence[float] = (4.0, 2.0, 1.0, 0.5),
    depth: int = 2,
    dim: int = 8,
    width: int = 16,
    init: Literal["balanced", "random"] = "balanced",
    start: float = 1e-3,
    imbalance: float = 1.0,
    lr: float = 2e-3,
    teacher_seed: int = 0,
) -> System:
    """Full-batch gradient descent on L = ½‖M − W_L…W_1‖²_F, with M = Σᵢ sᵢ uᵢ vᵢᵀ.

    The data are x (dim, dim) with xᵀx = I (whitened) and y = x Mᵀ, so the summed squared error over the rows,
    halved, is exactly the matrix loss above. The ½ is part of the convention: without it every rate doubles.

    Args: `singular_values` s of the teacher (at most `dim` of them); `depth` L; `width` of the hidden layers.
    `init="balanced"` sets W_l = Q_l diag(start^{1/L}) Q_{l−1}ᵀ, aligned with the teacher (Q_0 = V, Q_L = U), so that
    every mode begins at strength `start`; `imbalance` b > 1 multiplies W_1 by b and divides W_L by it, which keeps the
    product and breaks the balance. `init="random"` draws entries N(0, start^{2/L} / fan_in).
    Facts: singular_values, left (dim, r), right (dim, r), start, depth, convention.
    Ref: Saxe, McClelland and Ganguli, arXiv:1312.6120.

    >>> world = deep_linear()
    >>> round(world.loss(world.build(0), world.batch(0, 0)).item(), 2)  # half the sum of squares is 10.625
    10.62
    """
    values = tuple(float(s) for s in singular_values)
    _check(values, depth, dim, width, init, start, imbalance, lr)
    g = torch.Generator().manual_seed(teacher_seed)
    left, right, x = _frame(dim, len(values), g), _frame(dim, len(values), g), _frame(dim, dim, g)
    data = (x, x @ (left * torch.tensor(values) @ right.T).T)

    def build(seed: int) -> nn.Module:
        made = torch.Generator().manual_seed(seed)
        shapes = [(width if i < depth - 1 else dim, width if i else dim) for i in range(depth)]
        weights = (
            _random(shapes, start ** (1 / depth), made)
            if init == "random"
            else _balanced(shapes, left, right, start ** (1 / depth), imbalance, made)
        )
        return _stack(weights)

    return System(
        name="deep_linear",
        path="strobe.systems.deep_linear:deep_linear",
        knobs={
            "singular_values": list(values), "depth": depth, "dim": dim, "width": width, "init": init, "start": start,
            "imbalance": imbalance, "lr": lr, "teacher_seed": teacher_seed,
        },
        build=build,
        batch=lambda seed, step: data,
        loss=_loss,
        probe=lambda seed: data,
        optimizer=lambda model, rate: torch.optim.SGD(model.parameters(), lr=rate),
        lr=lr,
        floor=0.0,
        facts={
            "singular_values": list(values), "left": left, "right": right, "start": start, "depth": depth,
            "convention": "L = ½‖M − W_L…W_1‖², sum over entries, xᵀx = I",
        },
        example_loss=_example_loss,
    )  # fmt: skip


def _loss(model: nn.Module, batch: Pair) -> Tensor:
    return _example_loss(model, batch)[1].sum()


def _example_loss(model: nn.Module, batch: Pair) -> Pair:
    x, y = batch
    return torch.arange(len(x)), (model(x) - y).square().sum(1) / 2


def _frame(rows: int, columns: int, g: torch.Generator) -> Tensor:
    """A random matrix with orthonormal columns."""
    return torch.linalg.qr(torch.randn(rows, columns, generator=g, dtype=torch.float64))[0].float()


def _random(shapes: list[tuple[int, int]], scale: float, g: torch.Generator) -> list[Tensor]:
    return [torch.randn(shape, generator=g) * scale / shape[1] ** 0.5 for shape in shapes]


def _balanced(
    shapes: list[tuple[int, int]], left: Tensor, right: Tensor, scale: float, imbalance: float, g: torch.Generator
) -> list[Tensor]:
    frames = [right, *(_frame(rows, left.shape[1], g) for rows, _ in shapes[:-1]), left]
    weights = [scale * b @ a.T for a, b in pairwise(frames)]
    weights[0], weights[-1] = weights[0] * imbalance, weights[-1] / imbalance
    return weights


def _stack(weights: list[Tensor]) -> nn.Module:
    layers = [nn.Linear(w.shape[1], w.shape[0], bias=False, device="meta") for w in weights]
    for layer, w in zip(layers, weights, strict=True):
        layer.weight = nn.Parameter(w)
    return nn.Sequential(*layers)


def _check(
    values: tuple[float, ...], depth: int, dim: int, width: int, init: str, start: float, imbalance: float, lr: float
) -> None:
    if depth < 2:
        raise BadOption(f"deep_linear needs depth >= 2 (two weight matrices), got {depth}")
    most = min(dim, width)
    if not values or min(values) <= 0 or len(values) > most:
        raise BadOption(f"deep_linear needs 1 to min(dim, width) = {most} positive singular values, got {values}")
    if len(set(values)) < len(values):
        raise BadOption(f"singular values must differ, or their modes have no direction of their own: {values}")
    if init not in ("balanced", "random"):
        raise BadOption(f"init is 'balanced' or 'random', got {init!r}")
    if imbalance != 1 and init == "random":
        raise BadOption("imbalance belongs to init='balanced': a random start is not balanced anyway")
    if not min(start, imbalance, lr) > 0:
        raise BadOption(f"start, imbalance and lr must be positive, got {start}, {imbalance}, {lr}")
