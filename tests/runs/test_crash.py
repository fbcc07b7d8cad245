import contextlib
import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from strobe.runs.directory import StrobeWarning
from strobe.runs.doctor import examine
from strobe.runs.run import open_run

TRIALS = Path(__file__).with_name("crash_trials.py")


def kill(tmp_path: Path, kills: int, seed: int) -> dict[str, int]:
    env = {**os.environ, "PYTHONPATH": str(TRIALS.parents[1])}
    done = subprocess.run(
        [sys.executable, TRIALS, tmp_path, str(kills), str(seed)], capture_output=True, text=True, env=env
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])  # type: ignore[no-any-return]


def test_kill_9_loses_no_acknowledged_step(tmp_path: Path) -> None:
    assert kill(tmp_path, 12, seed=1)["kills"] >= 12


@pytest.mark.slow
def test_kill_9_at_200_random_instants(tmp_path: Path) -> None:
    counted = kill(tmp_path, 200, seed=2)
    assert counted["kills"] >= 200
    assert counted["finished_runs"] >= 2


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB; needs the right to mount."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", place], capture_output=True)
    if mounted.returncode:
        pytest.skip("this machine does not let us mount a tmpfs")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


def test_a_full_disk_stops_neither_training_nor_what_was_stored(small_disk: Path, toy: Any) -> None:
    ballast, warned = small_disk / "ballast", []

    def hook(rec: Any) -> None:
        if rec.n == 20:
            fd = os.open(ballast, os.O_CREAT | os.O_WRONLY)
            with contextlib.suppress(OSError):
                while True:
                    os.write(fd, b"x" * 4096)
            os.close(fd)
        if rec.n == 40:
            warned.append(open_run(rec.path).stored())
            ballast.unlink()

    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        toy().run(small_disk / "r", 60, hook=hook, snapshots=5)
    ours = [str(w.message) for w in seen if issubclass(w.category, StrobeWarning)]
    assert len([w for w in ours if "journal cannot be written" in w]) <= 1
    assert any("No space left" in w for w in ours)
    assert len(ours) <= 2  # once for the journal, once for the snapshots
    assert warned[0][:2] == [0, 5]
    run = open_run(small_disk / "r")
    assert run.series("loss").steps.tolist() == list(range(1, 61))
    assert {50, 55, 60} <= set(run.stored())
    for step in run.stored():
        run.snapshots.load(step)
    assert examine(small_disk / "r") == []
