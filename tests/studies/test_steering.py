"""At "tiny" no network has learned enough to be steered: what is tested is that the measure itself is right."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from strobe.core.report import Report
from strobe.studies.steering import steering
from strobe.studies.steering_desk import MOOD, PROMPT, SUCCESS, TOPIC, Desk, over
from strobe.systems.two_languages import two_languages


def test_controls_stand_in_the_table_and_the_planted_leak_is_heard(tiny: Callable[[Any], Report]) -> None:
    report = tiny(steering)
    arms = {r["arm"] for r in report.tables["doses"]}
    assert {"means", "logistic", "rfm", "pca", "shuffled", "random 0"} == arms
    zero = [r for r in report.tables["doses"] if r["dose"] == 0]
    assert len({r[SUCCESS] for r in zero}) == 1
    assert all(r["loss of own log-likelihood"] == 0 for r in zero)
    words = {v.predicted.of: v.word for v in report.verdicts}
    assert words["leak alarm: planted leak raises it, honest monitor does not (1: both)"] == "holds"
    assert words["log10 of success in language B with / without mixed documents, vectors of A, dose 1"] != "holds"
    for row in report.tables["probe, bound, judge"]:
        assert row["probe"] < row["bound"] + 0.1


def test_a_model_that_speaks_the_topic_is_judged_to() -> None:
    world = two_languages(d_model=8, heads=2, layers=1, probe_size=2)
    L = world.facts["language"]

    class Speaks(torch.nn.Module):
        """The planted language itself, of the topic and of mood +, whatever it is asked; `blocks.0` is there to be steered."""

        def __init__(self) -> None:
            super().__init__()
            self.blocks = torch.nn.ModuleList([torch.nn.Embedding(L.vocab, 8)])

        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            self.blocks[0](tokens)
            p = torch.full((*tokens.shape, L.vocab), 1e-9, dtype=torch.double)
            w = (tokens - 3).clamp_min(0) % L.size
            for i in (0, 1):
                p[..., 3 + i * L.size : 3 + i * L.size + L.words] = 0.8 * torch.from_numpy(L.P[TOPIC])[w]
                p[..., 3 + i * L.size + L.words + L.moods // 2 : 3 + (i + 1) * L.size] = 0.2 / (L.moods // 2)
            return p.log()

    torch.manual_seed(0)
    desk = Desk.of(world, Speaks(), 60, 6, 0)
    for language in (0, 1):
        got = desk.steer({"means": desk.vectors("means", desk.topic == TOPIC)}, [1.0], language=language)
        assert got.values[SUCCESS]["means"].mean() == 1.0
        assert abs(got.values[MOOD]["means"].mean() - 0.2) < 0.08
    prompt = desk.prompts[0]
    assert prompt.shape == (6, PROMPT)
    assert bool((L.topic_scores(L.documents(np.random.default_rng(0), 9, 40, topic=TOPIC)[0]).argmax(1) == TOPIC).all())


def test_a_share_of_ones_still_has_an_error() -> None:
    r = over([np.ones(10), np.ones(10)])
    assert r.value == 1.0
    assert r.err == pytest.approx((21 / 22 * 1 / 22 / 20) ** 0.5)
    assert over([np.zeros(5), np.ones(5)]).err == pytest.approx(0.5 * 12.706 / 2, rel=1e-3)  # Student, two values
