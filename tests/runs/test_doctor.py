from pathlib import Path
from typing import Any

import pytest

from strobe.core.errors import NotARun, RunNotFound
from strobe.runs.doctor import examine, repair
from strobe.runs.run import open_run


def flip(path: Path, at: float) -> None:
    raw = bytearray(path.read_bytes())
    raw[int(at * len(raw))] ^= 1
    path.write_bytes(raw)


def test_a_healthy_run_has_no_findings(tmp_path: Path, toy: Any) -> None:
    toy().run(tmp_path / "r", 30)
    assert examine(tmp_path / "r") == []


@pytest.mark.parametrize("at", [0.001, 0.2, 0.5, 0.9])
def test_a_flipped_byte_in_any_file_is_named_with_its_step(tmp_path: Path, toy: Any, at: float) -> None:
    toy().run(tmp_path / "r", 30)
    files = ["journal/000001.journal", "steps/10/manifest.json", "steps/10/tensors.safetensors", "run.json"]
    for i, name in enumerate(files):
        path = tmp_path / "r" / name
        kept = path.read_bytes()
        flip(path, at)
        found = examine(tmp_path / "r")
        assert found, name
        if i in (1, 2):
            assert {f.step for f in found} >= {10}
        if i == 0:
            assert "bytes of records" in found[0].lost
        path.write_bytes(kept)
    assert examine(tmp_path / "r") == []


def test_other_steps_stay_readable_and_repair_moves_aside(tmp_path: Path, toy: Any) -> None:
    toy().run(tmp_path / "r", 30)
    flip(tmp_path / "r/steps/10/tensors.safetensors", 0.9)
    flip(tmp_path / "r/journal/000001.journal", 0.5)
    run = open_run(tmp_path / "r")
    assert len(run.series("loss")) >= 28
    damaged = {f.step for f in examine(tmp_path / "r") if f.file.startswith("steps")}
    for step in set(run.stored()) - damaged:
        run.snapshots.load(step)
    moved = repair(tmp_path / "r")
    assert any("steps/10" in m for m in moved)
    assert list((tmp_path / "r/aside").iterdir())
    assert not any(f.file.startswith("steps") for f in examine(tmp_path / "r"))


def test_the_index_is_derived_and_rebuilt(tmp_path: Path, toy: Any) -> None:
    toy().run(tmp_path / "r", 30)
    before = open_run(tmp_path / "r").series("loss").values.tolist()
    (tmp_path / "r/index.sqlite").write_bytes(b"no database at all" * 100)
    assert open_run(tmp_path / "r").series("loss").values.tolist() == before
    (tmp_path / "r/index.sqlite").unlink()
    assert open_run(tmp_path / "r").series("loss").values.tolist() == before


def test_what_is_no_run_is_said_so(tmp_path: Path, toy: Any) -> None:
    toy().run(tmp_path / "mine", 3)
    with pytest.raises(RunNotFound, match="runs beside it: mine"):
        examine(tmp_path / "mime")
    with pytest.raises(NotARun, match="runs inside it: mine"):
        open_run(tmp_path)
