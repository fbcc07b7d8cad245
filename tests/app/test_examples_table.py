"""The table of training examples against numbers worked out by hand."""

from pathlib import Path

import pytest
import torch

import strobe
from strobe.app.examples_table import examples_of, one_example
from strobe.core.errors import NameNotFound
from strobe.runs.run import open_run

# learned after one visit, never, forgotten twice, known from the start
LOSSES = {7: [5.0, 1.0, 1.0, 1.0], 8: [5.0] * 4, 9: [0.5, 4.0, 0.5, 4.0], 10: [0.5] * 4}


def test_suspicion_learned_and_forgotten(tmp_path: Path) -> None:
    ids = torch.tensor([7, 8, 9, 10])
    with strobe.record(tmp_path / "r", model=torch.nn.Linear(1, 1)) as rec:
        for visit in range(4):
            losses = torch.tensor([LOSSES[int(i)][visit] for i in ids])
            rec.step(loss=losses.mean(), example_loss=(ids, losses))
    run = open_run(tmp_path / "r")
    got = examples_of(run, 10)
    assert got["ids"] == [8, 9, 7, 10]  # the most suspect first
    assert got["suspicion"] == [5.0, 2.25, 2.0, 0.5]
    assert got["err"] == pytest.approx([0.0, (1.75**2 / 3) ** 0.5, 1.0, 0.0])  # standard error over four visits
    assert got["level"] == 1.0  # the median of all sixteen
    assert got["learned"] == [None, None, 2, 1]
    assert got["forgotten"] == [0, 2, 0, 0]
    assert (got["first"], got["last"]) == ([5.0, 0.5, 5.0, 0.5], [5.0, 4.0, 1.0, 0.5])
    assert (got["times"], got["total"], got["marked"]) == ([4, 4, 4, 4], 4, [])
    assert examples_of(run, 1)["ids"] == [8]
    assert one_example(run, 9) == {"steps": [1, 2, 3, 4], "losses": [0.5, 4.0, 0.5, 4.0]}
    assert one_example(run, 99) == {"steps": [], "losses": []}


def test_a_run_without_them_says_how_to_hand_them_over(tmp_path: Path) -> None:
    with strobe.record(tmp_path / "r", model=torch.nn.Linear(1, 1)) as rec:
        rec.step(loss=1.0)
    with pytest.raises(NameNotFound, match="example_loss="):
        examples_of(open_run(tmp_path / "r"), 10)
