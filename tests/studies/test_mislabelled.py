"""The study of wrong labels: its score is the Data page's, its rule needs no truth, its predictions can fail."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("sklearn")
from strobe.app.examples_table import examples_of
from strobe.app.report import verdicts, write_report
from strobe.core.errors import BadOption
from strobe.core.report import Report
from strobe.runs.loop import train
from strobe.runs.replay import replay
from strobe.runs.run import open_run
from strobe.studies import mislabelled as file
from strobe.studies.mislabelled import mislabelled, suspicion
from strobe.systems.digits import digits


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    return mislabelled(tmp_path_factory.mktemp("mis"), scale="tiny")


def test_wrong_labels_are_found_and_every_prediction_was_sealed_before_training(report: Report, tmp_path: Path) -> None:
    rows = report.tables["seed by seed"]
    assert [r["seed"] for r in rows] == [0, 1]
    assert all(r["AUC"] >= 0.99 for r in rows)
    assert all(r["of these wrong"] > 0.8 and r["wrong ones marked"] > 0.7 for r in rows)
    assert len(report.verdicts) == 2 * 2 + 3
    assert len(report.runs) == 6
    trunks = [open_run(p) for p in report.runs[::3]]
    assert [len(r.events("prediction")) for r in trunks] == [5, 2]
    assert all(e["step"] == 0 for r in trunks for e in r.events("prediction"))
    assert all(v["sealed"] and not v["late"] for p in report.runs for v in verdicts(open_run(p)))
    assert write_report(report, tmp_path / "report.html").stat().st_size > 10_000


def test_the_score_is_that_of_the_data_page(report: Report) -> None:
    run = open_run(report.runs[0])
    page = examples_of(run, 10**6)
    ids, score = suspicion(run)
    assert dict(zip(page["ids"], page["suspicion"], strict=True)) == dict(
        zip(ids.tolist(), score.tolist(), strict=True)
    )


def test_a_branch_drops_what_was_marked_and_replays(report: Report) -> None:
    trunk, without, random = (open_run(p) for p in report.runs[:3])
    ids, score = suspicion(trunk)
    dropped, drawn = ({int(i) for i in r.facts["edits"][0]["weights"]} for r in (without, random))
    assert len(dropped) == len(drawn) == report.tables["seed by seed"][0]["marked"]
    assert dropped == set(ids[np.argsort(-score)][: len(dropped)].tolist())
    assert dropped != drawn
    assert replay(without, 300, verify=True).ok
    # the gain of the table is what the two runs' own accuracies say
    last = {r.name: r.readings("held_out_accuracy")[-1]["value"] for r in (trunk, without)}
    assert last[without.name] - last[trunk.name] == pytest.approx(report.tables["seed by seed"][0]["gain"])


def test_a_score_that_knows_nothing_fails(tiny: Callable[[Any], Report], monkeypatch: pytest.MonkeyPatch) -> None:
    def blind(run: object) -> tuple[np.ndarray, np.ndarray]:
        ids, score = suspicion(run)  # type: ignore[arg-type]
        return ids, np.random.default_rng(0).permutation(score)

    monkeypatch.setattr(file, "suspicion", blind)
    monkeypatch.setitem(file.SCALES, "tiny", (2, 60))
    words = {v.predicted.of: v.word for v in tiny(mislabelled).verdicts}
    assert words["AUC of the mean loss for the wrong labels, seed 0"] == "fails"


def test_without_wrong_labels_the_rule_marks_the_hard_ones(tmp_path: Path) -> None:
    """What the rule cannot say: that there is nothing wrong."""
    run = open_run(train(digits(flipped=0.0), tmp_path / "r", steps=300, examples=True))
    _, score = suspicion(run)
    assert (score > file.two_groups(score)).sum() > 20


def test_an_unknown_scale_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="scale is 'tiny', 'small' or 'full'"):
        mislabelled(tmp_path, scale="huge")
