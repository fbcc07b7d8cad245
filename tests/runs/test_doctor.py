from pathlib import Path
from typing import Any

import pytest

from strobe.core.errors import NotARun, RunNotFound
from strobe.runs.doctor import examine, repair
from strobe.runs.journal import Frame, read
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


def frames(path: Path) -> list[Frame]:
    return [item for item in read(path) if isinstance(item, Frame)]


def test_a_flipped_byte_costs_at_most_the_frame_it_is_in(tmp_path: Path, toy: Any) -> None:
    toy().run(tmp_path / "r", 30)
    path = tmp_path / "r/journal/000001.journal"
    kept = path.read_bytes()
    for frame in frames(path):
        (tmp_path / "r/index.sqlite").unlink(missing_ok=True)
        flip(path, (frame.end - 5) / len(kept))
        assert any("bytes of records" in f.lost for f in examine(tmp_path / "r"))
        assert len(open_run(tmp_path / "r").series("loss")) >= 29
        path.write_bytes(kept)


def test_records_whose_names_are_lost_are_told_and_the_rest_is_read(tmp_path: Path, toy: Any) -> None:
    toy().run(tmp_path / "r", 30)
    path = tmp_path / "r/journal/000001.journal"
    size, definitions = path.stat().st_size, [f.end for f in frames(path) if b'"define"' in f.body]
    assert len(definitions) == 2
    for end in definitions:
        flip(path, (end - 5) / size)
    assert any("names are lost" in t["why"] for t in open_run(tmp_path / "r").index.tears())
    assert open_run(tmp_path / "r").index.last_step() == 30
    assert examine(tmp_path / "r")


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


def test_damage_in_what_is_derived_is_found_and_never_believed_twice(tmp_path: Path, toy: Any) -> None:
    from strobe.observables.weight_norms import weight_norms
    from strobe.runs.watch import follow
    from toys import toy_again

    toy_again(out=str(tmp_path / "r"), steps=30)
    run = open_run(tmp_path / "r")
    true, losses = follow(run, weight_norms, every=10), run.series("loss").values
    run._index.db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    run._index.db.close()
    (kept,) = (tmp_path / "r/readings").glob("*.json")
    kept.write_text(kept.read_text().replace("10", "11", 1))
    index = tmp_path / "r/index.sqlite"
    raw = index.read_bytes()
    at = raw.index(losses[7].tobytes())
    index.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    assert {f.file for f in examine(tmp_path / "r")} == {f"readings/{kept.name}", "index.sqlite"}
    assert any("index.sqlite" in m for m in repair(tmp_path / "r"))
    again = open_run(tmp_path / "r")
    assert again.series("loss").values.tolist() == losses.tolist()
    found = follow(again, weight_norms, every=10)
    assert all((found[k].value == true[k].value).all() for k in true)
    assert examine(tmp_path / "r") == []


def test_one_damaged_run_does_not_hide_its_neighbours(tmp_path: Path, toy: Any) -> None:
    from strobe.runs.directory import StrobeWarning
    from strobe.runs.run import runs_below

    toy().run(tmp_path / "a", 3)
    toy().run(tmp_path / "b", 3)
    flip(tmp_path / "b/run.json", 0.5)
    (tmp_path / "b/journal/000001.journal").unlink()  # which keeps a copy of it
    with pytest.warns(StrobeWarning, match="left out: .*b/run.json is damaged"):
        assert [r.name for r in runs_below(tmp_path)] == ["a"]
    with pytest.warns(StrobeWarning, match="left out"):
        assert open_run(tmp_path / "a").branches() == []


def test_a_journal_that_is_gone_or_shorter_than_it_was_is_found(tmp_path: Path, toy: Any) -> None:
    toy().run(tmp_path / "r", 30)
    assert open_run(tmp_path / "r").last == 30  # a reader has indexed it
    journal = tmp_path / "r/journal/000001.journal"
    kept = journal.read_bytes()
    ends = [i.end for i in read(journal) if isinstance(i, Frame)]
    journal.write_bytes(kept[: ends[-20]])  # between two frames: no checksum is broken
    assert any("shorter than it was" in f.what for f in examine(tmp_path / "r"))
    (tmp_path / "r/index.sqlite").unlink()
    assert any("states reach step 30" in f.what for f in examine(tmp_path / "r"))
    journal.write_bytes(kept)
    journal.rename(journal.with_name("000002.journal"))
    assert any(f.file == "journal/000001.journal" and f.what == "is missing" for f in examine(tmp_path / "r"))


def test_a_damaged_run_json_is_kept_by_the_journal(tmp_path: Path, toy: Any) -> None:
    toy().run(tmp_path / "r", 10)
    before = open_run(tmp_path / "r").facts
    flip(tmp_path / "r/run.json", 0.5)
    assert [f.file for f in examine(tmp_path / "r")] == ["run.json"]
    assert open_run(tmp_path / "r").facts == before
    assert any("written anew" in m for m in repair(tmp_path / "r"))
    assert examine(tmp_path / "r") == []
    assert open_run(tmp_path / "r").facts == before
