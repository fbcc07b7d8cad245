"""The empirical tangent kernel: against one gradient at a time, for layers that are products and for everything else."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from reference.tangents import slow_ntk
from torch import Tensor, nn

from strobe.core.errors import BadOption, Diverged, SiteNotFound
from strobe.core.snapshot import Snapshot
from strobe.observables.tangent_kernel import ROUNDING, ntk


class Attention(nn.Module):
    """Two heads, pre-norm."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.norm, self.qkv, self.o = nn.LayerNorm(d), nn.Linear(d, 3 * d), nn.Linear(d, d, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        q, k, v = (z.unflatten(-1, (2, -1)).transpose(1, 2) for z in self.qkv(self.norm(h)).chunk(3, -1))
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return h + self.o(mixed.transpose(1, 2).flatten(2))


class Text(nn.Module):
    """Tokens, a table of positions of its own, attention, and a readout that may be tied to the tokens."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.tok, self.pos = nn.Embedding(7, 12), nn.Parameter(torch.randn(5, 12))
        self.blocks, self.out = nn.Sequential(Attention(12), Attention(12)), nn.Linear(12, 7, bias=False)
        if tied:
            self.out.weight = self.tok.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.blocks(self.tok(x) + self.pos))[:, -2:, :3]


class Class(nn.Module):
    """A bare parameter, and a matrix of its own that no example can be given apart."""

    def __init__(self) -> None:
        super().__init__()
        self.cls, self.mix = nn.Parameter(torch.randn(1, 4)), nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.cls.expand(len(x), 1, 4), nn.functional.linear(x, self.mix)], 1).tanh().sum(1)


class Loops(nn.Module):
    """What vmap cannot follow: a branch on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 2), nn.Parameter(torch.randn(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.a(row) if row.sum() > 0 else (self.a(row) @ self.b).tanh() for row in x])


def twice() -> nn.Module:
    layer = nn.Linear(6, 6)
    return nn.Sequential(layer, nn.Tanh(), layer)


def frozen() -> nn.Module:
    net = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 2))
    net[0].weight.requires_grad_(False)
    return net


CASES: dict[str, tuple[Any, tuple[int, ...], int]] = {  # network, inputs, how many of its parameters are no products (-1: all)
    "relu in place": (lambda: nn.Sequential(nn.Linear(6, 9), nn.ReLU(inplace=True), nn.Linear(9, 3)), (7, 6), 0),
    "sequence": (lambda: nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 2)), (5, 4, 6), 0),
    "long sequence": (lambda: nn.Sequential(nn.Linear(3, 2), nn.GELU(), nn.Linear(2, 1)), (5, 9, 3), 0),
    "convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 4, (3, 2), padding=(1, 0), stride=2), nn.ReLU(), nn.Conv2d(4, 5, 2, dilation=2), nn.Flatten(), nn.Linear(20, 2)
        ), (6, 2, 8, 8), 0),
    "convolution of a line": (lambda: nn.Sequential(nn.Conv1d(2, 3, 3, padding=2, bias=False), nn.Tanh(), nn.Flatten()), (4, 2, 6), 0),
    "grouped": (lambda: nn.Sequential(nn.Conv1d(2, 4, 3, groups=2), nn.Tanh(), nn.Flatten()), (4, 2, 6), -1),
    "text": (Text, (6, 5), 0),
    "tied": (lambda: Text(tied=True), (6, 5), 84),
    "normalised": (lambda: nn.Sequential(nn.Linear(6, 9), nn.BatchNorm1d(9), nn.Tanh(), nn.Linear(9, 1)), (7, 6), 18),
    "encoder": (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (3, 3, 8), 288),
    "class token": (Class, (4, 3, 4), -1),
    "branches": (Loops, (5, 3), -1),
    "used twice": (twice, (5, 6), -1),
    "frozen": (frozen, (5, 6), 0),
}  # fmt: skip


