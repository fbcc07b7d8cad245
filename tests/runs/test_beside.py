from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.observables.weight_norms import weight_norms
from strobe.runs.beside import beside
from strobe.runs.loop import train
from strobe.runs.run import Run, open_run
from strobe.runs.watch import follow
from strobe.systems.deep_linear import deep_linear


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return open_run(train(deep_linear(dim=4, width=5, singular_values=(2.0, 1.0)), tmp_path / "r", steps=20))


def test_what_is_measured_beside_is_what_follow_measures(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    away = beside(run, weight_norms, every=[5, 20])
    assert away.process.wait() == 0
    monkeypatch.setattr("strobe.runs.watch.measure", None)  # nothing is measured here
    got = away.result(note="norms")
    assert list(got) == [5, 20]
    assert [e["step"] for e in open_run(run.path).readings("norms")] == [5, 20]
    monkeypatch.undo()
    again = follow(run, weight_norms, every=[5, 20], again=True)
    assert all(np.array_equal(got[s].value, again[s].value) for s in got)


def test_what_fails_there_is_measured_here(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    away = beside(run, weight_norms, every=[10])
    away.process.kill()
    assert list(away.result()) == [10]
    assert "here again" in capfd.readouterr().err


def test_a_measurement_is_stopped(run: Run) -> None:
    away = beside(run, weight_norms, every=[10])
    away.stop()
    assert away.process.returncode != 0


def test_what_another_process_cannot_have_is_said(run: Run) -> None:
    def mine(snap: Any) -> Reading:
        return Reading(0.0)

    with pytest.raises(BadOption, match="cannot be measured in another process"):
        beside(run, mine, every=[1])
    with pytest.raises(BadOption, match="use follow"):
        beside(run, weight_norms, every=[1], parts={"a": object()})
