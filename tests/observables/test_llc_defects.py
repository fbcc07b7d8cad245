"""One test for each defect of the peers' estimators (specs/slt.md, section 1.2): that `llc` does not have it."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from strobe.core.errors import Diverged
from strobe.core.snapshot import Snapshot
from strobe.observables import local_draws
from strobe.observables.llc import llc
from strobe.runs.journal import dumps
from strobe.runs.loop import train
from strobe.runs.run import open_run
from strobe.runs.watch import follow
from strobe.systems.deep_linear import deep_linear


def squares(model: nn.Module, data: Any) -> Tensor:
    return (model(data[0]).squeeze(-1) - data[1]).square().mean() / 2


def fit(n: int = 200, noise: float = 0.3, size: int = 6, slow: bool = False) -> Snapshot:
    """Least squares at its minimum, λ = size / 2; with `slow`, in coordinates that differ by 1,000 in scale."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(n, size, generator=g) * (torch.logspace(0, -1.5, size) if slow else 1.0)
    y = x.sum(1) + noise * torch.randn(n, generator=g)
    net = nn.Linear(size, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.linalg.lstsq(x, y[:, None]).solution.T)
    return Snapshot(net, squares, (x, y))


def test_what_comes_before_the_chains_have_spread_is_not_averaged() -> None:
    """devinterp 2.0.1 reported 3.03 with burn-in and 5.90 without."""
    snap = fit(slow=True)
    got = llc(snap, nbeta=1e4, gamma=1.0, budget=1500)
    h = torch.linalg.eigvalsh(snap.data[0].double().T @ snap.data[0].double() / 200).numpy()
    exact = (1e4 * h / (1e4 * h + 1)).sum() / 2  # 2.94: the softest direction is held by γ
    assert got.how["warm_up"] > 0  # all chains start at w*, where N ΔL is 0
    assert got.how["draws"] + got.how["burn_in"] + got.how["warm_up"] == pytest.approx(1500, abs=40)
    assert abs(got.value - exact) < 3 * got.err < 0.1


def test_chains_that_left_are_no_finite_number() -> None:
    """devinterp 2.0.1 gave 0.481 ± 0.0 where every chain was NaN."""
    net = nn.Linear(2, 1, bias=False)
    start = net.weight.detach().clone()

    def cliff(m: nn.Module, x: Tensor) -> Tensor:
        apart = (m.weight - start).square().sum()
        return apart + torch.where(apart < 1e-16, 0.0, torch.nan)

    with pytest.raises(Diverged, match=r"chain \d+ left at draw \d+|not finite"):
        llc(Snapshot(net, cliff, torch.ones(4, 1)), nbeta=1e3, gamma=1.0, budget=200)


def test_a_reading_that_is_kept_is_of_those_weights_and_those_data(tmp_path: Path) -> None:
    """devinterp 2.0.1 returned 2.31 from its cache for other weights, where the truth was -24.2."""
    options: dict[str, Any] = {"nbeta": 100.0, "gamma": 1.0, "chains": 4, "budget": 200}
    world = deep_linear(dim=3, width=3, singular_values=(2.0, 1.0))
    found = {}
    for name, steps in (("a", 5), ("b", 60)):
        run = open_run(train(world, tmp_path / name, steps=steps))
        first = follow(run, llc, every=[run.last], **options)[run.last]
        again = follow(run, llc, every=[run.last], **options)[run.last]  # kept
        anew = llc(run.at(run.last), **options)
        assert first.value == again.value == pytest.approx(anew.value, rel=1e-5)
        found[name] = first.value
    assert found["a"] != found["b"]
    other = follow(open_run(tmp_path / "b"), llc, every=[60], **(options | {"budget": 300}))[60]
    assert other.value != found["b"]


def test_the_noise_of_the_baseline_is_in_the_error() -> None:
    """devinterp 2.0.1 gave -1.43 ± 0.02; 1.3.2, one run and the next, 5.25 ± 0.91 and 0.61 ± 1.25."""
    snap = fit(n=2000, noise=1.0)
    runs = [llc(snap, nbeta=500.0, gamma=1.0, batch=32, chains=4, budget=300, seed=s) for s in range(8)]
    values, errs = np.array([r.value for r in runs]), np.array([r.err for r in runs])
    assert values.std(ddof=1) <= 2 * errs.mean()
    assert abs(values.mean() - 3) <= 3 * errs.mean() / 8**0.5 + 0.03 * 3


def test_losses_are_taken_as_differences_on_the_same_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The default baselines of both are of other batches: 29 times the gradients for the same error."""
    snap = fit(n=2000, noise=0.8)
    paired = [llc(snap, nbeta=500.0, gamma=1.0, batch=32, chains=4, budget=300, seed=s).value for s in range(6)]
    whole = local_draws.Energy.__call__

    def apart(self: Any, w: Tensor, draw: int) -> tuple[Tensor, Tensor]:
        """The same gradients, and losses as of a baseline that was measured once, on 8 batches."""
        loss, grad = whole(self, w, draw)
        ks = self.which(draw, len(w))
        return loss + self.bases[torch.from_numpy(ks)] - self.bases[:8].mean(), grad

    monkeypatch.setattr(local_draws.Energy, "__call__", apart)
    monkeypatch.setattr(local_draws, "mean_of", lambda x, *_: local_draws.chained(x))
    plain = [llc(snap, nbeta=500.0, gamma=1.0, batch=32, chains=4, budget=300, seed=s).value for s in range(6)]
    assert np.std(plain) > 5 * np.std(paired)


def test_the_model_stays_in_eval_while_it_is_sampled() -> None:
    """Both peers call train(): dropout is then in the loss."""
    seen: set[bool] = set()

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(6, 1, bias=False)

        def forward(self, x: Tensor) -> Tensor:
            seen.add(self.training)
            return self.inner(x)

    base = fit()
    model = Spy().eval()
    model.inner.load_state_dict(base.model.state_dict())
    llc(Snapshot(model, squares, base.data), nbeta=100.0, budget=200)
    assert seen == {False}
    assert not model.training


def test_a_reading_is_small_whatever_it_was_measured_on() -> None:
    """devinterp 2.x stores every token's loss and number at every step: 367 kB in 31 files for a tiny run."""
    sizes = [len(dumps(asdict(llc(fit(n=n), nbeta=100.0, chains=c, budget=200)))) for n, c in ((50, 4), (400, 64))]
    assert max(sizes) < 2000
    assert json.loads(dumps(asdict(llc(fit(), nbeta=100.0, budget=200))))["how"]["chains"] == 64
