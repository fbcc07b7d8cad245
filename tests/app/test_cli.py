import json
import subprocess
import sys
from pathlib import Path

import pytest

from toys import toy_again

ROOT = Path(__file__).resolve().parents[1]


def strobe(*args: object, code: int = 0) -> str:
    env = {
        "PYTHONPATH": str(ROOT),
        "PATH": "/usr/bin:/bin",
        "COLUMNS": "160",
        "HOME": str(Path.home()),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "strobe.app.cli", *map(str, args)], capture_output=True, text=True, env=env
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    assert "Traceback" not in done.stderr
    return done.stdout if code == 0 else done.stdout + done.stderr


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "mine"
    toy_again(out=str(path), steps=40)
    return path


def test_list_and_find() -> None:
    entries = json.loads(strobe("list", "--json"))
    assert {"observable", "law", "edit", "study", "system"} == {e["kind"] for e in entries}
    assert json.loads(strobe("list", "laws", "--json"))[0]["kind"] == "law"
    assert "sharpness" in strobe("find", "hessian")
    assert "did you mean sharpness" in strobe("find", "sharpnss", code=2)
    assert "no kind 'colour'" in strobe("list", "colour", code=2)


def test_show_and_runs(run: Path) -> None:
    shown = json.loads(strobe("show", run, "--json"))
    assert shown["status"] == "finished"
    assert shown["steps"] == [0, 40]
    assert "loss" in strobe("show", run)
    assert json.loads(strobe("runs", run.parent, "--json"))[0]["to"] == 40
    assert "there are no runs" in strobe("runs", run / "steps", code=2)


def test_replay_and_fork(run: Path) -> None:
    assert "every bit equal" in strobe("replay", run, "--to", 33, "--verify")
    assert json.loads(strobe("replay", run, "--to", 33, "--verify", "--json"))["ok"] is True
    branch = json.loads(strobe("fork", f"{run}@20", "lr=0.001", "ablate=2/4[0]", "--until", 30, "--json"))
    assert (branch["from"], branch["to"]) == (20, 30)
    assert "mine@20" in strobe("show", branch["branch"])


def test_doctor_says_yes_and_no(run: Path, tmp_path: Path) -> None:
    assert "every byte is as it was written" in strobe("doctor", run)
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(run, broken)
    path = broken / "steps/10/tensors.safetensors"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert "step 10" in strobe("doctor", broken, code=1)
    assert "moved steps/10" in strobe("doctor", broken, "--repair")
    strobe("doctor", broken)


def test_follow_measures_what_was_not_watched(run: Path) -> None:
    rows = json.loads(strobe("follow", run, "sharpness", "--every", 20, "--json"))
    assert [r["step"] for r in rows] == [0, 20, 40]
    assert all(r["how"]["converged"] for r in rows)


def test_advice_is_said_with_its_numbers(run: Path, tmp_path: Path) -> None:
    found = json.loads(strobe("advise", run, "--json"))
    assert {f["kind"] for f in found} <= {"wrong", "obeyed", "note", "outside"}
    edge = next(f for f in found if f["law"] == "edge of stability")
    assert edge["numbers"]["largest_stable_lr"] > 0
    assert "law: stable below" in strobe("advise", run)
    assert "no run" in strobe("advise", tmp_path / "nowhere", code=2)


def test_followed_readings_are_drawn_once_and_options_are_checked(run: Path) -> None:
    from strobe.app.report import panels_of
    from strobe.runs.run import open_run

    for _ in range(2):
        strobe("follow", run, "llc", "-o", "nbeta=50", "-o", "budget=200", "-o", "chains=4")
    found = open_run(run).readings("llc")
    assert [e["step"] for e in found] == open_run(run).stored()
    assert found[0]["how"]["nbeta"] == 50
    assert any("llc" in p.series for p in panels_of(open_run(run)))
    said = strobe("follow", run, "llc", "-o", "nbta=50", code=2)
    assert "nbta" in said
    assert "its options are nbeta, gamma" in said
    assert "name=value" in strobe("follow", run, "llc", "-o", "nbeta", code=2)
    assert "three temperatures" in strobe(
        "follow", run, "rlct", "-o", "nbetas=[10]", code=2
    )  # at every step: said, not left out


def test_bad_input_is_one_clear_line(run: Path) -> None:
    assert "there is no run at" in strobe("show", run.with_name("mien"), code=2)
    assert "runs inside it: mine" in strobe("show", run.parent, code=2)
    assert "has steps 0 to 40, not 99" in strobe("replay", run, "--to", 99, code=2)
    assert "no module '7'" in strobe("fork", f"{run}@5", "ablate=7", code=2)
    assert "did you mean lr" in strobe("fork", f"{run}@5", "lrr=7", code=2)
    assert "write RUN@STEP" in strobe("fork", run, code=2)
    assert "nothing listens to commands" in strobe("pause", run, code=2)
    assert "NAME=VALUE" in strobe("set", run, "lr", code=2)
    assert "no study called 'fist_stages'" in strobe("run", "fist_stages", code=2)
    assert json.loads(strobe("show", run.with_name("mien"), "--json", code=2))["error"]
    for line in (strobe("show", run.with_name("mien"), code=2), strobe("fork", f"{run}@5", "lrr=7", code=2)):
        assert len(line.strip().splitlines()) == 1
