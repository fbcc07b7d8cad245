"""Kill a recording loop with SIGKILL at seeded random instants, resume it, and check every promise. Run as a script.

python crash_trials.py DIR KILLS SEED   ->   one JSON line of what was counted, exit code 1 at the first broken promise
"""

import json
import os
import random
import select
import signal
import struct
import sys
import time
import warnings
from pathlib import Path

import torch

import strobe
from strobe.runs.directory import StrobeWarning
from strobe.runs.run import open_run
from toys import Toy

STEPS = 500


def loop(path: Path, acknowledge: int) -> None:
    warnings.simplefilter("ignore", StrobeWarning)
    one = Toy()
    with strobe.record(
        path, model=one.model, optimizer=one.opt, snapshots=15, most_snapshots=6, resume=path.exists()
    ) as rec:
        for step in rec.steps(STEPS):
            rec.step(loss=one.one(step))
            os.write(acknowledge, struct.pack("<I", rec.n))


def trial(path: Path, wait: float) -> tuple[int, bool]:
    """(last acknowledged step, was it killed) of one child."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        code = 1
        try:
            loop(path, writer)
            code = 0
        finally:
            os._exit(code)
    os.close(writer)
    data, until = b"", time.monotonic() + wait
    while (left := until - time.monotonic()) > 0 and select.select([reader], [], [], left)[0]:
        if not (chunk := os.read(reader, 1 << 16)):  # the child ended by itself
            break
        data += chunk
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    while chunk := os.read(reader, 1 << 16):
        data += chunk
    os.close(reader)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "the loop itself failed"
    return (struct.unpack("<I", data[-4:])[0] if data else 0), os.WIFSIGNALED(status)


def main(root: Path, kills: int, seed: int) -> None:
    torch.set_num_threads(1)
    rng, done, runs, longest = random.Random(seed), 0, 0, 0
    reference = Toy()
    reference.run(root / "reference", STEPS)
    while done < kills:
        path, acknowledged, finished = root / f"run{runs}", 0, False
        while not finished:
            last, killed = trial(path, rng.uniform(0.0, 0.25) if done < kills else 600.0)
            done += killed
            acknowledged = max(acknowledged, last)
            if not (path / "run.json").exists():
                continue
            run = open_run(path)
            steps = set(run.index.series("loss", superseded=True)[0].tolist()) if acknowledged else set()
            assert set(range(1, acknowledged + 1)) <= steps, f"an acknowledged step is gone: {acknowledged}"
            if run.stored():
                run.snapshots.load(run.stored()[-1])
            longest = max(longest, acknowledged)
            finished = run.status == "finished" and run.last == STEPS
        state = open_run(path).state(STEPS)["objects"]["model"]["state"]
        same = all(torch.equal(state[k], v) for k, v in reference.model.state_dict().items())
        assert same, "the finished weights differ from an uninterrupted run's"
        runs += 1
    print(json.dumps({"kills": done, "finished_runs": runs, "furthest": longest, "lost": 0}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
