import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import strobe
from strobe.core.errors import BadOption
from strobe.runs.control import Command, Inbox, send
from strobe.runs.run import open_run

LOOP = """
import sys, time, torch, strobe
torch.set_num_threads(1)
model = torch.nn.Linear(2, 1); opt = torch.optim.SGD(model.parameters(), lr=0.1)
value = [1.0]
with strobe.record(sys.argv[1], model=model, optimizer=opt, snapshots=5) as rec:
    rec.control("dropout", lambda: value[0], lambda v: value.__setitem__(0, v), min=0.0, max=1.0)
    for step in rec.steps(100000):
        opt.zero_grad(); (model(torch.ones(1, 2)) ** 2).sum().backward(); opt.step()
        rec.step(loss=1.0 / (step + 1)); time.sleep(0.002)
print("left the loop at", rec.n)
"""


def strobe_(*args: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run([sys.executable, "-m", "strobe.app.cli", *args, "--json"], capture_output=True, text=True)
    return done.returncode, json.loads(done.stdout or "{}")


def test_a_live_run_obeys_and_every_command_is_in_the_journal(tmp_path: Path) -> None:
    out = str(tmp_path / "r")
    loop = subprocess.Popen([sys.executable, "-c", LOOP, out], stdout=subprocess.PIPE, text=True)
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until and not (tmp_path / "r/steps/10/manifest.json").exists():
            time.sleep(0.05)
        code, said = strobe_("pause", out)
        assert (code, said["outcome"]) == (0, "applied")
        run = open_run(out)
        assert run.status == "paused"
        at = run.last
        time.sleep(0.2)
        assert run.last == at
        assert strobe_("set", out, "lr=0.01")[1]["outcome"] == "applied"
        code, said = strobe_("set", out, "dropout=7")
        assert (code, said["outcome"]) == (1, "refused")
        assert "outside its range [0, 1]" in said["reason"]
        assert "did you mean lr" in strobe_("set", out, "lrr=1")[1]["reason"]
        assert strobe_("snapshot", out)[1]["outcome"] == "applied"
        assert at in run.stored()
        assert "not stored" in strobe_("rewind", out, "--to", "7")[1]["reason"]
        assert strobe_("rewind", out, "--to", "5")[1]["outcome"] == "applied"
        branch = open_run(tmp_path / "r-b1")
        assert branch.facts["parent"]["step"] == 5
        assert branch.events("controls")[0]["values"]["lr"] == 0.1  # what the state at step 5 had
        assert run.status == "rewound"
        assert strobe_("stop", str(branch.path))[1]["outcome"] == "applied"
        text, _ = loop.communicate(timeout=60)
        assert "left the loop at" in text
    finally:
        loop.kill()
    assert open_run(tmp_path / "r-b1").status == "finished"
    acts = [(e["act"], e["outcome"]) for e in open_run(out).events("command")]
    assert acts == [("pause", "applied"), ("set", "applied"), ("set", "refused"), ("set", "refused"), ("snapshot", "applied"),
                    ("rewind", "refused"), ("rewind", "applied")]  # fmt: skip
    assert all(e["author"].startswith("human ") for e in open_run(out).events("command"))
    code, said = strobe_("pause", out)
    assert code == 2
    assert "nothing listens to commands" in said["error"]


def test_the_same_id_is_applied_once_and_expired_ones_are_refused(tmp_path: Path, toy: Any) -> None:
    def hook(rec: strobe.Recorder) -> None:
        if rec.n == 3:
            send(rec.path, "set", name="lr", value=0.5, id="a")
            send(rec.path, "set", name="lr", value=0.7, id="a")
            send(rec.path, "set", name="lr", value=0.9, expires=1.0)
            send(rec.path, "set", name="lr", value=0.25, not_before=8)

    one = toy()
    one.run(tmp_path / "r", 10, hook=hook)
    run = open_run(tmp_path / "r")
    assert [(e["step"], e["value"]) for e in run.events("applied")] == [(4, 0.5), (8, 0.25)]
    assert "expired" in next(e["reason"] for e in run.events("command") if e["outcome"] == "refused")


def test_setting_lr_keeps_the_proportions_of_groups_and_schedulers(tmp_path: Path) -> None:
    a, b = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
    opt = torch.optim.SGD([{"params": a.parameters()}, {"params": b.parameters(), "lr": 0.01}], lr=0.1)
    sched = torch.optim.lr_scheduler.StepLR(opt, 100)
    with strobe.record(tmp_path / "r", model=torch.nn.ModuleList([a, b]), optimizer=opt, scheduler=sched) as rec:
        rec.levers.apply({"act": "set", "name": "lr", "value": 0.2})
    assert [g["lr"] for g in opt.param_groups] == [0.2, 0.02]
    assert sched.base_lrs == [0.2, 0.02]


def test_rewind_is_refused_where_the_data_cannot_go_back(tmp_path: Path, toy: Any) -> None:
    with strobe.record(tmp_path / "r", model=toy().model, snapshots=2) as rec:
        for i in range(6):
            if i == 4:
                send(rec.path, "rewind", step=2)
            rec.step(loss=1.0)
    (said,) = open_run(tmp_path / "r").events("command")
    assert said["outcome"] == "refused"
    assert "for step in rec.steps(N)" in said["reason"]


def test_polling_is_one_read_and_unknown_acts_are_refused(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path) if (tmp_path / "control").mkdir() is None else None
    assert inbox is not None
    assert not inbox.changed()
    send(tmp_path, "pause")
    assert inbox.changed()
    assert [c.act for c in inbox.fetch(0)] == ["pause"]
    assert not inbox.changed()
    with pytest.raises(BadOption, match="no command 'explode'"):
        send(tmp_path, "explode")
    inbox.close()


def test_setting_lr_is_not_undone_by_the_schedule(tmp_path: Path) -> None:
    from torch.optim.lr_scheduler import LinearLR, OneCycleLR, SequentialLR, StepLR

    def left_after(make: Any, steps: int) -> float:
        model = torch.nn.Linear(2, 2)
        opt = torch.optim.SGD(model.parameters(), lr=0.1)
        sched = make(opt)
        rates = []
        for value in (None, 0.5):
            if value:
                levers = strobe.record(tmp_path / "never", model=model, optimizer=opt, scheduler=sched).levers
                before = opt.param_groups[0]["lr"]
                levers.apply({"act": "set", "name": "lr", "value": value * before})
            opt.step()
            sched.step()
            rates.append(opt.param_groups[0]["lr"])
        return rates[1] / rates[0]

    assert left_after(lambda o: StepLR(o, 100), 2) == pytest.approx(0.5)
    assert left_after(lambda o: OneCycleLR(o, 0.1, total_steps=1000), 2) == pytest.approx(0.5, rel=0.01)
    chain = lambda o: SequentialLR(o, [LinearLR(o, 0.5, 1.0, 1000), StepLR(o, 100)], [500])  # noqa: E731
    assert left_after(chain, 2) == pytest.approx(0.5, rel=0.01)
    model = torch.nn.Linear(2, 2)
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    sched = torch.optim.lr_scheduler.LambdaLR(opt, lambda t: min(t / 10, 1.0))
    with pytest.raises(BadOption, match="the schedule holds lr at 0 now"):
        strobe.record(tmp_path / "n", model=model, optimizer=opt, scheduler=_Plain(sched)).levers._set_group("lr", 0.2)


class _Plain:
    """A LambdaLR's state holds no function of ours; what it computes from does."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.base_lrs = inner, inner.base_lrs

    def state_dict(self) -> dict[str, Any]:
        return {"last_epoch": self.inner.last_epoch}


def test_commands_sent_at_once_are_all_obeyed_and_a_refused_rewind_stays_paused(tmp_path: Path, toy: Any) -> None:
    out = tmp_path / "r"

    def at_once(rec: strobe.Recorder) -> None:
        if rec.n == 5:
            send(out, "pause")
            send(out, "set", name="lr", value=0.5)
            send(out, "rewind", step=4)  # not stored
            send(out, "set", name="lr", value=0.25)
            send(out, "resume")
            send(out, "set", name="lr", value=0.125)

    toy().run(out, 10, hook=at_once, snapshots=[0, 10])
    answers = [(e["act"], e["outcome"], e["step"]) for e in open_run(out).events("command")]
    order = ["pause", "set", "rewind", "set", "resume", "set"]
    assert answers == [(act, "refused" if act == "rewind" else "applied", 6) for act in order]


def test_a_command_that_fails_in_any_way_is_answered(tmp_path: Path, toy: Any) -> None:
    def broken(value: float) -> None:
        raise RuntimeError("no such knob")

    def hook(rec: strobe.Recorder) -> None:
        if rec.n == 2:
            rec.control("knob", lambda: 0.0, broken)
            send(rec.path, "set", name="knob", value=1.0)
            send(rec.path, "set", name="lr", value=0.5)

    toy().run(tmp_path / "r", 6, hook=hook)
    answers = open_run(tmp_path / "r").events("command")
    assert [e["outcome"] for e in answers] == ["refused", "applied"]
    assert answers[0]["reason"] == "RuntimeError: no such knob"


def test_a_command_that_a_dead_writer_never_saw_is_refused_aloud_on_resume(tmp_path: Path, toy: Any) -> None:
    toy().run(tmp_path / "r", 6)
    send(tmp_path / "r", "set", name="lr", value=0.5)
    toy().run(tmp_path / "r", 9, resume=True)
    (answer,) = open_run(tmp_path / "r").events("command")
    assert answer["outcome"] == "refused"
    assert "send it again" in answer["reason"]


def test_status_is_what_the_newest_writer_last_did(tmp_path: Path, toy: Any) -> None:
    run_dir = tmp_path / "r"
    seen = []

    def hook(rec: strobe.Recorder) -> None:
        seen.append(open_run(run_dir).status)
        if rec.n == 8:
            raise RuntimeError

    toy().run(run_dir, 5)
    assert open_run(run_dir).status == "finished"
    with pytest.raises(RuntimeError):
        toy().run(run_dir, 10, hook=hook, resume=True)
    assert set(seen) == {"running"}
    rec = strobe.record(run_dir, model=toy().model, optimizer=toy().opt, resume=True).start()
    rec._answer(Command("pause"), "applied")  # killed while it was paused
    assert open_run(run_dir).status == "paused"
    rec._lock.release()
    assert open_run(run_dir).status == "interrupted"
    rec.close()
