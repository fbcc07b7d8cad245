"""StrobeCallback in a real Trainer, on a GPT-2 of two small layers made here."""

import copy
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

import strobe
from strobe.core.errors import BadOption, CannotReplay, RunExists, StateMismatch
from strobe.core.reading import Reading
from strobe.runs.control import send
from strobe.runs.directory import StrobeWarning, live
from strobe.runs.replay import replay
from strobe.runs.run import open_run

os.environ.setdefault("HF_HUB_OFFLINE", "1")
transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments  # noqa: E402

from strobe.runs.huggingface import StrobeCallback  # noqa: E402

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*pin_memory.*:UserWarning",  # torch's loader, without an accelerator
)


class Rows(torch.utils.data.Dataset):  # type: ignore[type-arg]
    """Fixed random token rows."""

    def __init__(self, n: int = 64) -> None:
        self.ids = torch.randint(0, 40, (n, 12), generator=torch.Generator().manual_seed(5))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.ids[i], "labels": self.ids[i]}


class At(TrainerCallback):  # type: ignore[misc]
    """Do something at the beginning of a step."""

    def __init__(self, step: int, act: Callable[[], Any]) -> None:
        self.step, self.act = step, act

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step + 1 == self.step:
            self.act()


def trainer(
    out: Path, *callbacks: TrainerCallback, cls: type[Trainer] = Trainer, seed: int = 0, **given: Any
) -> Trainer:
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=40, n_positions=12, n_embd=16, n_layer=2, n_head=2, bos_token_id=0, eos_token_id=0)
    options = {
        "max_steps": 8, "per_device_train_batch_size": 4, "logging_steps": 1, "learning_rate": 1e-2, "save_strategy": "no",
        "report_to": [], "disable_tqdm": True, "use_cpu": True, "seed": 3, "lr_scheduler_type": "constant", **given,
    }  # fmt: skip
    args = TrainingArguments(output_dir=str(out / "hf"), **options)
    return cls(
        model=GPT2LMHeadModel(config), args=args, train_dataset=Rows(), eval_dataset=Rows(8), callbacks=list(callbacks)
    )


def weights(t: Trainer) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in t.model.state_dict().items()}


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def reported(t: Trainer, name: str) -> dict[int, float]:
    return {e["step"]: e[name] for e in t.state.log_history if name in e}


def recorded(path: Path, name: str) -> dict[int, float]:
    s = open_run(path).series(name)
    return dict(zip(s.steps.tolist(), s.values.tolist(), strict=True))


def norm(snap: strobe.Snapshot) -> Reading:
    return Reading(float(sum(p.double().square().sum() for p in snap.params().values())), 1e-12)


def probed(snap: strobe.Snapshot) -> Reading:
    with snap.quiet() as model, torch.no_grad():
        return Reading(float(snap.loss(model, snap.data)), 1e-6)


def watches(rec: strobe.Recorder) -> None:
    rec.watch(norm, every=1)
    rec.watch(probed, every=3)


def test_series_are_what_the_trainer_reports_and_watching_changes_nothing(tmp_path: Path) -> None:
    plain = trainer(tmp_path, lr_scheduler_type="linear", warmup_steps=2, eval_strategy="steps", eval_steps=4)
    plain.train()
    ids = Rows(6).ids
    callback = StrobeCallback(
        tmp_path / "r", snapshots=3, probe={"input_ids": ids, "labels": ids},
        setup=watches,
    )  # fmt: skip
    t = trainer(tmp_path, callback, lr_scheduler_type="linear", warmup_steps=2, eval_strategy="steps", eval_steps=4)
    t.train()
    assert equal(weights(plain), weights(t))
    run = open_run(tmp_path / "r")
    assert (run.status, run.last, run.stored()) == ("finished", 8, [0, 3, 6, 8])
    for logged, ours in (("loss", "train/loss"), ("grad_norm", "train/grad_norm"), ("eval_loss", "eval/loss")):
        assert recorded(run.path, ours) == reported(t, logged)
    assert recorded(run.path, "lr") == reported(t, "learning_rate")
    assert recorded(run.path, "loss") == pytest.approx(reported(t, "loss"), abs=1e-6)
    assert len(run.series("norm")) == 9
    assert run.series("probed").steps.tolist() == [0, 3, 6, 8]
    assert sorted(run.facts["objects"]) == ["model", "optimizer", "scheduler"]
    assert run.facts["objects"]["optimizer"].startswith("torch.optim")


