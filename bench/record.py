"""What recording costs: Strobe against TensorBoard, W&B (offline) and Trackio, in one process, on one loop.

    python -m venv /tmp/peers-record && /tmp/peers-record/bin/pip install -r bench/requirements-record.txt
    PYTHONPATH=. timeout 900 /tmp/peers-record/bin/python bench/record.py [tensorboard wandb trackio] [--json FILE]

Every step is logged with five scalars, as numbers (`loss.item()` is part of the loop, recorded or not).

Each logger has sessions of its own in the same process, in an order drawn anew for each pass: 200 recorded steps to warm up, then pairs of
a recorded and an unrecorded block of 25 training steps (about 1.5 ms each; CPU, one thread), in an order drawn anew
for each pair. Afterwards its calls are timed back to back.

- call: microseconds of one call: median, mean, 99th percentile.
- in-loop: recorded over unrecorded block of the same pair; median over all pairs, and quartiles. "control" pairs two
  unrecorded blocks: how far from 1 the noise alone goes. A logger's own threads and processes work on during the
  unrecorded blocks, which flatters TensorBoard, W&B and Trackio; Strobe fingerprints the state in 1 % of the time that
  passes, the unrecorded blocks' included, so that its recorded blocks carry up to 2 %.
- "strobe" records scalars, fingerprints and live control (`snapshots=None`), as much as the peers and a little more;
  "strobe + states" is the default, which also stores the full state of the loop at log-spaced steps.
- saving: a state of 48 MB, fresh tensors each time: `Snapshots.save` (hash, write, fsync, rename, fsync of the directory)
  against `safetensors.torch.save_file` (no fsync), MB/s and their paired ratio; `plain + fsync` is save_file then fsync.

Nothing leaves the machine; everything is written below a temporary directory.
"""

import argparse
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

import strobe
from strobe.runs.snapshots import Snapshots

Log = Callable[[int, dict[str, float]], None]
NAMES = ("loss", "lr", "grad_norm", "accuracy", "tokens")
BLOCK = 25  # training steps
GOALS = {"call_us": 5.0, "loop": 1.10, "save": 0.6}


# ---------------------------------------------------------------- the loop and the loggers


class Loop:
    """A training step of about 1.5 ms: a small MLP, AdamW, one CPU thread."""

    def __init__(self, width: int = 256) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(64, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 10)
        )
        self.opt = torch.optim.AdamW(self.model.parameters(), lr=1e-3)
        self.x, self.y = torch.randn(256, 64), torch.randint(0, 10, (256,))

    def step(self) -> float:
        """One step; the loss as a number."""
        loss = nn.functional.cross_entropy(self.model(self.x), self.y)
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        return loss.item()


def open_strobe(where: Path, loop: Loop, stack: ExitStack) -> Log:
    """`rec.step(...)` with fingerprints and live control."""
    rec = stack.enter_context(strobe.record(where, model=loop.model, optimizer=loop.opt, snapshots=None))
    return lambda i, scalars: rec.step(**scalars)


def open_strobe_states(where: Path, loop: Loop, stack: ExitStack) -> Log:
    """`rec.step(...)` as by default, with the full state at log-spaced steps."""
    rec = stack.enter_context(strobe.record(where, model=loop.model, optimizer=loop.opt))
    return lambda i, scalars: rec.step(**scalars)


def open_control(where: Path, loop: Loop, stack: ExitStack) -> Log | None:
    """Nothing."""
    return None


