"""Fluctuation with depth: its limits in closed form, networks of torch's own layers, and a claim that must fail."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from strobe.core.errors import BadOption
from strobe.core.prediction import judge
from strobe.laws.depth_fluctuation import depth_fluctuation
from strobe.studies.depth import lengths, spread


def test_one_layer_is_the_variance_of_a_squared_rectified_normal_and_one_linear_output_that_of_chi_squared() -> None:
    """E (2 relu(g)²)² = 4 · 3/2 = 6, so 5/n; and E g⁴ = 3, so (1 + 5/n)(1 + 2) - 1."""
    assert depth_fluctuation(widths=[10]).value == pytest.approx(0.5)
    assert depth_fluctuation(widths=[10], outputs=1).value == pytest.approx(3.5)
    assert depth_fluctuation(widths=[10, 20]).value == pytest.approx(1.5 * 1.25 - 1)


def test_plain_depth_is_exponential_scaled_branches_are_bounded_unscaled_ones_grow() -> None:
    """Hanin and Nica's exponent 5 depth / width at large width; exp(4/n) - 1 for branches over √depth."""
    assert depth_fluctuation(widths=[10_000] * 1000).value == pytest.approx(np.expm1(0.5), rel=1e-3)
    scaled = [depth_fluctuation(widths=[64] * d, branch=d**-0.5).value for d in (4, 100, 10_000)]
    assert scaled[-1] == pytest.approx(np.expm1(4 / 64), rel=1e-3)
    assert max(scaled) < 0.08
    n, s2 = 7, 0.3  # the terms of E R² written out
    written = (1 + 2 * s2 + 4 * s2 / n + s2**2 * (1 + 5 / n) * (1 + 2 / n)) / (1 + s2) ** 2
    assert depth_fluctuation(widths=[n], branch=s2**0.5).value == pytest.approx(written - 1)
    assert depth_fluctuation(widths=[1000] * 400, branch=1.0).value == pytest.approx(np.expm1(2.75 * 0.4), rel=1e-2)


def test_networks_of_torch_layers_with_an_output() -> None:
    x, q = torch.randn(5, generator=torch.Generator().manual_seed(0)), []
    torch.manual_seed(0)
    for _ in range(4000):
        net = nn.Sequential(
            nn.Linear(5, 24, bias=False),
            nn.ReLU(),
            nn.Linear(24, 48, bias=False),
            nn.ReLU(),
            nn.Linear(48, 8, bias=False),
        )
        for layer in (net[0], net[2], net[4]):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")  # type: ignore[arg-type]
        with torch.no_grad():
            q.append(net(x).square().mean().item())
    read = spread(np.array(q))
    assert read.err < 0.06
    assert abs(read.value - depth_fluctuation(widths=[24, 48], outputs=8).value) < 3 * read.err


@pytest.mark.parametrize("branch", [None, 0.5, 1.0])
def test_many_at_once_keep_the_law_and_one_layer_less_fails(branch: float | None) -> None:
    x = torch.randn(12, generator=torch.Generator().manual_seed(1))
    q = lengths(x, depth=2, width=12, nets=12_000, seed=3, branch=branch)
    mean = 1.0 if branch is None else (1 + branch**2) ** 2
    assert abs(q.mean() - mean) < 4 * q.std() / len(q) ** 0.5
    read = spread(q)
    said = depth_fluctuation(widths=[12] * 2, branch=branch)
    assert abs(read.value - said.value) < 3 * read.err + 1e-3
    assert judge(depth_fluctuation(widths=[12], branch=branch), read).word == "fails"


@pytest.mark.parametrize("knobs", [
    {"widths": []}, {"widths": [0]}, {"outputs": 0}, {"rtol": 0.0}, {"branch": 0.0}, {"branch": float("nan")},
    {"widths": [4, 8], "branch": 0.5}, {"widths": [2] * 1000},
])  # fmt: skip
def test_bad_knobs(knobs: dict[str, Any]) -> None:
    with pytest.raises(BadOption):
        depth_fluctuation(**({"widths": [64]} | knobs))
