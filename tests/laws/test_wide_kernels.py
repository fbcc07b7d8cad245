"""Wide networks: an ensemble of finite ones against the closed form, by an independent Monte Carlo of the recursion's own definition."""

from typing import Any

import numpy as np
import pytest
import torch

from strobe.core.errors import BadOption
from strobe.core.prediction import judge
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot
from strobe.laws.wide_kernels import closed_form, kernel_fluctuation, kernel_spread, wide_kernel
from strobe.observables.tangent_kernel import ntk
from strobe.studies.limits import _order, distance
from strobe.studies.wide_networks import Wide, lone_kernels

X = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("activation", "weight", "bias", "depth"),
    [("relu", 2.0, 0.0, 1), ("relu", 1.8, 0.2, 2), ("erf", 1.5, 0.1, 3), ("erf", 2.0, 0.0, 1)],
)
def test_the_mean_of_finite_networks(activation: str, weight: float, bias: float, depth: int) -> None:
    how: dict[str, Any] = {"activation": activation, "weight": weight, "bias": bias}
    width, nets = 128, 100
    found = [ntk(Snapshot(Wide(6, *[width] * depth, 1, seed=s, **how), None, X)).value for s in range(nets)]  # type: ignore[arg-type]
    form = closed_form(inputs=X.tolist(), depth=depth, **how)
    said = wide_kernel(inputs=X.tolist(), depth=depth, width=width, nets=nets, **how)
    assert judge(said, Reading(distance(np.mean(found, 0), form), 1e-5)).word == "holds"
    one_less = closed_form(inputs=X.tolist(), depth=depth - 1, **how)
    assert judge(said, Reading(distance(np.mean(found, 0), one_less), 1e-5)).word == "fails"


def test_the_covariance_of_outputs_over_many_networks() -> None:
    outputs = (
        torch.stack([Wide(6, 64, 64, 1, seed=s, bias=0.3)(X)[:, 0].detach() for s in range(1500)]).double().numpy()
    )
    form = closed_form(inputs=X.tolist(), depth=2, bias=0.3, of="nngp")
    assert distance(outputs.T @ outputs / len(outputs), form) < 0.15
    assert abs(outputs.mean()) < 0.1


def test_a_trained_rich_network_has_left_its_kernel() -> None:
    net = Wide(6, 512, 1)
    before = ntk(Snapshot(net, None, X)).value  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(net.parameters(), lr=30.0)
    for _ in range(200):
        optimizer.zero_grad()
        ((0.1 * net(X)[:, 0] - torch.tensor([1.0, -1, 1, -1, 1])).square().mean() / 2).backward()
        optimizer.step()
    said = wide_kernel(inputs=X.tolist(), depth=1, width=512, nets=1)
    assert (
        judge(said, Reading(distance(ntk(Snapshot(net, None, X)).value, closed_form(inputs=X.tolist(), depth=1)))).word
        == "fails"
    )  # type: ignore[arg-type]
    assert judge(said, Reading(distance(before, closed_form(inputs=X.tolist(), depth=1)))).word == "holds"


def test_the_order_is_read_off_with_an_honest_error() -> None:
    draws = np.random.default_rng(0)
    found = [_order({w: np.abs(draws.normal(1, 0.3, 100)) / w**0.5 for w in (16, 64, 256)}) for _ in range(60)]
    off = np.array([(f.value + 0.5) / f.err for f in found])
    assert 0.7 < off.std() < 1.4
    assert judge(kernel_spread(widths=[16, 64]), Reading(-1.0, 0.05)).word == "fails"


@pytest.mark.parametrize(
    "knobs",
    [
        {"depth": -1},
        {"depth": 200},
        {"nets": 0},
        {"activation": "tanh"},
        {"of": "ck"},
        {"inputs": [1.0]},
        {"bias": -1.0},
    ],
)
def test_bad_knobs(knobs: dict[str, Any]) -> None:
    with pytest.raises(BadOption):
        wide_kernel(**({"inputs": [[1.0, 0.0]], "depth": 1, "width": 100, "nets": 4} | knobs))
    with pytest.raises(BadOption):
        kernel_spread(widths=[64, 64])


def test_the_fluctuation_grows_with_depth_over_width() -> None:
    """One layer: Θ = (2|x|²/d)(|w|² + ...), of two terms: 1 + (5 − 2)/n, from moments of normal numbers."""
    assert kernel_fluctuation(widths=[100]).value == pytest.approx(np.exp(0.03))
    one = lone_kernels(1, 10, 200_000, 2)
    assert np.mean(one**2) / np.mean(one) ** 2 == pytest.approx(1.3, abs=0.01)  # exactly 1 + 3/n
    k = lone_kernels(4, 64, 3000, 1)
    assert judge(kernel_fluctuation(widths=[64] * 4), Reading(np.mean(k**2) / np.mean(k) ** 2, 0.02)).word == "holds"
    assert judge(kernel_fluctuation(widths=[256]), Reading(np.mean(k**2) / np.mean(k) ** 2, 0.02)).word == "fails"
    with pytest.raises(BadOption):
        kernel_fluctuation(widths=[16] * 3)
