"""A monitor keeps the rate of false alarms it promises, sees across sites, watches a live model, and knows when it knows too much."""

import pytest
import torch
from torch import Tensor, nn

from strobe.core.capture import Activations, capture
from strobe.core.errors import BadOption
from strobe.features.fit_concept import fit_concept
from strobe.features.monitor import Monitor, fit_monitor, wilson
from strobe.numerics.auc import auc
from strobe.runs.levers import parse_edit

D = 32


def drawn(n: int, seed: int) -> tuple[Activations, Tensor]:
    """A concept in two sites that each see a half of it."""
    gen = torch.Generator().manual_seed(seed)
    y = torch.arange(n) % 2
    sites = {f"s{i}": torch.randn(n, D, generator=gen) + 1.1 * y[:, None] * torch.eye(D)[i] for i in range(2)}
    return Activations(sites, torch.arange(n), torch.full((n,), -1), n), y


@pytest.fixture(scope="module")
def monitor() -> Monitor:
    acts, y = drawn(240, 0)
    table = fit_concept(acts, y, methods=["ridge", "means"], permutations=0, resamples=100)
    return fit_monitor(acts, y, table, rate=0.1)


def test_fresh_examples_alarm_at_the_promised_rate_and_both_sites_together_see_more(monitor: Monitor) -> None:
    acts, y = drawn(4000, 1)
    above = monitor.score(acts) > monitor.threshold
    assert 0.05 < float(above[y == 0].float().mean()) < 0.17
    assert monitor.caught[1] - 0.05 < float(above[y == 1].float().mean()) < monitor.caught[2] + 0.05
    fresh = auc(monitor.score(acts).numpy(), y.numpy() > 0)[0]
    assert fresh > max(auc(c.score(acts[c.site]).numpy(), y.numpy() > 0)[0] for c in monitor.concepts) + 0.03
    assert abs(fresh - monitor.auroc) < 3 * monitor.err


def test_on_a_live_model() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(20, 8), nn.Linear(8, 8), nn.Tanh())
    on = [[3, 4, i] for i in range(10)] * 4
    off = [[3, 4, i] for i in range(10, 20)] * 4
    acts = capture(net, [*on, *off], ["0", "2"])
    labels = [1] * 40 + [0] * 40
    own = {"groups": [t[-1] for t in on + off]}  # those that are the same
    table = fit_concept(acts, labels, methods=["kernel", "lda"], permutations=0, resamples=100, **own)
    got = fit_monitor(acts, labels, table, rate=0.2)
    heard: list[int] = []
    with got.watch(net, alarm=lambda call, score: heard.append(call)) as seen, torch.no_grad():
        net(torch.tensor([on[0], off[0]]))
        net(torch.tensor([off[1]]))
    assert [len(s) for s in seen.scores] == [2, 1]
    assert heard == [call for call, _ in seen.alarms]
    assert torch.allclose(seen.scores[0], got.score(capture(net, [on[0], off[0]], ["0", "2"])), atol=1e-5)
    assert not net._forward_hooks
    assert not net[0]._forward_hooks


def test_above_the_bound_is_a_leak_and_below_is_not(monitor: Monitor) -> None:
    assert monitor.leaks(monitor.auroc + 0.01) is None
    assert monitor.leaks(monitor.auroc - 2 * monitor.err) is None
    assert "Leak alarm" in str(monitor.leaks(monitor.auroc - 5 * monitor.err))


def test_beside_a_judge_the_gain_is_paired(monitor: Monitor) -> None:
    """A judge that sees the monitor's own score with noise: worse, by less than the two errors would say apart."""
    acts, y = drawn(400, 7)
    own = monitor.score(acts).double()
    noisy = own + 0.7 * own.std() * torch.randn(400, generator=torch.Generator().manual_seed(3))
    got = monitor.against(noisy, acts, y)
    assert got["monitor"][0] == pytest.approx(auc(own.numpy(), y.numpy() > 0)[0])
    assert got["judge"][0] == pytest.approx(auc(noisy.numpy(), y.numpy() > 0)[0])
    assert got["gain"][0] > 2 * got["gain"][1] > 0
    assert got["gain"][1] < 0.9 * (got["monitor"][1] ** 2 + got["judge"][1] ** 2) ** 0.5
    assert monitor.against(own, acts, y)["gain"] == (0.0, 0.0)
    with pytest.raises(BadOption, match="one finite score an example"):
        monitor.against(noisy[:-1], acts, y)


def test_what_is_above_is_left_out_of_a_fork(monitor: Monitor) -> None:
    acts, _ = drawn(50, 9)
    ids = list(range(100, 150))
    got = monitor.masks(acts, ids)
    above = (monitor.score(acts) > monitor.threshold).nonzero()[:, 0].tolist()
    assert 5 < len(above) < 45
    assert got == {"act": "examples", "weights": {str(100 + i): 0.0 for i in above}}
    assert parse_edit(got, {}) == got  # as a fork reads it
    assert set(monitor.masks(acts, ids, weight=0.5)["weights"].values()) == {0.5}
    with pytest.raises(BadOption, match="50 rows of activations and 49 ids"):
        monitor.masks(acts, ids[1:])
    low = Activations({s: x - 9 for s, x in acts.values.items()}, acts.example, acts.position, 50)
    with pytest.raises(BadOption, match="nothing to leave out"):
        monitor.masks(low, ids)


def test_drift_of_a_monitor_that_stays_where_it_was(monitor: Monitor) -> None:
    acts, y = drawn(600, 5)
    turned = Activations({s: -x for s, x in acts.values.items()}, acts.example, acts.position, acts.inputs)
    away = Activations({s: x + 2 for s, x in acts.values.items()}, acts.example, acts.position, acts.inputs)
    same, other, shifted = monitor.drift([acts, turned, away], y)
    assert same["auroc"] > 0.7 > 0.5 > other["auroc"]
    assert same["false"] < 0.2
    assert shifted["auroc"] == pytest.approx(same["auroc"], abs=1e-6)
    assert shifted["false"] > 2 * same["false"]
    with pytest.raises(BadOption, match="of two kinds"):
        monitor.drift([acts], torch.zeros(600))


def test_a_rate_that_the_examples_cannot_promise() -> None:
    acts, y = drawn(60, 0)
    table = fit_concept(acts, y, methods=["means"], permutations=0, resamples=50)
    with pytest.raises(BadOption, match="needs 99 examples without the concept, there are 30"):
        fit_monitor(acts, y, table, rate=0.01)
    with pytest.raises(BadOption, match="between 0 and 1"):
        fit_monitor(acts, y, table, rate=1.5)
    assert wilson(0, 10)[1] == 0
    assert wilson(10, 10)[2] == 1
    assert wilson(5, 10)[0] == 0.5
