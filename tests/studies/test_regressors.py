"""What a network that regresses in context does, on networks whose answers are known."""

import numpy as np
import pytest
import torch
from torch import nn

from strobe.core.snapshot import Snapshot
from strobe.studies.regressors import distance, gain, predictors
from strobe.systems.incontext_regression import incontext_regression


class Says(nn.Module):
    """A number that is the same everywhere."""

    def __init__(self, what: float) -> None:
        super().__init__()
        self.what = nn.Parameter(torch.tensor(what))

    def forward(self, pairs: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return self.what.expand_as(pairs[1])


def test_distances_to_silence_to_the_truth_and_to_a_predictor() -> None:
    world = incontext_regression(probe_size=64)
    known, data = predictors(world), world.probe(0)
    snap = Snapshot(Says(2.0), world.loss, data)
    assert distance(snap, to=known["silence"]).value == pytest.approx(4.0)
    assert distance(snap, to=known["silence"]).err == pytest.approx(0.0, abs=1e-9)
    assert distance(snap).value == pytest.approx(world.loss(snap.model, data).item(), rel=1e-5)
    other = world.facts["unseen"]
    said = known["dmmse"](other)
    assert distance(snap, to=known["dmmse"], data=other).value == pytest.approx(np.square(said - 2).mean())
    assert set(predictors(incontext_regression(tasks=0))) == {"silence", "ridge"}


def test_the_gain_along_a_sequence_is_that_of_positions() -> None:
    y = torch.zeros(5, 8)
    y[:, 1], y[:, 6:] = 3.0, 1.0
    got = gain(Snapshot(Says(0.0), lambda m, d: m(d).mean(), (torch.zeros(5, 8, 2), y)))
    assert got.value == pytest.approx(1 - 9)
    assert got.err == 0
