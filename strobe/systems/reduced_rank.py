"""Reduced rank regression: a linear network with a hidden layer, more parameters than its truth needs, and noise."""

import numpy as np
import torch
from torch import Tensor, nn

from strobe.core.cards import system
from strobe.core.errors import BadOption
from strobe.core.system import System

Pair = tuple[Tensor, Tensor]


@system(
    what="Two linear layers fit noisy data of a truth of lower rank: the smallest singular network",
    ref="Aoyagi and Watanabe 2005, Neural Networks 18, 924",
)
def reduced_rank(
    *,
    inputs: int = 3,
    hidden: int = 2,
    outputs: int = 3,
    rank: int = 1,
    strength: float = 2.0,
    samples: int = 400,
    precision: float = 1.0,
    lr: float = 0.05,
    data_seed: int = 0,
) -> System:
    """L = ½ mean |y − B A x|², y = W x + ε, with x and ε standard normal, W = `strength` times the identity of so low a rank.

    L is the negative log-likelihood of the noise, without its constant: e^{−nL} is a posterior. The prior of that, N(0, 1 /
    `precision`) on every entry, comes in as the optimiser's weight decay, precision / samples: full-batch descent, with
    momentum 0.9, ends at the maximum a posteriori.

    Args: `inputs`, `hidden`, `outputs` widths; `rank` of the truth W; `samples` n, drawn once by `data_seed`, each batch is
    all of them. A probe is 4,096 further examples.
    Facts: truth (outputs, inputs), parameters d, samples, floor_population (the loss of the truth, outputs / 2).
    Ref: Aoyagi and Watanabe 2005, Neural Networks 18, 924 (its learning coefficient).

    >>> world = reduced_rank()
    >>> world.facts["parameters"], world.facts["truth"].diagonal().tolist()
    (12, [2.0, 0.0, 0.0])
    """
    if min(inputs, hidden, outputs, samples) < 1 or not 0 <= rank <= min(inputs, hidden, outputs):
        raise BadOption(
            f"widths and samples are at least 1 and rank at most the smallest width; got {inputs}, {hidden}, {outputs}, "
            f"{samples} and rank {rank}"
        )
    if not (strength > 0 and precision >= 0 and lr > 0):
        raise BadOption(f"strength and lr must be positive, precision not negative; got {strength}, {lr}, {precision}")
    truth = torch.zeros(outputs, inputs)
    truth[range(rank), range(rank)] = strength

    def draw(n: int, rng: np.random.Generator) -> Pair:
        x = torch.from_numpy(rng.standard_normal((n, inputs))).float()
        return x, x @ truth.T + torch.from_numpy(rng.standard_normal((n, outputs))).float()

    data = draw(samples, np.random.default_rng(data_seed))

    def build(seed: int) -> nn.Module:
        g = torch.Generator().manual_seed(seed)
        model = nn.Sequential(
            nn.Linear(inputs, hidden, bias=False, device="meta"), nn.Linear(hidden, outputs, bias=False, device="meta")
        )
        for layer in model:
            layer.weight = nn.Parameter(torch.randn(layer.weight.shape, generator=g) * 0.3)  # type: ignore[arg-type]
        return model

    def loss(model: nn.Module, pair: Pair) -> Tensor:
        return (model(pair[0]) - pair[1]).square().sum(1).mean() / 2

    return System(
        name="reduced_rank",
        path="strobe.systems.reduced_rank:reduced_rank",
        knobs={
            "inputs": inputs, "hidden": hidden, "outputs": outputs, "rank": rank, "strength": strength, "samples": samples,
            "precision": precision, "lr": lr, "data_seed": data_seed,
        },
        build=build,
        batch=lambda seed, step: data,
        loss=loss,
        probe=lambda seed: draw(4096, np.random.default_rng((data_seed, seed, 1))),
        optimizer=lambda model, rate: torch.optim.SGD(
            model.parameters(), lr=rate, momentum=0.9, weight_decay=precision / samples
        ),
        lr=lr,
        facts={
            "truth": truth, "parameters": hidden * (inputs + outputs), "samples": samples, "floor_population": outputs / 2,
        },
    )  # fmt: skip