def open_tensorboard(where: Path, loop: Loop, stack: ExitStack) -> Log:
    """Five `add_scalar` calls, which is how it is used; there is no call for several."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(where))
    stack.callback(writer.close)

    def log(i: int, scalars: dict[str, float]) -> None:
        for name, value in scalars.items():
            writer.add_scalar(name, value, i)

    return log


def open_wandb(where: Path, loop: Loop, stack: ExitStack) -> Log:
    """One `run.log`, offline, without system statistics."""
    os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true", WANDB_CONSOLE="off", WANDB_DIR=str(where))
    where.mkdir()
    import wandb

    run = wandb.init(project="bench", mode="offline", dir=str(where), settings=wandb.Settings(x_disable_stats=True))
    stack.callback(run.finish)
    return lambda i, scalars: run.log(scalars)


def open_trackio(where: Path, loop: Loop, stack: ExitStack) -> Log:
    """One `trackio.log` into its local SQLite."""
    os.environ.update(TRACKIO_DIR=str(where), HF_HUB_OFFLINE="1")
    import trackio

    with open(os.devnull, "w") as null, redirect_stdout(null):  # it prints how to start its dashboard
        trackio.init(project="bench", embed=False)
    stack.callback(trackio.finish)
    return lambda i, scalars: trackio.log(scalars)


OURS = {"strobe": open_strobe, "strobe + states": open_strobe_states}
PEERS = {"tensorboard": open_tensorboard, "wandb": open_wandb, "trackio": open_trackio}


# ---------------------------------------------------------------- the three measurements


def session(
    name: str, open_it: Callable[..., Log | None], where: Path, pairs: int, count: int, given: list[Any]
) -> dict[str, Any]:
    """One logger's figures, or under "missing" why there are none."""
    loop, rnd, ratios, plain, n = Loop(), random.Random(name), [], [], 0
    with ExitStack() as stack, open(os.devnull, "w") as null:
        stack.enter_context(redirect_stderr(null))
        try:
            log = open_it(where / name.replace(" ", ""), loop, stack)
        except ImportError as e:
            return {"missing": f"not installed ({e})"}
        except Exception as e:
            return {"missing": f"does not start ({type(e).__name__}: {e})"}

        def block(recorded: bool, steps: int = BLOCK) -> float:
            nonlocal n
            began = time.perf_counter()
            for _ in range(steps):
                loss = loop.step()
                if recorded and log is not None:
                    scalars = given[n % 64]
                    scalars["loss"] = loss
                    log(n, scalars)
                    n += 1
            return (time.perf_counter() - began) / steps

        block(True, 200)
        for _ in range(pairs):
            took = {}
            for recorded in rnd.sample([True, False], 2):
                took[recorded] = block(recorded)
            plain.append(took[False])
            ratios.append(took[True] / took[False])
        return {"ratios": ratios, "plain": plain, "ns": calls(log, n, count, given) if log else []}