def test_a_snapshot_loads_into_the_model_bit_equal(tmp_path: Path) -> None:
    kept: dict[int, dict[str, torch.Tensor]] = {}
    callback = StrobeCallback(tmp_path / "r", snapshots=[2, 5])
    t = trainer(tmp_path, callback)
    for n in (3, 6):  # at the beginning of step n the state is that of step n - 1
        t.add_callback(At(n, lambda n=n: kept.update({n - 1: weights(t)})))
    t.train()
    kept[8] = weights(t)
    fresh = trainer(tmp_path, seed=9).model
    run = open_run(tmp_path / "r")
    for step, then in kept.items():
        run.at(step, model=fresh)
        assert equal({k: v.clone() for k, v in fresh.state_dict().items()}, then)
    assert float(run.state(8)["objects"]["optimizer"]["state"][0]["step"]) == 8


def test_the_loss_of_every_step_also_where_the_trainer_logs_a_mean(tmp_path: Path) -> None:
    given: dict[str, Any] = {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 2, "max_steps": 6}
    each = trainer(tmp_path, logging_steps=1, **given)
    each.train()
    t = trainer(tmp_path, StrobeCallback(tmp_path / "r"), logging_steps=3, **given)
    t.train()
    assert recorded(tmp_path / "r", "loss") == pytest.approx(reported(each, "loss"), abs=1e-6)
    assert recorded(tmp_path / "r", "train/loss") == reported(t, "loss")


def test_set_snapshot_and_stop_are_obeyed_and_rewind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r"
    t = trainer(
        tmp_path, StrobeCallback(path, snapshots=None), At(3, lambda: send(path, "set", name="lr", value=0.004)),
        At(4, lambda: (send(path, "rewind", step=0), send(path, "snapshot"))), At(6, lambda: send(path, "stop")),
    )  # fmt: skip
    t.train()
    assert t.state.global_step == 6
    assert list(recorded(path, "lr").values()) == [0.01, 0.01, 0.01, 0.004, 0.004, 0.004]
    assert reported(t, "learning_rate")[6] == 0.004  # the Trainer asks the scheduler: a step late
    run = open_run(path)
    assert (run.status, run.stored()) == ("finished", [0, 4, 6])
    assert [(e["act"], e["outcome"], e["step"]) for e in run.events("command")] == [
        ("set", "applied", 3), ("rewind", "refused", 4), ("snapshot", "applied", 4), ("stop", "applied", 6),
    ]  # fmt: skip
    assert "draws its own batches" in run.events("command")[1]["reason"]
    assert not live(path)


def test_a_learning_rate_set_live_stays_under_the_schedule(tmp_path: Path) -> None:
    path = tmp_path / "r"
    t = trainer(tmp_path, StrobeCallback(path), At(4, lambda: send(path, "set", name="lr", value=0.5e-2 / 2)),
                lr_scheduler_type="linear")  # fmt: skip
    t.train()  # linear from 0.01 to 0 over 8 steps: 0.005 is due at the fifth, and gets halved
    assert recorded(path, "lr")[5] == pytest.approx(0.0025)
    assert recorded(path, "lr")[8] == pytest.approx(0.01 / 8 / 2)


def test_pause_waits_for_resume(tmp_path: Path) -> None:
    path = tmp_path / "r"

    def later() -> None:
        while open_run(path).status != "paused":
            pass
        seen.append(open_run(path).last)
        send(path, "resume")

    seen: list[int] = []
    thread = threading.Thread(target=later)
    t = trainer(tmp_path, StrobeCallback(path), At(2, lambda: (send(path, "pause"), thread.start())), max_steps=3)
    t.train()
    thread.join(timeout=10)
    assert seen == [2]
    assert [e["act"] for e in open_run(path).events("command")] == ["pause", "resume"]