def made(name: str) -> tuple[nn.Module, Tensor]:
    build, shape, _ = CASES[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        net = build().double().eval()
        return net, torch.randint(7, shape) if name in ("text", "tied") else torch.randn(shape, dtype=torch.float64)


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("options", [{}, {"outputs": "block"}, {"way": "plain"}, {"memory": 20_000}], ids=str)
def test_it_is_the_slow_one(name: str, options: dict[str, Any]) -> None:
    net, x = made(name)
    whole = slow_ntk(net, x).detach().numpy()
    got = ntk(Snapshot(net, None, x), **options)  # type: ignore[arg-type]
    want = whole if options.get("outputs") == "block" else np.einsum("ikjk->ij", whole)
    assert np.abs(got.value - want).max() <= 1e-10 * np.abs(want).max()
    assert (np.abs(got.value - want) <= got.err).all()
    trainable = sum(p.numel() for p in net.parameters() if p.requires_grad)
    left = CASES[name][2]
    assert got.how["plain"] == (trainable if left < 0 or options.get("way") else left)
    assert got.how["products"] + got.how["plain"] == trainable


@pytest.mark.parametrize("outputs", ["trace", "block"])
def test_little_memory_takes_tiles_and_gives_the_same(outputs: str) -> None:
    net, x = made("sequence")
    snap = Snapshot(net, None, x)  # type: ignore[arg-type]
    whole, tiled = (ntk(snap, outputs=outputs, memory=m) for m in (1 << 30, 14_000 if outputs == "block" else 6_000))
    assert whole.how["together"] == 5 > tiled.how["together"]
    assert np.allclose(whole.value, tiled.value, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["sequence", "text", "branches"])
def test_against_other_examples_and_by_part(name: str) -> None:
    net, x = made(name)
    got = ntk(Snapshot(net, None, x[:3]), against=x[2:])  # type: ignore[arg-type]
    want = torch.einsum("ikjk->ij", slow_ntk(net, x[:3], x[2:])).detach().numpy()
    assert np.abs(got.value - want).max() <= 1e-10 * np.abs(want).max()
    parts = ntk(Snapshot(net, None, x), parts="modules")  # type: ignore[arg-type]
    total = ntk(Snapshot(net, None, x)).value  # type: ignore[arg-type]
    assert np.allclose(parts.value.sum(0), total, rtol=1e-12)
    name = next(n for n, p in net.named_parameters() if p.requires_grad)
    one = ntk(Snapshot(net, None, x), parts={"first": name})  # type: ignore[arg-type]
    assert np.allclose(one.value[0], torch.einsum("ikjk->ij", slow_ntk(net, x, names={name})).detach(), rtol=1e-10)
    assert one.how["labels"] == ["first"]


@pytest.mark.parametrize("name", ["relu in place", "convolutions", "text", "encoder"])
def test_err_covers_single_precision(name: str) -> None:
    net, x = made(name)
    truth = ntk(Snapshot(net, None, x)).value  # type: ignore[arg-type]
    single = ntk(Snapshot(deepcopy(net).float(), None, x.float() if x.is_floating_point() else x))  # type: ignore[arg-type]
    assert (np.abs(single.value - truth) <= single.err).all()
    assert single.err.max() <= 2 * ROUNDING * 1.2e-7 * truth.max()


def test_random_directions_of_many_outputs_have_an_honest_error() -> None:
    net, x = made("relu in place")
    truth = ntk(Snapshot(net, None, x)).value  # type: ignore[arg-type]
    found = [ntk(Snapshot(net, None, x), probes=40, seed=s) for s in range(30)]  # type: ignore[arg-type]
    off = np.stack([(f.value - truth) / f.err for f in found])
    assert 0.7 < np.sqrt((off**2).mean()) < 1.4
    assert abs(off.mean()) < 0.5


def test_a_batch_norm_in_training_mode_is_refused_by_torch_and_not_answered_wrongly() -> None:
    net, x = made("normalised")
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        ntk(Snapshot(net, None, x, mode="train"))  # type: ignore[arg-type]


def test_a_network_that_mixes_its_examples_is_measured_one_by_one() -> None:
    class Mixes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            h = self.a(x)
            return self.b(h - 0.5 * h.mean(0))

    torch.manual_seed(0)
    net, x = Mixes().double(), torch.randn(6, 3, dtype=torch.float64)
    got = ntk(Snapshot(net, None, x))  # type: ignore[arg-type]
    want = torch.einsum("ikjk->ij", slow_ntk(net, x)).detach().numpy()
    assert got.how["products"] == 0
    assert np.abs(got.value - want).max() <= 1e-10 * np.abs(want).max()


def test_the_readings_data_and_models_of_users() -> None:
    net = nn.GRU(4, 5, batch_first=True).double()
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    data = {"x": x, "y": torch.zeros(3)}
    got = ntk(Snapshot(net, None, data), forward=lambda m, d: m(d["x"])[0][:, -1])  # type: ignore[arg-type]
    assert got.value.shape == (3, 3)
    assert got.how["outputs"] == 5
    with pytest.raises(BadOption, match="forward=lambda"):
        ntk(Snapshot(net, None, data))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "words", "kind"),
    [
        ({"outputs": "sum"}, "trace", BadOption), ({"way": "fast"}, "plain", BadOption), ({"memory": 0}, "memory", BadOption),
        ({"probes": 1}, "probes", BadOption), ({"probes": 4, "outputs": "block"}, "probes", BadOption),
        ({"memory": 10}, "bytes", BadOption),
        ({"parts": {}}, "at least one", BadOption), ({"parts": "layers"}, "modules", BadOption),
        ({"parts": {"a": "9.*"}}, "no trainable parameter matches", SiteNotFound),
    ],
)  # fmt: skip
def test_bad_options_are_said(options: dict[str, Any], words: str, kind: type[Exception]) -> None:
    net, x = made("frozen")
    with pytest.raises(kind, match=words):
        ntk(Snapshot(net, None, x), **options)  # type: ignore[arg-type]


def test_bad_models_are_said() -> None:
    net, x = made("frozen")
    with pytest.raises(BadOption, match="bfloat16"):
        ntk(Snapshot(deepcopy(net).bfloat16(), None, x))  # type: ignore[arg-type]
    with pytest.raises(BadOption, match="no parameter"):
        ntk(Snapshot(nn.ReLU(), None, x))  # type: ignore[arg-type]
    bad = deepcopy(net)
    with torch.no_grad():
        bad[2].weight[0, 0] = float("nan")
    with pytest.raises(Diverged, match="not finite"):
        ntk(Snapshot(bad, None, x))  # type: ignore[arg-type]
