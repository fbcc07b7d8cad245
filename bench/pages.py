"""The pages' server: first view, listing, live deltas, a look, memory, and what an open page costs the training loop.

    python bench/pages.py [--runs 50] [--points 10000000] [--demo runs/demo] [--tensorboard] [--trackio]

Wall seconds on this machine, the server in a process of its own, over loopback HTTP as a browser asks (gzip). `cold` has no
index yet: the server reads the journals. With --tensorboard or --trackio the same runs are written for them, and they are timed
from their start to the same point: every run's name, and the numbers of one metric of every run (they need
`pip install tensorboard trackio` beside Strobe, in a venv of their own).
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

TOKEN = "b" * 24


def make_runs(root: Path, runs: int, metrics: int, points: int) -> None:
    """Runs of `metrics` series with `points` points each, recorded by Strobe itself."""
    import numpy as np
    import torch

    import strobe

    noise = np.random.default_rng(0).standard_normal((points, metrics)).cumsum(0)
    for i in range(runs):
        with strobe.record(
            root / f"run-{i:03d}", model=torch.nn.Linear(1, 1), snapshots=None, every_seconds=None
        ) as rec:
            for t in range(points):
                rec.step(loss=noise[t, 0] + i, **{f"m{j}": noise[t, j] for j in range(1, metrics)})


@contextmanager
def server(root: Path) -> Iterator[tuple[str, int]]:
    """`strobe serve` and its process id."""
    command = [sys.executable, "-m", "strobe.app.cli", "serve", str(root), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "STROBE_TOKEN": TOKEN}
    ) as child:
        assert child.stdout is not None
        yield next(line.strip().partition("/?token=")[0] for line in child.stdout if "http://" in line), child.pid
        child.kill()


def ask(address: str, path: str, body: Any = None) -> tuple[float, int, Any]:
    """(seconds, bytes on the wire, answer)."""
    headers = {
        "Authorization": f"Bearer {TOKEN}",
        "X-Strobe": "1",
        "Accept-Encoding": "gzip",
        "Content-Type": "application/json",
    }
    data = None if body is None else json.dumps(body).encode()
    start = time.perf_counter()
    with urllib.request.urlopen(urllib.request.Request(address + path, data, headers)) as answer:
        raw = answer.read()
        packed = answer.headers.get("Content-Encoding") == "gzip"
    seconds = time.perf_counter() - start
    import gzip

    return seconds, len(raw), json.loads(gzip.decompress(raw) if packed else raw)


def first_view(address: str) -> tuple[float, int]:
    """What the first page asks for: the list, then one metric of every run."""
    seconds, size, listed = ask(address, "/api/runs")
    ids = [r["id"] for r in listed["runs"]]
    for some in (ids[i : i + 64] for i in range(0, len(ids), 64)):
        s, n, got = ask(address, "/api/compare?name=loss&points=400&" + "&".join(f"id={i}" for i in some))
        assert len(got["series"]) == len(some)
        seconds, size = seconds + s, size + n
    return seconds, size


def memory(pid: int) -> float:
    """Resident MB."""
    return (
        int(next(x for x in Path(f"/proc/{pid}/status").read_text().splitlines() if x.startswith("VmRSS")).split()[1])
        / 1024
    )


def tensorboard(root: Path, runs: int, metrics: int, points: int) -> float:
    """Seconds from its start to the same view."""
    from torch.utils.tensorboard import SummaryWriter

    for i in range(runs):
        with SummaryWriter(str(root / f"run-{i:03d}")) as w:
            for t in range(points):
                for j in range(metrics):
                    w.add_scalar(f"m{j}", (t * (j + 1) % 97) / 97 + i, t)
    port = 16006
    start = time.perf_counter()
    command = [
        sys.executable,
        "-m",
        "tensorboard.main",
        "--logdir",
        str(root),
        "--port",
        str(port),
        "--load_fast=false",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        try:
            while time.perf_counter() - start < 300:
                try:
                    tags = json.loads(
                        urllib.request.urlopen(f"http://localhost:{port}/data/plugin/scalars/tags").read()
                    )
                    if len(tags) == runs and all(len(v) == metrics for v in tags.values()):
                        for run in tags:
                            url = f"http://localhost:{port}/data/plugin/scalars/scalars?tag=m0&run={run}"
                            assert len(json.loads(urllib.request.urlopen(url).read())) > 0
                        return time.perf_counter() - start
                except OSError:
                    pass
                time.sleep(0.05)
        finally:
            child.kill()
    return float("nan")


def trackio(root: Path, runs: int, metrics: int, points: int) -> float:
    """Seconds from its start to the same view: its list of runs, and what its page asks of every run (all metrics, thinned)."""
    env = {**os.environ, "TRACKIO_DIR": str(root), "HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False"}
    fill = (
        "from trackio.sqlite_storage import SQLiteStorage as S\n"
        f"for i in range({runs}):\n"
        f"    rows = [{{f'm{{j}}': (t * (j + 1) % 97) / 97 + i for j in range({metrics})}} for t in range({points})]\n"
        f"    S.bulk_log('bench', f'run-{{i:03d}}', rows, steps=list(range({points})))\n"
    )
    subprocess.run([sys.executable, "-c", fill], check=True, env=env, stdout=subprocess.DEVNULL)
    port, start = 17860, time.perf_counter()
    show = f"import trackio; trackio.show('bench', open_browser=False, block_thread=True, server_port={port})"
    with subprocess.Popen(
        [sys.executable, "-c", show], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as child:

        def post(name: str, **body: Any) -> Any:
            data = json.dumps(body).encode()
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}/api/{name}", data, {"Content-Type": "application/json"}
            )
            return json.loads(urllib.request.urlopen(request).read())

        try:
            while time.perf_counter() - start < 300:
                try:
                    known = post("get_runs_for_project", project="bench")
                    known = known.get("data", known)
                    asked = [
                        {"run": r.get("name") or r.get("run"), "run_id": r.get("id") or r.get("run_id")} for r in known
                    ]
                    assert len(asked) == runs
                    got = post("get_logs_batch", project="bench", runs=asked, max_points=points, scalar_only=True)
                    assert len(got.get("data", got)) == runs
                    return time.perf_counter() - start
                except OSError:
                    time.sleep(0.05)
        finally:
            child.kill()
    return float("nan")


LOOP = """
import sys, time, torch, strobe
torch.set_num_threads(1); torch.manual_seed(0)
net = torch.nn.Sequential(torch.nn.Linear(64, 128), torch.nn.ReLU(), torch.nn.Linear(128, 10))
opt = torch.optim.SGD(net.parameters(), lr=0.01); x = torch.randn(64, 64); y = torch.randint(10, (64,))
with strobe.record(sys.argv[1], model=net, optimizer=opt) as rec:
    start = time.perf_counter()
    while time.perf_counter() - start < float(sys.argv[2]):
        loss = torch.nn.functional.cross_entropy(net(x), y); opt.zero_grad(); loss.backward(); opt.step(); rec.step(loss=loss)
    print(rec.n / (time.perf_counter() - start))
