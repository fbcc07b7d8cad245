from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from strobe.core.report import Report
from strobe.studies import in_context_stages as study
from strobe.systems.hidden_markov_mixture import hidden_markov_mixture, mixture_of


def test_it_runs_and_seals_before_it_trains(tiny: Callable[[Any], Report]) -> None:
    report = tiny(study.in_context_stages)
    trend = report.tables["nearest predictor along training"]
    assert trend[0]["nearest"] == "uniform"
    assert trend[-1]["loss"] < trend[0]["loss"]
    facts = [report.facts[f"entropy of {k}"] for k in study.NAMES]
    assert facts == sorted(facts, reverse=True)
    assert all(v.predicted.seal for v in report.verdicts)


def test_a_model_that_is_a_predictor_is_found_nearest_to_it() -> None:
    world = hidden_markov_mixture(probe_size=16, context=24)
    mixture = mixture_of(**world.facts["mixture"])
    x = world.probe(0)
    references = study._references(mixture, x.numpy())

    class Says(nn.Module):
        def __init__(self, p: np.ndarray) -> None:
            super().__init__()
            self.p = torch.from_numpy(np.log(np.array(p) + 1e-12)).float()

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return self.p

    for name, p in references.items():
        got = study._nearest(Says(p), x, references)
        assert got["nearest"] == name
        assert got[f"KL from {name}"] == pytest.approx(0, abs=1e-4)


def test_the_mixture_itself_is_within_its_own_accuracy() -> None:
    mixture = mixture_of(models=3, values=4, slots=4, words=12, stay=0.9, seed=0)

    class Exact(nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(np.log(mixture.predict(tokens.numpy())[0] + 1e-12))

    got = study._prompted(Exact(), mixture, 3, 60, 0)
    assert got["accuracy"] == got["mixture"]
    assert got["agreement"] == 1
    assert got["err of the difference"] == 0
    assert got["told the model"] >= got["mixture"] - 0.15
