from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from strobe.core.errors import BadOption, SiteNotFound
from strobe.core.snapshot import Snapshot
from strobe.observables.llc import llc
from strobe.observables.refined_llc import refined_llc
from strobe.systems.attention_language import AttentionOnly


def linear_net(*widths: int) -> Snapshot:
    """A deep linear network at a generic point, on data that are its own output: K = |W - W*|² on white inputs."""
    torch.manual_seed(0)
    net = nn.Sequential(*(nn.Linear(a, b, bias=False) for a, b in pairwise(widths)))
    for layer in net:
        nn.init.orthogonal_(layer.weight)
    x = torch.linalg.qr(torch.randn(200, widths[0]))[0] * 200**0.5
    return Snapshot(net, lambda m, d: (m(d[0]) - d[1]).square().sum(1).mean() / 2, (x, net(x).detach()))


def test_layers_of_a_linear_network_have_half_the_rank_of_their_jacobian() -> None:
    """6-4-5-3: 9, 6, 6; pairs (1,2) 9, (2,3) 6, (1,3) 9; all 9 (specs/slt.md, section 3)."""
    parts = {
        "1": "0.weight", "2": "1.weight", "3": "2.weight", "1, 2": ["0.weight", "1.weight"], "2, 3": ["1.*", "2.*"],
        "1, 3": ["0.*", "2.*"], "all": "*",
    }  # fmt: skip
    got = refined_llc(linear_net(6, 4, 5, 3), parts=parts, nbeta=1e4, gamma=1.0, chains=16, budget=2000)
    true = np.array([9, 6, 6, 9, 6, 9, 9.0])
    assert got.how["labels"] == list(parts)
    assert got.how["parameters"] == [24, 20, 15, 44, 35, 39, 59]
    assert (np.abs(got.value - true) < 0.05 * true).all(), got.value
    assert (np.abs(got.value - true) < 3 * got.err).all()


def test_one_part_of_all_parameters_is_the_whole_coefficient() -> None:
    snap = linear_net(4, 3, 2)
    part, whole = (
        refined_llc(snap, parts={"all": "*"}, nbeta=1e4, gamma=1, chains=16),
        llc(snap, nbeta=1e4, gamma=1, chains=16),
    )
    assert abs(part.value[0] - whole.value) < 3 * np.hypot(part.err[0], whole.err)


def language(seed: int = 0) -> Snapshot:
    torch.manual_seed(seed)
    net = AttentionOnly(12, 16, 16, 2, 2, "rotary", 1, False)
    x = torch.randint(12, (16, 17), generator=torch.Generator().manual_seed(1))
    x[:, 9:] = x[:, 1:9]
    snap = Snapshot(net, lambda m, d: nn.functional.cross_entropy(m(d[:, :-1]).flatten(0, 1), d[:, 1:].flatten()), x)
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(150):
        optimizer.zero_grad()
        snap.loss(net, x).backward()
        optimizer.step()
    return snap


def head(layer: int, index: int, of: int = 2) -> list[str]:
    rows = [f"blocks.{layer}.attn.{k}:param.weight/{of}@0[{index}]" for k in "qkv"]
    return [*rows, f"blocks.{layer}.attn.o:param.weight/{of}@1[{index}]"]


def test_heads_are_parts_and_sum_to_no_more_than_is_free() -> None:
    snap = language()
    parts = {f"{i}.{h}": head(i, h) for i in range(2) for h in range(2)}
    got = refined_llc(snap, parts=parts, nbeta=200, gamma=50, chains=4, budget=250)
    assert got.how["parameters"] == [4 * 8 * 16] * 4
    assert (got.value > 0).all()
    assert (got.value < 256).all()
    assert got.value.shape == got.err.shape == (4,)
    by_modules = refined_llc(snap, nbeta=200, gamma=50, chains=2, budget=200)
    assert {"embed", "blocks.0.attn.q", "unembed"} <= set(by_modules.how["labels"])


def test_other_data_give_the_data_refined_coefficient() -> None:
    snap = linear_net(4, 2)
    x = snap.data[0] * torch.tensor([1.0, 1.0, 0.0, 0.0])
    with torch.no_grad():
        flat = replace(snap, data=(x, snap.model(x)))
    options: dict[str, Any] = {"parts": {"all": "*"}, "nbeta": 1e4, "gamma": 1.0, "chains": 16, "budget": 1000}
    assert refined_llc(snap, **options).value[0] == pytest.approx(4.0, rel=0.08)
    assert refined_llc(flat, **options).value[0] == pytest.approx(2.0, rel=0.08)  # half the inputs are never seen


def test_the_err_is_true_over_seeds() -> None:
    def loss(m: nn.Module, d: tuple[Tensor, Tensor]) -> Tensor:
        return (m(d[0]) - d[1]).square().sum(1).mean() / 2

    snap = replace(linear_net(6, 4, 3), loss=loss)
    rows = [refined_llc(snap, nbeta=1000, gamma=1.0, budget=400, seed=s) for s in range(8)]
    values, errs = np.array([r.value for r in rows]), np.array([r.err for r in rows])
    assert (values.std(axis=0, ddof=1) < 2 * errs.mean(axis=0)).all()
    assert (errs.mean(axis=0) < 5 * values.std(axis=0, ddof=1)).all()


@pytest.mark.parametrize(
    ("parts", "error", "words"),
    [
        ({}, BadOption, "at least one part"),
        ({"a": "0.wieght"}, SiteNotFound, r"part 'a': no trainable parameter matches '0.wieght'.*0.weight"),
        ({"a": "3:param.weight[0]"}, SiteNotFound, "no module '3'"),
        ({"a": "0:param.weight/5@0[1]"}, SiteNotFound, "5 parts do not divide"),
    ],
)
def test_parts_that_are_not_there_are_said(parts: dict[str, str], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        refined_llc(linear_net(4, 3, 2), parts=parts, nbeta=100)
