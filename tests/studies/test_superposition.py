"""The study of superposition: its descents are the system's own, its times and shares can refute it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from strobe.core.errors import BadOption
from strobe.core.report import Report
from strobe.runs.run import open_run
from strobe.studies import superposition as file
from strobe.studies.superposition import descend, superposition
from strobe.systems.toy_superposition import toy_superposition


@pytest.fixture(scope="module")
def report(tiny: Callable[[Any], Report]) -> Report:
    return tiny(superposition)


def test_all_is_sealed_at_step_0_and_what_needs_long_training_is_outside(report: Report) -> None:
    run = open_run(report.runs[0])
    assert all(e["step"] == 0 for e in run.events("prediction"))
    assert [v.word for v in report.verdicts[:4]] == ["outside"] * 4
    assert len(run.series("llc")) >= 2
    assert len(run.series("population_loss")) > 40
    six = report.tables["learning coefficients"][-1]
    assert abs(six["λ̂"] - 8.5) < 0.1 * 8.5
    assert sum(r["runs"] for r in report.tables["begun at the square"]) == 32


def test_side_by_side_is_the_descent_of_the_system() -> None:
    """Five steps of three runs against autograd, run by run, on the batches they drew."""
    world = toy_superposition()
    W, b = descend(world, runs=3, steps=5, at=[0, 5], seed=4)
    rng, data = np.random.default_rng((4, 3)), world.facts["rows"]
    drawn = [torch.from_numpy(rng.integers(1000, size=(3, 20))) for _ in range(5)]
    for i in range(3):
        model = world.build(4 + i)
        assert np.array_equal(model.W.detach().numpy(), W[0, i])
        opt = world.optimizer(model, world.lr)
        for index in drawn:
            opt.zero_grad()
            world.loss(model, data[index[i]]).backward()
            opt.step()
        assert np.allclose(model.W.detach().numpy(), W[1, i], atol=1e-6)
        assert np.allclose(model.b.detach().numpy(), b[1, i], atol=1e-6)


def test_times_and_shares() -> None:
    steps = np.array([1, 10, 100])
    early, late = (np.repeat(np.eye(3, dtype=bool)[i][:, None], 50, 1) for i in (0, 2))
    assert file._later(steps, early, late).value == pytest.approx(np.log(100))
    assert file._later(steps, late, early).value < 0
    all_of_them = file._share(np.ones(256, bool))
    assert all_of_them.value == 1
    assert 0 < all_of_them.err < 0.01


def test_an_unknown_scale_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="scale is 'tiny', 'small' or 'full'"):
        superposition(tmp_path, scale="huge")
