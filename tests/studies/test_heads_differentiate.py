"""The study of heads: exact values first, n-grams counted against a plain loop, claims that can be refuted."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.core.tap import patch
from strobe.edits.ablate import ablate
from strobe.runs.run import open_run
from strobe.studies import heads_differentiate as file
from strobe.studies.heads_differentiate import heads_differentiate, needed_ngrams
from strobe.systems.repeated_bigrams import repeated_bigrams

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def report(tiny: Callable[[Any], Report]) -> Report:
    return tiny(heads_differentiate)


def test_all_is_sealed_at_step_0_and_the_traces_are_on_the_strip(report: Report) -> None:
    run = open_run(report.runs[0])
    assert len(run.events("prediction")) == 10
    assert all(e["step"] == 0 for e in run.events("prediction"))
    assert [e["step"] for e in run.readings("refined_llc")][-2:] == [3, 30]
    assert run.readings("refined_llc")[-1]["how"]["labels"] == ["0.0", "0.1", "1.0", "1.1"]
    assert len(report.tables["heads"]) == 4
    assert {v.word for v in report.verdicts[8:10]} <= {"outside", "undecided", "holds", "fails"}
    assert report.verdicts[7].word == "outside"  # no induction head in 30 steps


def test_the_linear_network_is_near_half_the_rank_of_its_jacobian(report: Report) -> None:
    for row in report.tables["linear network: exact values"]:
        assert abs(row["λ̂"] - row["λ"]) < max(4 * row["err"], 0.1 * row["λ"]), row


def test_needed_ngrams_are_those_of_a_plain_loop() -> None:
    world = repeated_bigrams(vocab=8, context=12, d_model=8, heads=2, phrases=2, phrase_rate=0.2, probe_size=40)
    model, tokens = world.build(3), world.facts["plain"]
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(3)  # so that heads matter
    site = "blocks.0.attn.z@1[1]"
    needs, kinds = needed_ngrams(model, [site], tokens, least=4)
    base = file._losses(model, tokens)
    with patch(model, {site: ablate(to="mean")}):
        hurt = (file._losses(model, tokens) - base).numpy()
    seen: dict[tuple[int, ...], list[float]] = {}
    for b, row in enumerate(tokens.tolist()):
        for t in range(2, len(row)):
            seen.setdefault(tuple(row[t - 2 : t + 1]), []).append(float(hurt[b, t - 1]))
    often = {k: np.array(v) for k, v in sorted(seen.items()) if len(v) >= 4}
    assert kinds == len(often)
    by_hand = [v.mean() > 0.1 and v.mean() > 2 * v.std() / (len(v) - 1) ** 0.5 for v in often.values()]
    assert needs[0].tolist() == [float(x) for x in by_hand]
    assert 0 < needs.sum() < kinds
    with pytest.raises(BadOption, match="no n-gram occurs 9999 times"):
        needed_ngrams(model, [site], tokens, least=9999)


def test_the_margin_is_of_the_best_induction_head_over_the_rest_and_clusters_can_be_wrong() -> None:
    value = {
        "plain": Reading(np.ones(4), np.full(4, 0.01)),
        "twice": Reading(np.array([1.0, 2.0, 3.0, 0.5]), np.full(4, 0.01)),
    }
    rng = np.random.default_rng(0)
    assert file._margin(value, np.array([False, False, True, True]), rng).value == pytest.approx(np.log(1.5))
    assert file._margin(value, np.array([True, False, False, True]), rng).value == pytest.approx(np.log(1 / 3))
    kind = np.array(["a"] * 6 + ["b"] * 6)
    assert file._rand(np.array([0] * 6 + [1] * 6), kind, 0)[0] == 1.0
    assert file._rand(np.array([0, 1] * 6), kind, 0)[0] < 0.1
    traces = np.concatenate([np.zeros((6, 5)), np.ones((6, 5))])
    assert file._rand(file._clusters(traces, 2, 0), kind, 0)[1] < 0.05


def test_an_unknown_scale_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="scale is 'tiny', 'small' or 'full'"):
        heads_differentiate(tmp_path, scale="huge")
