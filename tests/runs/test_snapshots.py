import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from strobe.core.errors import Damaged, NotPlain, StepNotFound
from strobe.runs.snapshots import Snapshots


def state(step: int) -> dict[str, object]:
    return {
        "w": torch.full((3, 4), float(step)), "frozen": torch.arange(10.0), "odd": torch.tensor([True, False, True]),
        "half": torch.ones(3, dtype=torch.bfloat16), "scalar": torch.tensor(2.5), "none": None, "empty": torch.zeros(0, 2),
        1: {"nan": float("nan"), "t": (1, "a")},
    }  # fmt: skip


def test_round_trip_is_exact_for_every_type(tmp_path: Path) -> None:
    s = Snapshots(tmp_path)
    s.save(3, state(3))
    back, manifest = s.load(3)
    assert manifest.step == 3
    for k in ("w", "frozen", "odd", "half", "scalar", "empty"):
        assert torch.equal(back[k], state(3)[k])  # type: ignore[arg-type]
        assert back[k].dtype == state(3)[k].dtype  # type: ignore[attr-defined]
    assert back[1]["t"] == (1, "a")
    assert back[1]["nan"] != back[1]["nan"]


def test_equal_tensors_are_stored_once_and_the_pack_is_plain_safetensors(tmp_path: Path) -> None:
    s = Snapshots(tmp_path)
    first, second = s.save(1, state(1)), s.save(2, state(2))
    assert second < first
    assert list(load_file(tmp_path / "steps/2/tensors.safetensors")) == ["state.w"]
    assert torch.equal(Snapshots(tmp_path).load(2)[0]["frozen"], torch.arange(10.0))


def test_dropping_a_step_keeps_the_bytes_that_others_need(tmp_path: Path) -> None:
    s = Snapshots(tmp_path)
    for i in (1, 2, 3):
        s.save(i, state(i))
    s.drop(1)
    assert s.steps() == [2, 3]
    assert torch.equal(s.load(3)[0]["frozen"], torch.arange(10.0))
    s.drop(2)
    s.drop(3)
    assert not list((tmp_path / "steps").glob("*"))
    s.save(4, state(4))
    assert torch.equal(s.load(4)[0]["frozen"], torch.arange(10.0))


def test_a_missing_step_is_named_with_what_there_is(tmp_path: Path) -> None:
    s = Snapshots(tmp_path)
    s.save(5, state(5))
    with pytest.raises(StepNotFound, match=r"step 4 .* stored steps: 5"):
        s.load(4)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_flipped_byte_anywhere_is_found_and_other_steps_stay(tmp_path: Path, data: st.DataObject) -> None:
    root = Path(tempfile.mkdtemp(dir=tmp_path))
    s = Snapshots(root)
    s.save(1, state(1))
    s.save(2, {k: v for k, v in state(2).items() if k == "w"})
    file = data.draw(st.sampled_from(["manifest.json", "tensors.safetensors"]))
    path = root / "steps/2" / file
    raw = bytearray(path.read_bytes())
    raw[int(data.draw(st.floats(0, 1, exclude_max=True)) * len(raw))] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(raw)
    problems = Snapshots(root).check(2)
    assert problems
    assert all("step 2" in p for p in problems)
    assert Snapshots(root).check(1) == []


@pytest.mark.parametrize("file", ["manifest.json", "tensors.safetensors"])
def test_a_cut_file_raises_damaged_with_its_step(tmp_path: Path, file: str) -> None:
    s = Snapshots(tmp_path)
    s.save(7, state(7))
    path = tmp_path / "steps/7" / file
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(Damaged, match="step 7"):
        s.load(7)


def test_nothing_is_left_behind_by_a_failed_save(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s = Snapshots(tmp_path)
    s.save(1, state(1))
    monkeypatch.setattr("strobe.runs.snapshots.os.fsync", lambda fd: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(OSError, match="No space"):
        s.save(2, state(2))
    monkeypatch.undo()
    assert [p.name for p in (tmp_path / "steps").iterdir()] == ["1"]
    s.save(2, state(2))
    assert s.check(2) == []


def test_what_is_no_plain_data_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(NotPlain, match=r"state.deep.0.*builtins.object"):
        Snapshots(tmp_path).save(1, {"deep": [object()]})


def test_a_step_written_again_does_not_lean_on_the_damaged_pack_it_replaces(tmp_path: Path) -> None:
    first = Snapshots(tmp_path)
    for i in (10, 20, 30):
        first.save(i, state(i))
    pack = tmp_path / "steps" / "30" / "tensors.safetensors"
    data = bytearray(pack.read_bytes())
    data[-2] ^= 1
    pack.write_bytes(data)
    again = Snapshots(tmp_path)  # a writer that resumes: the newest is damaged, so it goes on from the one before
    with pytest.raises(Damaged):
        again.load(30)
    again.load(20)
    again.save(30, state(30))
    again.save(40, state(30))
    assert [again.check(s) for s in again.steps()] == [[]] * 4
    assert torch.equal(Snapshots(tmp_path).load(30)[0]["w"], torch.full((3, 4), 30.0))
