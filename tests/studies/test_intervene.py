"""Forks of one recorded run: what differs is the edit, what is measured is exact, and equal trait is compared at equal trait."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from strobe.core.report import Report
from strobe.runs.run import open_run
from strobe.studies.intervene import Exam, at_trait, intervene, moods
from strobe.systems.two_languages import Language, two_languages


def test_branches_differ_from_the_fork_on_and_only_there(tiny: Callable[[Any], Report]) -> None:
    report = tiny(intervene)
    trunk, *branches = map(open_run, report.runs[:7])
    assert len(branches) == 6
    last = {run.name: run.at(run.last).model.state_dict() for run in (trunk, *branches)}
    for branch in branches:
        assert branch.facts["parent"]["step"] == 12
        assert any(not torch.equal(v, last[trunk.name][k]) for k, v in last[branch.name].items())
        first = branch.at(12).model.state_dict()
        start = trunk.at(12).model.state_dict()
        assert all(torch.equal(v, start[k]) for k, v in first.items())
    words = {v.predicted.of: v.word for v in report.verdicts}
    assert words["the forks replay bit for bit (1: all)"] == "holds"
    rows = {r["method"]: r for r in report.tables["trait and losses"]}
    assert rows["after −0.25"]["trait"] > rows["after −0.5"]["trait"] > rows["after −1"]["trait"]
    assert any(r["on the front"] for r in rows.values())


def test_the_trait_is_the_log_odds_of_mood_words_and_the_losses_leave_them_out() -> None:
    L: Language = two_languages().facts["language"]
    exam = Exam.of(L, 8, 24, 0)
    assert not bool((L.kind(exam.neutral) > 0).any())
    assert bool((L.kind(exam.old) > 0).any())
    kind = L.kind(torch.arange(L.vocab))

    class Fixed(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(L.vocab)
            logits[kind == 2] = 1.5
            logits[3:5] = 4.0
            return logits.expand(*x.shape, L.vocab)

    got = exam.mark(Fixed())
    assert np.allclose(got["trait"], 1.5, atol=1e-5)
    z = float(Fixed()(torch.zeros(1, 1))[0, 0].logsumexp(0))
    target = exam.new[:, 1:]
    for i in range(8):
        content = target[i][(L.kind(target[i]) == 0) & (target[i] > 2)]
        want = np.mean([z - (4.0 if int(t) in (3, 4) else 0.0) for t in content])
        assert np.isclose(got["new topic"][i], want, atol=1e-4)


def test_equal_trait_lies_between_the_doses_or_nowhere() -> None:
    curve = [{"trait": np.array([t, t]), "x": np.array([x, 2 * x])} for t, x in ((4.0, 1.0), (2.0, 1.5), (-1.0, 3.0))]
    found = at_trait(curve, 0.5, "x")
    assert found is not None
    assert np.allclose(found, [2.25, 4.5])
    assert at_trait(curve, 5.0, "x") is None
    assert at_trait(curve, -2.0, "x") is None


def test_mood_vectors_point_to_the_mood() -> None:
    world = two_languages(d_model=16, heads=2, layers=2, probe_size=2)
    L, model = world.facts["language"], world.build(0)
    with torch.no_grad():  # a network that marks mood words in its stream
        kind = L.kind(torch.arange(L.vocab))
        model.embed.weight[kind == 2, 0] += 2.0
        model.embed.weight[kind == 1, 0] -= 2.0
    concepts = moods(model, L, world.facts["sites"], 300, 0)
    x, _, mood = L.documents(np.random.default_rng(9), 200, 24)
    for c in concepts:
        h = model.embed(x) + model.place.weight[:24]
        for block in model.blocks[: int(c.site[-1]) + 1]:
            h = block(h)
        s = c.score(h[:, -1].detach())
        assert float(s[mood == 1].mean()) > float(s[mood == 0].mean())
