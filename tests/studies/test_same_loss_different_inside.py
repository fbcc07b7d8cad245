from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from strobe.core.errors import BadOption
from strobe.core.report import Report
from strobe.core.snapshot import Snapshot
from strobe.runs.run import open_run
from strobe.studies.same_loss_different_inside import energy, right, same_loss_different_inside
from strobe.studies.side_by_side import side_by_side
from strobe.systems.cue_parity import cue_parity


def test_the_inside_tells_what_the_conflict_rows_will_show() -> None:
    worlds = [cue_parity(mix=m) for m in (1.0, 0.0)]
    for world, run in zip(worlds, side_by_side(worlds, [7, 7], steps=400, at=[400]), strict=True):
        snap = run.at(400)
        assert right(snap, world.facts["rows"]) == right(snap, world.probe(0)) == 1.0
        cue, rule = energy(Snapshot(snap.model, snap.loss, world.facts["rows"])).value
        conflict = right(snap, world.facts["conflict"])
        assert (cue > 0.8 > 0.2 > rule and conflict < 0.05) if world.knobs["mix"] else (rule > 0.9 and conflict > 0.95)


def test_tiny_opens_the_conflict_rows_after_everything_was_sealed_and_seen(tiny: Callable[[Any], Report]) -> None:
    report = tiny(same_loss_different_inside)
    words = {v.predicted.of: v.word for v in report.verdicts}
    assert words.pop("largest |training loss / 0.002 - 1|") == "fails"  # 60 steps do not reach it
    assert set(words.values()) == {"outside"}
    run = open_run(report.runs[0])
    assert len(run.events("prediction")) == len(report.verdicts) == 10
    assert all(e["step"] == 0 for e in run.events("prediction"))
    opened, judged = run.events("opened"), run.events("verdict")
    assert len(opened) == 1
    assert all(e["time"] >= opened[0]["time"] for e in judged)
    assert [r["value"][0] <= 1 for r in run.readings("energy")]
    assert len(report.tables["every network"]) == 10


def test_an_unknown_scale_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="'tiny', 'small' or 'full'"):
        same_loss_different_inside(tmp_path, scale="huge")
