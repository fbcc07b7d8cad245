"""Lengths and angles along a network: by hand, and in a random deep one as the mean-field maps say."""

import numpy as np
import pytest
import torch
from torch import nn

from strobe.core.errors import BadOption, SiteNotFound
from strobe.core.snapshot import Snapshot
from strobe.laws.order_chaos import order_chaos
from strobe.observables.signal_propagation import signal_propagation


def deep(weight: float, bias: float, layers: int, seed: int, width: int = 400) -> nn.Sequential:
    g = torch.Generator().manual_seed(seed)
    parts: list[nn.Module] = []
    for i in range(layers):
        layer = nn.Linear(100 if i == 0 else width, width)
        with torch.no_grad():
            layer.weight.copy_(torch.randn(layer.weight.shape, generator=g) * (weight / layer.in_features) ** 0.5)
            layer.bias.copy_(torch.randn(width, generator=g) * bias**0.5)
        parts += [layer, nn.Tanh()]
    return nn.Sequential(*parts)


@pytest.mark.parametrize("weight", [1.3, 3.0])
def test_random_networks_do_what_the_maps_say(weight: float) -> None:
    layers, nets = 8, 12
    x = torch.randn(30, 100, generator=torch.Generator().manual_seed(1)) + 0.5
    sites = [str(2 * i) for i in range(layers)]
    each = [signal_propagation(Snapshot(deep(weight, 0.1, layers, s), None, x), sites=sites).value for s in range(nets)]  # type: ignore[arg-type]
    got, err = np.mean(each, 0), np.std(each, 0, ddof=1) / nets**0.5
    how = {"activation": "tanh", "weight": weight, "bias": 0.1}
    curve = order_chaos(layers=layers - 1, of="correlation", correlation=got[0, 1], length=got[0, 0], **how)  # type: ignore[arg-type]
    assert (np.abs(got[1:, 1] - curve.value) < 0.01 + 3 * err[1:, 1]).all()
    assert err[:, 1].max() < 0.02
    assert abs(got[-1, 0] - order_chaos(layers=1, **how).value) < 0.01 + 3 * err[-1, 0]  # type: ignore[arg-type]
    assert (got[-1, 1] > 0.7) == (weight == 1.3)


def test_by_hand_with_positions_and_honest_errors() -> None:
    g = torch.Generator().manual_seed(2)
    net = nn.Sequential(nn.Identity())
    x = torch.randn(5, 2, 3, generator=g)
    got = signal_propagation(Snapshot(net, None, (x, None)), sites=["0"])  # type: ignore[arg-type]
    flat = x.flatten(1)
    assert got.value[0, 0] == pytest.approx(flat.square().mean().item(), rel=1e-6)
    pairs = [torch.cosine_similarity(flat[i], flat[j], 0).item() for i in range(5) for j in range(5) if i != j]
    assert got.value[0, 1] == pytest.approx(np.mean(pairs), rel=1e-5)
    many = [
        signal_propagation(Snapshot(net, None, torch.randn(40, 6, generator=g) + 0.4), sites=["0"]) for _ in range(60)
    ]  # type: ignore[arg-type]
    spread, said = np.std([m.value[0] for m in many], 0), np.mean([m.err[0] for m in many], 0)
    assert (np.abs(np.log(spread / said)) < 0.35).all()


def test_bad_input() -> None:
    net, x = nn.Sequential(nn.Linear(2, 2)), torch.randn(4, 2)
    for bad in (
        {"sites": []},
        {"sites": "0"},
        {"sites": ["0"], "data": x[:2]},
        {"sites": ["0"], "data": torch.full((4, 2), float("nan"))},
    ):
        with pytest.raises(BadOption):
            signal_propagation(Snapshot(net, None, bad.get("data", x)), sites=bad["sites"])  # type: ignore[arg-type]
    with pytest.raises(SiteNotFound):
        signal_propagation(Snapshot(net, None, x), sites=["7"])  # type: ignore[arg-type]
