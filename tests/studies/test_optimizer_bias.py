from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from strobe.core.errors import BadOption
from strobe.core.report import Report
from strobe.runs.run import open_run
from strobe.studies.optimizer_bias import Descent, matched, optimizer_bias
from strobe.systems.digits import digits


def test_side_by_side_is_each_alone_with_the_optimizer_of_torch() -> None:
    world = digits(flipped=0.0, width=8)
    for kind, optimizer in (
        ("SGD", lambda p: torch.optim.SGD(p, 0.1)),
        ("momentum", lambda p: torch.optim.SGD(p, 0.01, momentum=0.9)),
        ("Adam", lambda p: torch.optim.Adam(p, 1e-3)),
    ):
        many = Descent(world, kind, 2, 5)
        for t in range(20):
            many.step(t)
        for i in range(2):
            model = world.build(5 + i)
            alone = optimizer(model.parameters())
            for t in range(20):
                alone.zero_grad()
                world.loss(model, world.batch(5 + i, t)).backward()
                alone.step()
            w = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
            torch.testing.assert_close(many.w[i], w, rtol=1e-3, atol=1e-5)


def test_entropy_sgd_without_noise_or_pull_is_a_mean_of_sgd(monkeypatch: pytest.MonkeyPatch) -> None:
    world = digits(flipped=0.0, width=8)
    for name in ("COLD", "PULL"):
        monkeypatch.setattr(f"strobe.studies.optimizer_bias.{name}", 0.0)
    monkeypatch.setattr("strobe.studies.optimizer_bias.MEAN", 1.0)
    inner, plain = Descent(world, "Entropy-SGD", 2, 0), Descent(world, "SGD", 2, 0)
    inner.step(0)
    for t in range(20):
        plain.step(t)
    torch.testing.assert_close(inner.w, plain.w, rtol=1e-4, atol=1e-6)


def test_runs_stop_at_the_same_loss() -> None:
    descent = Descent(digits(flipped=0.0, width=8), "SGD", 3, 0)
    ends, at, when = matched(descent, 1.0, 2000)
    assert at.tolist() == pytest.approx([1.0] * 3, rel=2e-3)
    assert bool((when < 2000).all())
    own = descent.f.losses(ends, descent.world.facts["rows"])
    torch.testing.assert_close(own, at)
    late = matched(Descent(digits(flipped=0.0, width=8), "SGD", 2, 0), 0.01, 20)
    assert late[2].tolist() == [20, 20]
    assert bool((late[1] > 0.5).all())


def test_tiny_seals_first_and_says_that_the_losses_differ(tiny: Callable[[Any], Report]) -> None:
    report = tiny(optimizer_bias)
    words = [v.word for v in report.verdicts]
    assert words == ["fails", "outside"]  # 300 steps do not reach the loss
    run = open_run(report.runs[0])
    assert all(e["step"] == 0 for e in run.events("prediction"))
    assert len(report.tables["every run"]) == 4
    assert "llc" in run.names()


def test_an_unknown_scale_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="'tiny', 'small' or 'full'"):
        optimizer_bias(tmp_path, scale="huge")
