import copy
import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from strobe.core.errors import BadOption, Diverged
from strobe.core.snapshot import Snapshot
from strobe.core.stacked import StackedLoss
from strobe.observables.llc import llc
from strobe.observables.local_draws import settings


def squares(model: nn.Module, data: Any) -> Tensor:
    return (model(data[0]).squeeze(-1) - data[1]).square().mean() / 2


def regression(n: int, noise: float = 0.3) -> tuple[Snapshot, Tensor]:
    """A least-squares fit, with the eigenvalues of its Hessian."""
    g = torch.Generator().manual_seed(1)
    x = torch.randn(n, 6, generator=g) * torch.tensor([2.0, 1.5, 1.0, 0.5, 0.2, 0.05])
    y = x @ torch.ones(6) + noise * torch.randn(n, generator=g)
    net = nn.Linear(6, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.linalg.lstsq(x, y[:, None]).solution.T)
    return Snapshot(net, squares, (x, y)), torch.linalg.eigvalsh(x.T @ x / n).double()


def quadratic(h: Tensor, nbeta: float, gamma: float) -> float:
    """Σ ½ N h / (N h + γ)."""
    return float((nbeta * h / (nbeta * h + gamma)).sum()) / 2


def power(k: float, w0: float = 0.0) -> Snapshot:
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, w0)
    return Snapshot(net, lambda m, _: m.weight.abs().pow(k).sum(), ())


@pytest.mark.parametrize(("nbeta", "gamma"), [(50.0, 1.0), (5000.0, 1.0), (300.0, 30.0)])
def test_a_quadratic_is_exact_with_all_the_data(nbeta: float, gamma: float) -> None:
    snap, h = regression(200)
    got = llc(snap, nbeta=nbeta, gamma=gamma, budget=1500)
    assert got.how["exact_gradients"]
    assert got.how["flags"] == []
    assert abs(got.value - quadratic(h, nbeta, gamma)) < max(2.5 * got.err, 0.01)
    assert got.err < 0.03 * got.value
    assert got.how["variance"] == pytest.approx(got.value, rel=0.2)  # m = 1: N ΔL is Gamma(λ, 1)


def test_minibatches_give_what_all_the_data_give_and_their_error_is_true() -> None:
    snap, h = regression(1000)
    rows = [llc(snap, nbeta=145, gamma=5, batch=32, chains=16, budget=1200, seed=s) for s in range(12)]
    values, errs = np.array([r.value for r in rows]), np.array([r.err for r in rows])
    true = quadratic(h, 145, 5)
    assert not rows[0].how["exact_gradients"]
    assert abs(values.mean() - true) < 0.04 * true
    assert (np.abs(values - true) < 2 * errs).sum() >= 10
    assert values.std(ddof=1) < 1.5 * errs.mean()  # the baseline's own noise included
    assert errs.mean() < 4 * values.std(ddof=1)


@pytest.mark.parametrize(("n", "batch"), [(33, 32), (40, 20), (41, 32), (50, 4), (37, 12)])
def test_data_of_any_number_are_dealt_into_batches(n: int, batch: int) -> None:
    """Also where one batch holds them all: what is measured is the loss of the examples that are used."""
    snap, h = regression(n)
    got = llc(snap, nbeta=20, gamma=5, batch=batch, chains=8, budget=600)
    assert n - got.how["examples"] < batch * 5 / 4
    assert abs(got.value - quadratic(h, 20, 5)) < 3 * got.err + 0.15


def test_twice_as_many_draws_and_another_seed_agree() -> None:
    snap, _ = regression(200)
    one, two = llc(snap, budget=1000), llc(snap, budget=4000, seed=3)
    assert abs(one.value - two.value) < 3 * np.hypot(one.err, two.err)
    assert two.err < one.err


@pytest.mark.parametrize(("k", "exact"), [(2, 0.4983), (4, 0.2431)])
def test_powers_of_one_number(k: int, exact: float) -> None:
    """By quadrature at N = 145, γ = 1; the limits are 1/k."""
    got = llc(power(k), nbeta=145, gamma=1, budget=3000)
    assert abs(got.value - exact) < 2.5 * got.err < 0.03


def test_where_the_loss_falls_away_it_is_flagged_not_reported_as_a_number_only() -> None:
    got = llc(power(2, w0=1.0), nbeta=145, gamma=1)
    assert got.value < 0
    assert "not near a local minimum" in got.how["flags"][0]


def test_what_chains_have_not_explored_is_flagged() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 40), nn.Tanh(), nn.Linear(40, 1))
    snap, _ = regression(100)
    got = llc(Snapshot(net, squares, snap.data), nbeta=1e5, gamma=1e-3, chains=4, budget=200)
    assert got.how["flags"]