def pooled(sessions: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures of one logger over its sessions."""
    if any("missing" in s for s in sessions):
        return sessions[0]
    ratios, plain, ns = ([x for s in sessions for x in s[k]] for k in ("ratios", "plain", "ns"))
    q = statistics.quantiles(ratios, n=4)
    found = {"ratio": q[1], "q25": q[0], "q75": q[2], "step_ms": statistics.median(plain) * 1e3, "pairs": len(ratios)}
    found["medians"] = [statistics.median(s["ratios"]) for s in sessions]
    if ns:
        ns.sort()
        found |= {"p50": ns[len(ns) // 2] / 1e3, "mean": sum(ns) / len(ns) / 1e3, "p99": ns[int(len(ns) * 0.99)] / 1e3}
    return found


def calls(log: Log, n: int, count: int, given: list[Any]) -> list[int]:
    """Nanoseconds of each of `count` calls, back to back."""
    ns, clock = [], time.perf_counter_ns
    for i in range(n, n + count):
        began = clock()
        log(i, given[i % 64])
        ns.append(clock() - began)
    return ns


def saving(where: Path, repeats: int, mb: int = 48) -> dict[str, Any]:
    """MB/s of saving one state of `mb` MB, and the paired ratio."""
    from safetensors.torch import save_file

    store, rate = Snapshots(where / "run"), {"strobe": [], "plain": [], "plain + fsync": []}
    size = mb * 2**20 // 4 // 12
    for i in range(repeats + 1):
        state = {f"w{j}": torch.randn(size) for j in range(12)}
        for name in random.Random(i).sample(list(rate), 3):
            os.sync()
            began = time.perf_counter()
            if name == "strobe":
                store.save(i, {"objects": {"model": state}})
            else:
                path = where / f"{name}-{i}.safetensors"
                save_file(state, path)
                if name != "plain":
                    fd = os.open(path, os.O_RDONLY)
                    os.fsync(fd)
                    os.close(fd)
            if i:  # the first is warm-up
                rate[name].append(mb / (time.perf_counter() - began))
            if name != "strobe":
                path.unlink()
        store.drop(i - 1)
    ratio = {k: [b / a for b, a in zip(v, rate["plain"], strict=True)] for k, v in rate.items()}
    return {
        "mb": mb, "repeats": repeats,
        **{k: {"mb_per_s": statistics.median(rate[k]), "ratio": statistics.median(r), "q25": statistics.quantiles(r, n=4)[0],
               "q75": statistics.quantiles(r, n=4)[2]} for k, r in ratio.items()},
    }  # fmt: skip


# ---------------------------------------------------------------- the table


def table(found: dict[str, Any]) -> str:
    """One table of figures and ratios."""
    logs, save = found["loggers"], found["save"]
    base = logs["strobe"]["p50"]
    rows = [
        "| | us a call, p50 | mean | p99 | p50 / Strobe's | in-loop ratio, median | quartiles | by session | unrecorded step, ms |"
    ]
    rows += ["|---|---|---|---|---|---|---|---|---|"]
    for name, r in logs.items():
        if "missing" in r:
            rows.append(f"| {name} | {r['missing']} | | | | | | | |")
            continue
        us = f"{r['p50']:.1f} | {r['mean']:.1f} | {r['p99']:.1f} | {r['p50'] / base:.1f}" if "p50" in r else "| | |"
        spread = f"{min(r['medians']):.3f} to {max(r['medians']):.3f}"
        rows.append(
            f"| {name} | {us} | {r['ratio']:.3f} | {r['q25']:.3f} to {r['q75']:.3f} | {spread} | {r['step_ms']:.2f} |"
        )
    rows += ["", f"| saving {save['mb']} MB, {save['repeats']} repeats | MB/s | ratio to plain, median | quartiles |"]
    rows += ["|---|---|---|---|"]
    for name in ("strobe", "plain", "plain + fsync"):
        s = save[name]
        rows.append(f"| {name} | {s['mb_per_s']:.0f} | {s['ratio']:.2f} | {s['q25']:.2f} to {s['q75']:.2f} |")
    return "\n".join([*rows, "", *goals(found)])


def goals(found: dict[str, Any]) -> list[str]:
    """Each goal, its figure, and whether it holds."""
    mine, saved = found["loggers"]["strobe"], found["save"]["strobe"]["ratio"]
    held = [
        (f"a call at most {GOALS['call_us']} us (p50)", mine["p50"], mine["p50"] <= GOALS["call_us"]),
        (f"in the loop at most {GOALS['loop']}x", mine["ratio"], mine["ratio"] <= GOALS["loop"]),
        (f"saving at least {GOALS['save']}x of plain", saved, saved >= GOALS["save"]),
    ]
    return [f"goal: {text}: {figure:.3g}, {'holds' if ok else 'FAILS'}" for text, figure, ok in held]


def surroundings() -> dict[str, str]:
    """Versions of what was measured, and where."""
    found = {
        "python": platform.python_version(),
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": platform.release(),
    }
    for name in ("torch", "numpy", "xxhash", "safetensors", "tensorboard", "wandb", "trackio"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "-"
    return {"strobe": strobe.__version__, **found}


def main() -> int:
    """Measure, print, and say whether the goals hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peers", nargs="*", default=list(PEERS), help=", ".join(PEERS))
    parser.add_argument("--passes", type=int, default=4, help="sessions of each logger")
    parser.add_argument("--pairs", type=int, default=60, help="pairs of blocks in a session")
    parser.add_argument("--calls", type=int, default=3000, help="calls back to back in a session")
    parser.add_argument("--repeats", type=int, default=20, help="of saving")
    parser.add_argument("--dir", type=Path, default=None, help="where to write (a disk, not a RAM disk)")
    parser.add_argument("--json", type=Path, default=None, help="also write the figures to this file")
    given = parser.parse_args()
    if unknown := set(given.peers) - set(PEERS):
        parser.error(f"there is no peer {sorted(unknown)}; there are {', '.join(PEERS)}")
    torch.set_num_threads(1)
    rnd = random.Random(0)
    scalars = [{k: rnd.random() for k in NAMES} for _ in range(64)]
    opens = {"control": open_control, **OURS, **{k: PEERS[k] for k in given.peers}}
    with tempfile.TemporaryDirectory(dir=given.dir) as name:
        where = Path(name)
        os.chdir(where)  # W&B and Trackio write beside the process otherwise
        found: dict[str, Any] = {"surroundings": surroundings(), "load_before": os.getloadavg()[0]}
        found["save"] = saving(where, given.repeats)
        passes: dict[str, list[dict[str, Any]]] = {k: [] for k in opens}
        for i in range(given.passes):
            for k in rnd.sample(list(opens), len(opens)):
                passes[k].append(session(f"{k} {i}", opens[k], where, given.pairs, given.calls, scalars))
        found["loggers"] = {k: pooled(s) for k, s in passes.items()}
        found["load_after"] = os.getloadavg()[0]
        os.chdir("/")
    print(table(found))
    print(
        f"\n{', '.join(f'{k} {v}' for k, v in found['surroundings'].items())}; load {found['load_before']:.1f} to {found['load_after']:.1f}"
    )
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))
    return 1 if any("FAILS" in line for line in goals(found)) else 0


if __name__ == "__main__":
    sys.exit(main())
