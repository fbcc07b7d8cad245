"""Networks as theories of wide ones write them, and their output scaled up: what studies of limits train."""

import copy
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from strobe.core.system import System
from strobe.studies.images import standardised

EXAMPLES = 60  # digits of one lazy training


class Wide(nn.Module):
    """A fully connected network in NTK parametrisation: standard normal parameters, √(weight/width) and √bias outside."""

    def __init__(
        self, *widths: int, weight: float = 2.0, bias: float = 0.0, activation: str = "relu", seed: int = 0
    ) -> None:
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.act = {"relu": torch.relu, "erf": torch.erf, "tanh": torch.tanh}[activation]
        self.weight, self.bias = weight, bias
        self.layers = nn.ModuleList(skip_init(nn.Linear, a, b, bias=False) for a, b in pairwise(widths))
        self.biases = nn.ParameterList(nn.Parameter(torch.randn(b, generator=g)) for b in widths[1:] if bias)
        with torch.no_grad():
            for p in self.layers.parameters():
                p.copy_(torch.randn(p.shape, generator=g))

    def hidden(self, x: Tensor) -> Tensor:
        """What the last layer takes."""
        for i in range(len(self.layers) - 1):
            x = self.act(self._layer(i, x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self._layer(len(self.layers) - 1, self.hidden(x))

    def _layer(self, i: int, x: Tensor) -> Tensor:
        z = (self.weight / x.shape[-1]) ** 0.5 * self.layers[i](x)
        return z + self.bias**0.5 * self.biases[i] if self.bias else z


class Scaled(nn.Module):
    """α (f_w − f_w0): the output scaled up, zero at the start."""

    def __init__(self, net: nn.Module, alpha: float) -> None:
        super().__init__()
        self.net, self.alpha = net, alpha
        self.first = copy.deepcopy(net).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.alpha * (self.net(x) - self.first(x))


def parity_digits(*, width: int = 256, alpha: float = 100.0, n: int = EXAMPLES, lr: float = 0.05) -> System:
    """Odd or even digits as ±1 and a network whose output is scaled by alpha; plain descent at lr / alpha²."""
    x, y = standardised()
    data = (x[:n], (2.0 * (y[:n] % 2) - 1)[:, None])

    def loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        return (model(batch[0]) - batch[1]).square().mean() / 2

    return System(
        "parity_digits", "strobe.studies.wide_networks:parity_digits", {"width": width, "alpha": alpha, "n": n, "lr": lr},
        lambda seed: Scaled(Wide(64, width, 1, seed=seed, activation="erf"), alpha), lambda seed, step: data, loss, lambda seed: data,
        lambda m, rate: torch.optim.SGD(m.parameters(), lr=rate / alpha**2), lr,
    )  # fmt: skip


def lone_kernels(depth: int, width: int, nets: int, seed: int, dim: int = 16) -> np.ndarray:
    """Θ(x, x) of random ReLU networks, many at once: Σ over layers of |what it takes|² times |what comes back|²."""
    g = torch.Generator().manual_seed(seed)
    x, found = torch.randn(dim, generator=g), []
    for start in range(0, nets, 250):
        count = min(250, nets - start)
        sizes = [dim, *[width] * depth, 1]
        weights = [torch.randn(count, b, a, generator=g) for a, b in pairwise(sizes)]
        h, taken, on = x.expand(count, dim), [], []
        for w in weights:
            taken.append(2 * h.square().mean(1))
            z = (2 / h.shape[1]) ** 0.5 * torch.bmm(w, h[:, :, None])[:, :, 0]
            on.append((z > 0).float())
            h = z.relu()
        back, total = torch.ones(count, 1), torch.zeros(count)
        for i in reversed(range(len(weights))):
            total += taken[i] * back.square().sum(1)
            if i:
                back = (2 / weights[i].shape[2]) ** 0.5 * torch.bmm(back[:, None], weights[i])[:, 0] * on[i - 1]
        found.append(total.double().numpy())
    return np.concatenate(found)