def test_a_nan_that_the_trainer_hides_stops_the_run(tmp_path: Path) -> None:
    path = tmp_path / "r"
    t = trainer(tmp_path, StrobeCallback(path, on_nan="stop", snapshots=2))
    t.add_callback(At(4, lambda: t.model.transformer.wte.weight.data.fill_(float("nan"))))
    with pytest.warns(StrobeWarning, match="the loss is nan at step 4; the last good snapshot is step 2"):
        t.train()
    assert t.state.global_step == 4
    assert open_run(path).events("nonfinite")[0]["step"] == 4


def test_a_resumed_trainer_goes_on_in_the_run(tmp_path: Path) -> None:
    given: dict[str, Any] = {"save_strategy": "steps", "save_steps": 4, "lr_scheduler_type": "linear"}
    whole = trainer(tmp_path / "w", StrobeCallback(tmp_path / "whole", snapshots=2), **given)
    whole.train()
    path = tmp_path / "r"
    stop = At(7, lambda: send(path, "stop"))
    trainer(tmp_path, StrobeCallback(path, snapshots=2), stop, **given).train()
    assert open_run(path).stored() == [0, 2, 4, 6, 7]
    t = trainer(tmp_path, StrobeCallback(path, snapshots=2), seed=1, **given)
    t.train(resume_from_checkpoint=str(tmp_path / "hf/checkpoint-4"))
    run = open_run(path)
    assert run.stored() == [0, 2, 4, 6, 8]
    assert sorted(p.name.split("-")[1] for p in (path / "aside").iterdir()) == ["6", "7"]
    assert equal(weights(t), weights(whole))
    assert recorded(path, "loss") == recorded(tmp_path / "whole", "loss")
    other = trainer(tmp_path, StrobeCallback(tmp_path / "later"), **given)
    other.train(resume_from_checkpoint=str(tmp_path / "hf/checkpoint-4"))
    assert (open_run(tmp_path / "later").start, open_run(tmp_path / "later").stored()[0]) == (4, 4)
    foreign = copy.deepcopy(run.path)
    trainer(tmp_path / "x", StrobeCallback(tmp_path / "foreign", snapshots=2), seed=7, **given).train()
    with pytest.raises(StateMismatch, match="another training"):
        trainer(tmp_path, StrobeCallback(tmp_path / "foreign"), **given).train(
            resume_from_checkpoint=str(tmp_path / "hf/checkpoint-4")
        )
    with pytest.raises(RunExists):
        trainer(tmp_path, StrobeCallback(foreign), **given).train()
    trainer(tmp_path / "y", StrobeCallback(tmp_path / "short"), **{**given, "max_steps": 2}).train()
    with pytest.raises(BadOption, match=r"resumes at step 4, but .*short holds steps 0 to 2"):
        trainer(tmp_path, StrobeCallback(tmp_path / "short"), **given).train(
            resume_from_checkpoint=str(tmp_path / "hf/checkpoint-4")
        )


AGAIN = """
import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainingArguments
from strobe.runs.huggingface import StrobeCallback

def train(*, out):
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=40, n_positions=8, n_embd=8, n_layer=1, n_head=2, bos_token_id=0, eos_token_id=0)
    rows = [{"input_ids": x, "labels": x} for x in torch.randint(0, 40, (32, 8), generator=torch.Generator().manual_seed(5))]
    args = TrainingArguments(output_dir=out + "-hf", max_steps=6, save_strategy="no", report_to=[], use_cpu=True, logging_steps=2,
                             disable_tqdm=True, learning_rate=1e-2, per_device_train_batch_size=4)
    record = StrobeCallback(out, snapshots=3, probe={k: v[None] for k, v in rows[0].items()}, entry=(train, {"out": out}))
    Trainer(model=GPT2LMHeadModel(config), args=args, train_dataset=rows, callbacks=[record]).train()
"""