def test_the_settings_are_told_and_small() -> None:
    got = llc(regression(100)[0], budget=300)
    assert got.how["nbeta"] == pytest.approx(100 / np.log(100))
    assert got.how["gamma"] == pytest.approx(1.0, abs=1)
    assert {"chains", "draws", "burn_in", "step", "stiffness", "rhat", "ess", "distance", "flags"} <= set(got.how)
    assert len(json.dumps(got.how)) < 2000


def test_a_network_in_training_mode_is_measured_at_rest_and_left_as_it_was() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 1)).train()
    snap = Snapshot(net, squares, regression(100)[0].data)
    kept, rng = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    a, b = llc(snap, gamma=100, budget=200), llc(snap, gamma=100, budget=200)
    assert a.value == b.value  # dropout would have made its own noise
    assert net[3].training
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(v, kept[k]) for k, v in net.state_dict().items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"nbeta": 0}, "need nbeta > 0"), ({"gamma": -1}, "gamma > 0"), ({"chains": 1}, "chains >= 2"), ({"budget": 10}, "budget >= 200"),
        ({"names": ["bias"]}, "'bias' is not a trainable parameter; there are weight"), ({"n": 1}, "give nbeta, or n"),
        ({"batch": 0}, "batch"),
    ],
)  # fmt: skip
def test_bad_options_are_said(options: dict[str, Any], words: str) -> None:
    with pytest.raises(BadOption, match=words):
        llc(regression(50)[0], **options)


def test_without_examples_to_count_it_asks_for_the_temperature() -> None:
    with pytest.raises(BadOption, match="give nbeta, or n"):
        llc(power(2))


def test_half_precision_is_refused_with_what_to_do() -> None:
    with pytest.raises(BadOption, match=r"copy.deepcopy\(model\).float\(\)"):
        llc(Snapshot(nn.Linear(6, 1).half(), squares, regression(50)[0].data))


def test_a_loss_that_is_not_finite_is_said() -> None:
    snap = Snapshot(nn.Linear(6, 1), lambda m, d: squares(m, d).log() * torch.nan, regression(50)[0].data)
    with pytest.raises(Diverged, match="not finite"):
        llc(snap)


def test_a_loss_that_falls_for_ever_does_not_become_a_number() -> None:
    snap = Snapshot(nn.Linear(1, 1, bias=False), lambda m, _: -m.weight.pow(4).sum() * 1e3, ())
    with pytest.raises(Diverged, match="larger gamma"):
        llc(snap, nbeta=1e3, gamma=1)


def test_gradients_that_are_nan_beside_the_snapshot_are_said() -> None:
    net = nn.Linear(3, 1, bias=False)
    nn.init.zeros_(net.weight)

    def loss(m: nn.Module, _: Any) -> Tensor:
        bad = torch.where(m.weight == 0, 1.0, 0 * m.weight).sqrt()  # fine at 0, without a slope beside it
        return m.weight.square().sum() + 0 * bad.sum()  # type: ignore[operator, union-attr]

    with pytest.raises(Diverged, match="chain 0 left"):
        llc(Snapshot(net, loss, ()), nbeta=1e3, gamma=1.0)


def test_one_chain_in_a_deeper_valley_is_enough_to_say_so() -> None:
    net = nn.Linear(1, 1, bias=False)
    nn.init.constant_(net.weight, 1.0)
    wells = Snapshot(
        net, lambda m, _: ((m.weight.square() - 1).square() + 0.3 * m.weight).sum(), ()
    )  # the other is lower
    got = llc(wells, nbeta=8, gamma=0.05, chains=8, budget=2000)
    assert "lower loss" in got.how["flags"][0]


@pytest.mark.parametrize(
    ("width", "n", "taken"),
    [(64, 300, None), (64, 900, 128), (40_000, 200, None), (40_000, 300, 52), (4_000_000, 12, 8)],
)
def test_a_gradient_is_of_as_many_examples_as_are_cheap(width: int, n: int, taken: int | None) -> None:
    """All, up to 512 and 32 MiB (200 of 40,000 floats fit, 300 do not); else as many as keep 8 MiB, and 8 to 128."""
    snap = Snapshot(nn.Sequential(nn.Linear(2, 1), Wide(width)), lambda m, x: m(x).mean(), torch.randn(n, 2))
    assert settings(StackedLoss(snap), snap, 10.0, 10.0, None, None, 2, 200).batch == taken


class Wide(nn.Module):
    """One number, kept `width` times."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.expand(-1, self.width).tanh().mean(1)
