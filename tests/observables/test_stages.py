from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strobe.core.errors import BadOption
from strobe.observables.stages import stages
from strobe.runs.run import open_run

STEPS = np.unique(np.round(np.logspace(0, 4, 70)))


def sigmoid(centre: float, width: float = 0.1) -> np.ndarray:
    return 1 / (1 + np.exp(-(np.log10(STEPS) - centre) / width))


def made(seed: int, noise: float = 0.02) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    n = len(STEPS)
    loss = 6 - 2 * sigmoid(1.3) - sigmoid(3.0) + noise * rng.standard_normal(n)
    head = sigmoid(3.0) + noise * rng.standard_normal(n)
    return {"loss": (STEPS, loss, np.full(n, noise)), "head": (STEPS, head, np.full(n, noise))}


def test_planted_transitions_are_bracketed_by_boundaries() -> None:
    found = stages(made(0))
    kinds = [s["kind"] for s in found.how["stages"]]
    assert kinds == ["plateau", "transition", "plateau", "transition", "plateau"]
    a, b, c, d = np.log10(found.value)
    assert a < 1.3 < b < c < 3.0 < d
    moving = found.how["stages"][3]
    assert "head" in moving["rises"]
    assert "loss" in moving["falls"]


def test_err_is_honest_over_seeds() -> None:
    found = [stages(made(seed)) for seed in range(8)]
    assert len({len(f.value) for f in found}) == 1
    assert (np.std([f.value for f in found], axis=0) <= 2 * np.mean([f.err for f in found], axis=0)).all()


def test_noise_alone_has_no_stages() -> None:
    rng = np.random.default_rng(3)
    flat = {"x": (STEPS, 5 + rng.standard_normal(len(STEPS)), np.ones(len(STEPS)))}
    assert len(stages(flat).value) == 0
    assert [s["kind"] for s in stages(flat).how["stages"]] == ["plateau"]


def test_it_reads_a_run(tmp_path: Path, toy: Any) -> None:
    toy().run(tmp_path / "r", 60)
    found = stages(open_run(tmp_path / "r"), names=["loss"])
    assert found.how["traces"] == ["loss"]


def test_too_few_points_are_refused() -> None:
    with pytest.raises(BadOption, match="6 or more finite points"):
        stages({"x": (np.arange(4.0), np.zeros(4), np.zeros(4))})
    with pytest.raises(BadOption, match="share no interval"):
        stages({"a": (STEPS[:10], STEPS[:10], 0 * STEPS[:10]), "b": (STEPS[40:], STEPS[40:], 0 * STEPS[40:])})