"""


def speed(root: Path, name: str, seconds: float, page: bool) -> float:
    """Steps a second of a small loop, with or without a page that listens to it."""
    with subprocess.Popen(
        [sys.executable, "-c", LOOP, str(root / name), str(seconds)], stdout=subprocess.PIPE, text=True
    ) as loop:
        if page:
            with server(root) as (address, _):
                threading.Thread(target=_listen, args=(address, name), daemon=True).start()
                said = loop.communicate()[0]
        else:
            said = loop.communicate()[0]
    return float(said)


def _listen(address: str, name: str) -> None:
    while not (ids := [r["id"] for r in ask(address, "/api/runs")[2]["runs"] if r["name"] == name]):
        time.sleep(0.1)
    id = ids[0]
    request = urllib.request.Request(f"{address}/api/stream?run={id}", headers={"Authorization": f"Bearer {TOKEN}"})
    try:
        for _ in urllib.request.urlopen(request):
            pass
    except OSError:
        pass


def main() -> None:
    p = argparse.ArgumentParser()
    p.add_argument("--runs", type=int, default=50)
    p.add_argument("--points", type=int, default=10_000_000)
    p.add_argument("--demo", type=Path, default=Path("runs/demo"), help="a demo's folder, for the look")
    p.add_argument("--tensorboard", action="store_true")
    p.add_argument("--trackio", action="store_true")
    p.add_argument("--only-peers", action="store_true")
    args = p.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="strobe-bench-"))
    try:
        many = folder / "many"
        make_runs(many, args.runs, 20, 2000)
        for word in ("cold", "warm server, again", "new server, index there"):
            began = time.perf_counter()
            if word != "warm server, again":
                context = server(many)
                address, pid = context.__enter__()
            seconds, size = first_view(address)
            if word != "warm server, again":
                print(f"  from the server's start: {time.perf_counter() - began:.2f} s", flush=True)
            print(
                f"first view of {args.runs} runs x 20 metrics x 2,000 points, {word}: {seconds:.2f} s, {size / 1e6:.2f} MB",
                flush=True,
            )
            if word != "cold":
                context.__exit__(None, None, None)
        if args.tensorboard:
            print(
                f"TensorBoard, the same runs, from its start: {tensorboard(folder / 'tb', args.runs, 20, 2000):.1f} s",
                flush=True,
            )
        if args.trackio:
            print(
                f"Trackio, the same runs, from its start: {trackio(folder / 'trackio', args.runs, 20, 2000):.1f} s",
                flush=True,
            )
        if args.only_peers:
            return
        lots = folder / "lots"
        make_runs(lots, 200, 2, 200)
        with server(lots) as (address, _):
            print(
                f"200 runs listed: {ask(address, '/api/runs')[0]:.2f} s cold, {ask(address, '/api/runs')[0]:.3f} s again",
                flush=True,
            )
        big = folder / "big"
        make_runs(big, 1, 10, args.points // 10)
        with server(big) as (address, pid):
            (row,) = ask(address, "/api/runs")[2]["runs"]
            names = "&".join(f"name=m{j}" for j in range(1, 10))
            took = ask(address, f"/api/runs/{row['id']}/series?name=loss&{names}")[0]
            print(
                f"{args.points:,} points: 10 traces in {took:.2f} s, server at {memory(pid):.0f} MB resident",
                flush=True,
            )
        if args.demo.is_dir():
            with server(args.demo) as (address, _):
                row = next(r for r in ask(address, "/api/runs")[2]["runs"] if not r["parent"])
                stored = ask(address, f"/api/runs/{row['id']}")[2]["stored"]
                times = {}
                for view in ("tokens", "attention", "lens", "modules", "examples"):
                    looks = [
                        ask(address, f"/api/runs/{row['id']}/look", {"view": view, "step": s})[0] for s in stored[-6:]
                    ]
                    times[view] = (looks[0], statistics.median(looks[1:]), max(looks[1:]))
                for view, (first, middle, worst) in times.items():
                    print(f"look {view}: first {first:.2f} s, then {middle:.3f} s (worst {worst:.3f})", flush=True)
        pairs = []
        for i in range(5):
            live = folder / f"live{i}"
            live.mkdir()
            order = (False, True) if i % 2 else (True, False)
            got = {page: speed(live, f"r{page}", 6, page) for page in order}
            pairs.append(got[True] / got[False])
        print(
            f"training with the page open: {statistics.median(pairs):.3f} of the speed without (pairs {[round(x, 3) for x in pairs]})"
        )
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
