"""Modular addition: the whole table of (a + b) mod p, half of it hidden, where a network can be seen to grok."""

from math import log
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from strobe.core.cards import system
from strobe.core.errors import BadOption
from strobe.core.system import System


class Adder(nn.Module):
    """logits = W φ(A[a] + B[b]): a one-hidden-layer perceptron on two one-hot inputs, written as two embeddings."""

    def __init__(self, p: int, width: int, power: bool) -> None:
        super().__init__()
        self.left, self.right = nn.Embedding(p, width), nn.Embedding(p, width)
        self.hidden = _Square() if power else nn.ReLU()
        self.unembed = nn.Linear(width, p, bias=False)

    def forward(self, pairs: Tensor) -> Tensor:
        """Pairs (n, 2 or more) of residues -> logits (n, p)."""
        return self.unembed(self.hidden(self.left(pairs[:, 0]) + self.right(pairs[:, 1])))


class _Square(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.square()


@system(what="A small network learns (a + b) mod p: it memorises first and generalises later", ref="arXiv:2301.02679")
def modular_addition(
    *,
    p: int = 53,
    width: int = 128,
    train_fraction: float = 0.5,
    activation: Literal["square", "relu"] = "square",
    weight_decay: float = 1.0,
    batch: int = 0,
    lr: float = 5e-3,
    init_scale: float = 1.0,
    split_seed: int = 0,
) -> System:
    """Cross-entropy on a fixed random part of the p × p addition table; the rest of the table is the probe.

    A batch is a LongTensor (n, 3) of rows (a, b, (a + b) mod p); the id of an example is a·p + b.

    Args: `train_fraction` of the table is trained on; `batch=0` takes all of it at every step, otherwise so many
    rows, with replacement; `activation="square"` is the network whose Fourier solution is known in closed form
    (Gromov 2023); `init_scale` multiplies the initial weights; AdamW with `weight_decay` and `lr`.
    Facts: p, chance (ln p, the loss of a uniform guess), train_rows, probe_rows.
    Ref: Gromov, arXiv:2301.02679 (there: mean-squared error); Power et al., arXiv:2201.02177 (the split-table task).

    >>> world = modular_addition(p=7)
    >>> [len(world.batch(0, 0)), len(world.probe(0))]
    [24, 25]
    """
    _check(p, width, train_fraction, activation, weight_decay, batch, lr, init_scale)
    a, b = torch.arange(p).repeat_interleave(p), torch.arange(p).repeat(p)
    table = torch.stack([a, b, (a + b) % p], dim=1)
    order = torch.randperm(p * p, generator=torch.Generator().manual_seed(split_seed))
    cut = round(train_fraction * p * p)
    train, held = table[order[:cut].sort().values], table[order[cut:].sort().values]

    def build(seed: int) -> nn.Module:
        model = Adder(p, width, activation == "square")
        g = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for w in model.parameters():  # left, right: fan-in 2 of one-hot inputs; unembed: fan-in width
                fan = width if w is model.unembed.weight else 2
                w.copy_(torch.randn(w.shape, generator=g) * init_scale / fan**0.5)
        return model

    def rows(seed: int, step: int) -> Tensor:
        if not batch:
            return train
        return train[torch.from_numpy(np.random.default_rng((seed, step)).integers(len(train), size=batch))]

    def example_loss(model: nn.Module, data: Tensor) -> tuple[Tensor, Tensor]:
        return data[:, 0] * p + data[:, 1], cross_entropy(model(data), data[:, 2], reduction="none")

    return System(
        name="modular_addition",
        path="strobe.systems.modular_addition:modular_addition",
        knobs={
            "p": p, "width": width, "train_fraction": train_fraction, "activation": activation,
            "weight_decay": weight_decay, "batch": batch, "lr": lr, "init_scale": init_scale, "split_seed": split_seed,
        },
        build=build,
        batch=rows,
        loss=lambda model, data: example_loss(model, data)[1].mean(),
        probe=lambda seed: held,
        optimizer=lambda model, rate: torch.optim.AdamW(
            model.parameters(), lr=rate, weight_decay=weight_decay, betas=(0.9, 0.98)
        ),
        lr=lr,
        floor=0.0,
        facts={"p": p, "chance": log(p), "train_rows": len(train), "probe_rows": len(held)},
        example_loss=example_loss,
    )  # fmt: skip


def _check(
    p: int, width: int, fraction: float, activation: str, weight_decay: float, batch: int, lr: float, init_scale: float
) -> None:
    if p < 3 or width < 1:
        raise BadOption(f"modular_addition needs p >= 3 and width >= 1, got p={p}, width={width}")
    if not 0 < fraction < 1:
        raise BadOption(f"train_fraction is a part of the table, strictly between 0 and 1, got {fraction}")
    if activation not in ("square", "relu"):
        raise BadOption(f"activation is 'square' or 'relu', got {activation!r}")
    if weight_decay < 0 or batch < 0 or lr <= 0 or init_scale <= 0:
        got = f"{weight_decay}, {batch}, {lr}, {init_scale}"
        raise BadOption(f"weight_decay and batch must be >= 0, lr and init_scale > 0; got {got}")
