"""Alignment of the tangent kernel: closed forms, the slow formula, and its drift in training."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from strobe.core.errors import BadOption
from strobe.core.snapshot import Snapshot
from strobe.observables.kernel_alignment import _cosine, kernel_alignment
from strobe.observables.tangent_kernel import ntk


def slow(a: np.ndarray, b: np.ndarray) -> float:
    n = len(a)
    h = np.eye(n) - 1 / n
    a, b = h @ a @ h, h @ b @ h
    return float((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b))


def fit(n: int = 40, width: int = 30) -> tuple[nn.Module, tuple[torch.Tensor, torch.Tensor]]:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Linear(width, 1)).double()
    x = torch.randn(n, 4, dtype=torch.float64)
    return net, (x, (x[:, 0] > 0).double() * 2 - 1)


def loss(m: nn.Module, d: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return (m(d[0]).squeeze(-1) - d[1]).square().mean()


def test_it_is_the_centred_cosine_and_its_error_is_leaving_one_out() -> None:
    g = np.random.default_rng(0)
    a, b = (z @ z.T for z in (g.standard_normal((12, 5)), g.standard_normal((12, 3))))
    value, err = _cosine(a, b, True)
    assert value == pytest.approx(slow(a, b), rel=1e-12)
    out = np.array([slow(np.delete(np.delete(a, i, 0), i, 1), np.delete(np.delete(b, i, 0), i, 1)) for i in range(12)])
    assert err == pytest.approx(np.sqrt(11 / 12 * ((out - out.mean()) ** 2).sum()), rel=1e-9)
    plain, _ = _cosine(a, b, False)
    assert plain == pytest.approx((a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b), rel=1e-12)


def test_of_a_linear_model_it_is_known_and_class_numbers_are_unit_vectors() -> None:
    x = torch.eye(3, dtype=torch.float64).repeat(2, 1)
    net = nn.Linear(3, 2, bias=False).double()
    got = kernel_alignment(Snapshot(net, loss, (x, torch.tensor([4, 5, 6, 4, 5, 6]))))
    assert got.value == pytest.approx(1.0)
    other = kernel_alignment(Snapshot(net, loss, (x, torch.tensor([0, 0, 1, 1, 2, 2]))))
    assert other.value < 0.5


def test_training_turns_the_kernel_to_its_targets_and_away_from_where_it_was() -> None:
    net, data = fit(120)
    first = deepcopy(net)
    start = Snapshot(first, loss, data)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(200):
        optimizer.zero_grad()
        loss(net, data).backward()
        optimizer.step()
    last = Snapshot(net, loss, data)
    before, after = kernel_alignment(start), kernel_alignment(last)
    assert after.value - before.value > 3 * np.hypot(after.err, before.err)
    drift = kernel_alignment(last, to=start)
    assert drift.value == kernel_alignment(last, to=ntk(start).value).value
    assert drift.value < 0.99 < kernel_alignment(start, to=start).value
    parts = kernel_alignment(last, parts={"in": "0.*", "out": "2.*"})
    assert parts.how["labels"] == ["in", "out"]
    assert parts.value.shape == parts.err.shape == (2,)


def test_bad_input() -> None:
    net, data = fit(6)
    with pytest.raises(BadOption, match="second element"):
        kernel_alignment(Snapshot(net, loss, data[0]))
    with pytest.raises(BadOption, match="second element"):
        kernel_alignment(Snapshot(net, loss, data), to="start")
    with pytest.raises(BadOption, match="same three"):
        kernel_alignment(Snapshot(net, loss, data), to=np.eye(5))
    with pytest.raises(BadOption, match="no direction"):
        kernel_alignment(Snapshot(net, loss, (data[0], torch.ones(6))))