def test_a_trainer_is_replayed_bit_equal_and_forked_from_step_0(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train_again.py").write_text(AGAIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    import_module("train_again").train(out=str(tmp_path / "r"))
    run = open_run(tmp_path / "r")
    found = replay(run, 5, verify=True)
    assert found.ok, str(found)
    assert found.checked["tensors"] > 50
    model = run.at(4).model
    assert not model._forward_hooks
    branch = run.fork(0, ["lr=0.001"], until=4)
    assert branch.status == "finished"
    assert branch.series("lr").values.tolist() == pytest.approx([0.001 * (1 - i / 6) for i in range(4)])
    with pytest.raises(CannotReplay, match="only start at step 0"):
        run.fork(3, ["lr=0.001"])


def test_a_training_that_raises_closes_the_run_at_the_end_of_the_block(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("the data are gone")

    with pytest.raises(RuntimeError, match="data are gone"), StrobeCallback(tmp_path / "r") as record:
        trainer(tmp_path, record, At(3, fail)).train()
    run = open_run(tmp_path / "r")
    assert (run.status, run.last, live(run.path)) == ("interrupted", 2, False)
    assert "the data are gone" in run.events("interrupted")[0]["error"]
    assert record.recorder is None


def test_strobe_s_own_failure_does_not_stop_the_training(tmp_path: Path) -> None:
    callback = StrobeCallback(tmp_path / "r", snapshots=1)

    def break_it() -> None:
        def broken(*_: Any) -> None:
            raise OSError(28, "No space left on device", "steps")

        callback.recorder._store.save = broken  # type: ignore[union-attr,method-assign]

    t = trainer(tmp_path, callback, At(3, break_it))
    with pytest.warns(StrobeWarning, match="snapshot failed.*No space left.*training goes on"):
        t.train()
    assert t.state.global_step == 8
    assert len(recorded(tmp_path / "r", "loss")) == 8


def test_the_best_model_loaded_at_the_end_is_not_the_last_step(tmp_path: Path) -> None:
    given: dict[str, Any] = {
        "eval_strategy": "steps", "eval_steps": 2, "save_strategy": "steps", "save_steps": 2, "load_best_model_at_end": True,
        "metric_for_best_model": "eval_loss", "greater_is_better": True,
    }  # fmt: skip
    kept: list[dict[str, torch.Tensor]] = []
    t = trainer(tmp_path, StrobeCallback(tmp_path / "r"), **given)

    class Keep(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            kept.append(weights(t))

    t.add_callback(Keep())
    t.train()
    assert not equal(weights(t), kept[-1])  # the Trainer put its "best" back
    assert equal(dict(open_run(tmp_path / "r").state(8)["objects"]["model"]["state"]), kept[-1])


def test_another_loss_than_the_model_s_is_said(tmp_path: Path) -> None:
    class Own(Trainer):  # type: ignore[misc,valid-type]
        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            return super().compute_loss(model, inputs, *args, **kwargs) * 2

    t = trainer(tmp_path, StrobeCallback(tmp_path / "r"), cls=Own)
    with pytest.warns(StrobeWarning, match="a compute_loss of one's own"):
        t.train()
    assert recorded(tmp_path / "r", "train/loss") == reported(t, "loss")


def test_refusals_come_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="draws its own batches"):
        StrobeCallback(tmp_path / "r", on_nan="rewind")
    with pytest.raises(BadOption, match="leave resume= out"):
        StrobeCallback(tmp_path / "r", resume=True)
    with pytest.raises(BadOption, match="most_snapshots"):
        trainer(tmp_path, StrobeCallback(tmp_path / "r", most_snapshots=1)).train()
    assert not (tmp_path / "r").exists()


def test_without_the_library_the_error_names_the_extra() -> None:
    code = "import sys; sys.modules['transformers'] = None; import strobe.runs.huggingface"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'strobe[huggingface]'" in done.stderr.splitlines()[-1]
