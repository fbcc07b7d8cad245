"""A concept along a run: at its own step the direction is the reference; it is on the strip under its name."""

from pathlib import Path

import pytest

from strobe.core.errors import BadOption, SiteNotFound
from strobe.runs.run import Run, open_run
from strobe.studies.concept_trace import concept_trace
from toys import letters_again

ON = [f"{a} {b} is red" for a in ("the", "a", "this", "one") for b in ("house", "car", "door", "wall", "ball", "hat")]
OFF = [t.replace("red", "blue") for t in ON]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    letters_again(out=str(tmp_path / "r"))
    return open_run(tmp_path / "r")


def test_it_is_on_the_strip_and_its_direction_is_that_of_its_own_step(run: Run) -> None:
    told: list[tuple[int, int]] = []
    got = concept_trace(run, ON, OFF, site="blocks.1", step=3, name="red", progress=lambda i, n: told.append((i, n)))
    assert told[-1] == (len(got), len(got))
    assert got[3].value[2] == pytest.approx(1, abs=1e-5)
    assert got[min(got)].value[2] < 1
    assert got[3].value[0] > 0.9
    fresh = open_run(run.path)
    assert {r["step"] for r in fresh.readings("red")} == set(got)
    assert fresh.readings("red")[0]["how"]["labels"] == ["line", "kernel", "direction (cosine)"]
    with pytest.raises(BadOption, match="another name"):
        concept_trace(fresh, ON, OFF, site="blocks.1", name="red")
    assert len(concept_trace(fresh, ON, OFF, site="blocks.0", name="fewer", most=1)) == 2  # the first and its own


def test_bad_input(run: Run, tmp_path: Path) -> None:
    for bad in ("", " ", "a[0]", "loss"):
        with pytest.raises(BadOption, match="another name"):
            concept_trace(run, ON, OFF, site="blocks.1", name=bad)
    with pytest.raises(SiteNotFound):
        concept_trace(run, ON, OFF, site="blocks.7")
    with pytest.raises(BadOption, match="9 inputs with the concept"):
        concept_trace(run, ON[:9], OFF, site="blocks.1")
    letters_again(out=str(tmp_path / "bare"), tokenizer=False)
    with pytest.raises(BadOption, match="no tokenizer"):
        concept_trace(open_run(tmp_path / "bare"), ON, OFF, site="blocks.1")
    assert "concept" not in {e["name"] for e in run.index.events("reading")}
