"""StrobeCallback in a real Lightning Trainer, on a module of two linear layers."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import strobe
from strobe.core.errors import BadOption, RunExists
from strobe.core.reading import Reading
from strobe.runs.control import send
from strobe.runs.directory import StrobeWarning, live
from strobe.runs.run import open_run

pl = pytest.importorskip("lightning.pytorch")
from strobe.runs.lightning import StrobeCallback  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not have many workers.*"),
    pytest.mark.filterwarnings("ignore:.*isinstance\\(treespec, LeafSpec\\).*"),
    pytest.mark.filterwarnings("ignore:.*exists and is not empty.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`.*"),
]


class Net(pl.LightningModule):  # type: ignore[misc,name-defined]
    """Dropout, so that a random number drawn by a watch would show."""

    def __init__(self, seed: int = 0, linear: bool = False) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))
        self.linear, self.losses = linear, []  # type: ignore[var-annotated]

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = mse(self, batch)
        self.losses.append(loss.item())
        self.log("train_loss", loss, on_step=True, on_epoch=True, prog_bar=False)
        return loss

    def validation_step(self, batch: torch.Tensor, batch_idx: int) -> None:
        self.log("val_loss", mse(self, batch))

    def configure_optimizers(self) -> Any:
        opt = torch.optim.AdamW(self.parameters(), lr=1e-2)
        if not self.linear:
            return opt
        schedule = torch.optim.lr_scheduler.LinearLR(opt, 1.0, 0.2, total_iters=8)
        return {"optimizer": opt, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Twice(Net):
    """Two optimizers, stepped by hand: one batch is two steps of the Trainer's."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch: torch.Tensor, batch_idx: int) -> Any:  # type: ignore[override]
        loss = mse(self, batch)
        for opt in self.optimizers():
            opt.zero_grad()
        self.manual_backward(loss)
        for opt in self.optimizers():
            opt.step()
        return {"loss": loss.detach()}

    def configure_optimizers(self) -> Any:
        return [torch.optim.SGD(self.net[0].parameters(), lr=0.1), torch.optim.SGD(self.net[3].parameters(), lr=0.2)]


class At(pl.Callback):  # type: ignore[misc,name-defined]
    """Do something at the beginning of a batch (the first is 1)."""

    def __init__(self, batch: int, act: Callable[[], Any]) -> None:
        self.batch, self.act, self.n = batch, act, 0

    def on_train_batch_start(self, *_: Any) -> None:
        self.n += 1
        if self.n == self.batch:
            self.act()


def mse(model: Any, x: torch.Tensor) -> torch.Tensor:
    return (model.net(x).squeeze(-1) - x.sum(1)).square().mean()


def norm(snap: strobe.Snapshot) -> Reading:
    return Reading(float(sum(p.double().square().sum() for p in snap.params().values())), 1e-12)


def probed(snap: strobe.Snapshot) -> Reading:
    with snap.quiet() as model, torch.no_grad():
        return Reading(float(snap.loss(model, snap.data)), 1e-6)


def watches(rec: strobe.Recorder) -> None:
    rec.watch(norm, every=1)
    rec.watch(probed, every=3)


def data(n: int, seed: int = 1) -> torch.utils.data.DataLoader:  # type: ignore[type-arg]
    x = torch.randn(n * 8, 4, generator=torch.Generator().manual_seed(seed))
    return torch.utils.data.DataLoader(x, batch_size=8)  # type: ignore[arg-type]


def fit(
    out: Path, net: Net, *callbacks: Any, batches: int = 4, ckpt: Path | None = None, val: bool = True, **given: Any
) -> Any:
    options = {"max_epochs": 2, "logger": False, "enable_checkpointing": False, **given}
    trainer = pl.Trainer(
        accelerator="cpu", default_root_dir=out, enable_progress_bar=False, enable_model_summary=False,
        callbacks=list(callbacks), num_sanity_val_steps=1, log_every_n_steps=1, **options,
    )  # fmt: skip
    torch.manual_seed(3)
    trainer.fit(net, data(batches), data(2, seed=2) if val else None, ckpt_path=ckpt)
    return trainer


def equal(a: Any, b: Any) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def recorded(path: Path, name: str) -> dict[int, float]:
    s = open_run(path).series(name)
    return dict(zip(s.steps.tolist(), s.values.tolist(), strict=True))


def test_series_are_what_the_module_logs_and_watching_changes_nothing(tmp_path: Path) -> None:
    plain, net = Net(linear=True), Net(linear=True)
    fit(tmp_path, plain)
    path = tmp_path / "r"
    probe = torch.randn(32, 4, generator=torch.Generator().manual_seed(8))
    trainer = fit(tmp_path, net, StrobeCallback(path, snapshots=3, loss=mse, probe=probe, setup=watches))
    assert equal(plain.state_dict(), net.state_dict())
    run = open_run(path)
    assert (run.status, run.last, run.stored()) == ("finished", 8, [0, 3, 6, 8])
    assert list(recorded(path, "loss").values()) == net.losses
    assert list(recorded(path, "train_loss_step").values()) == net.losses
    assert list(recorded(path, "train_loss_epoch")) == [4, 8]
    assert list(recorded(path, "val_loss")) == [4, 8]
    assert recorded(path, "val_loss")[8] == float(trainer.callback_metrics["val_loss"])
    assert recorded(path, "train_loss_epoch")[8] == float(trainer.callback_metrics["train_loss_epoch"])
    assert list(recorded(path, "lr").values()) == pytest.approx([0.01 * (1 - 0.1 * i) for i in range(8)])
    assert len(run.series("norm")) == 9
    assert run.series("probed").steps.tolist() == [0, 3, 6, 8]
    assert sorted(run.facts["objects"]) == ["model", "optimizer", "scheduler"]


def test_a_snapshot_loads_into_the_module_bit_equal(tmp_path: Path) -> None:
    net = Net()
    kept: list[Any] = []
    keep = At(4, lambda: kept.append({k: v.clone() for k, v in net.state_dict().items()}))
    fit(tmp_path, net, StrobeCallback(tmp_path / "r", snapshots=[3]), keep)
    fresh = Net(seed=9)
    open_run(tmp_path / "r").at(3, model=fresh)
    assert equal(fresh.state_dict(), kept[0])
    open_run(tmp_path / "r").at(8, model=fresh)
    assert equal(fresh.state_dict(), net.state_dict())


def test_accumulated_batches_are_one_step(tmp_path: Path) -> None:
    net = Net()
    fit(tmp_path, net, StrobeCallback(tmp_path / "r"), accumulate_grad_batches=2, batches=4)
    means = [(a + b) / 2 for a, b in zip(net.losses[::2], net.losses[1::2], strict=True)]
    assert list(recorded(tmp_path / "r", "loss").values()) == pytest.approx(means)


def test_two_optimizers_stepped_by_hand_are_one_step(tmp_path: Path) -> None:
    trainer = fit(tmp_path, Twice(), StrobeCallback(tmp_path / "r"))
    run = open_run(tmp_path / "r")
    assert (trainer.global_step, run.last) == (16, 8)
    assert sorted(run.facts["objects"]) == ["model", "optimizer", "optimizer_2"]


def test_set_snapshot_and_stop_are_obeyed_and_rewind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "r"
    trainer = fit(
        tmp_path, Net(), StrobeCallback(path, snapshots=None), At(3, lambda: send(path, "set", name="lr", value=0.004)),
        At(4, lambda: (send(path, "rewind", step=0), send(path, "snapshot"))), At(6, lambda: send(path, "stop")),
        min_steps=7,
    )  # fmt: skip
    assert trainer.global_step == 6
    assert list(recorded(path, "lr").values()) == [0.01, 0.01, 0.01, 0.004, 0.004, 0.004]
    run = open_run(path)
    assert (run.status, run.stored()) == ("finished", [0, 4, 6])
    assert [(e["act"], e["outcome"], e["step"]) for e in run.events("command")] == [
        ("set", "applied", 3), ("rewind", "refused", 4), ("snapshot", "applied", 4), ("stop", "applied", 6),
    ]  # fmt: skip
    assert "draws its own batches" in run.events("command")[1]["reason"]
    assert not live(path)


def test_pause_waits_for_resume(tmp_path: Path) -> None:
    path, seen = tmp_path / "r", []

    def later() -> None:
        while open_run(path).status != "paused":
            pass
        seen.append(open_run(path).last)
        send(path, "resume")

    thread = threading.Thread(target=later)
    fit(tmp_path, Net(), StrobeCallback(path), At(2, lambda: (send(path, "pause"), thread.start())))
    thread.join(timeout=10)
    assert seen == [2]


def test_a_nan_stops_the_run(tmp_path: Path) -> None:
    net = Net()
    spoil = At(4, lambda: net.net[0].weight.data.fill_(float("nan")))
    with pytest.warns(StrobeWarning, match="the loss is nan at step 4; the last good snapshot is step 2"):
        trainer = fit(tmp_path, net, StrobeCallback(tmp_path / "r", on_nan="stop", snapshots=2), spoil)
    assert trainer.global_step == 4


def test_a_resumed_trainer_goes_on_in_the_run(tmp_path: Path) -> None:
    whole, path = tmp_path / "whole", tmp_path / "r"
    fit(tmp_path / "w", one := Net(linear=True), StrobeCallback(whole, snapshots=2), val=False)
    save = pl.callbacks.ModelCheckpoint(
        dirpath=tmp_path / "ckpt", every_n_train_steps=4, save_top_k=-1, filename="{step}"
    )
    stop = At(7, lambda: send(path, "stop"))
    fit(tmp_path, Net(linear=True), StrobeCallback(path, snapshots=2), stop, save, enable_checkpointing=True, val=False)
    assert open_run(path).stored() == [0, 2, 4, 6, 7]
    ckpt = tmp_path / "ckpt/step=4.ckpt"
    fit(tmp_path, two := Net(seed=1, linear=True), StrobeCallback(path, snapshots=2), ckpt=ckpt, val=False)
    run = open_run(path)
    assert (run.stored(), run.status) == ([0, 2, 4, 6, 8], "finished")
    assert sorted(p.name.split("-")[1] for p in (path / "aside").iterdir()) == ["6", "7"]
    assert list(recorded(path, "loss")) == list(range(1, 9))
    assert list(recorded(path, "lr").values()) == list(recorded(whole, "lr").values())
    assert one.state_dict().keys() == two.state_dict().keys()
    with pytest.raises(RunExists):
        fit(tmp_path, Net(), StrobeCallback(path))
    fit(tmp_path, Net(linear=True), StrobeCallback(tmp_path / "later"), ckpt=ckpt, val=False)
    assert (open_run(tmp_path / "later").start, open_run(tmp_path / "later").stored()[0]) == (4, 4)
    fit(tmp_path, Net(), StrobeCallback(tmp_path / "short"), max_steps=2)
    with pytest.raises(BadOption, match=r"resumes at step 4, but .*short holds steps 0 to 2"):
        fit(tmp_path, Net(linear=True), StrobeCallback(tmp_path / "short"), ckpt=ckpt, val=False)


def test_a_training_that_raises_closes_the_run(tmp_path: Path) -> None:
    def fail() -> None:
        raise RuntimeError("the data are gone")

    with pytest.raises(RuntimeError, match="data are gone"):
        fit(tmp_path, Net(), StrobeCallback(tmp_path / "r"), At(3, fail))
    run = open_run(tmp_path / "r")
    assert (run.status, run.last, live(run.path)) == ("interrupted", 2, False)
    assert "the data are gone" in run.events("interrupted")[0]["error"]


def test_strobe_s_own_failure_does_not_stop_the_training(tmp_path: Path) -> None:
    callback = StrobeCallback(tmp_path / "r", snapshots=1)

    def break_it() -> None:
        def broken(*_: Any) -> None:
            raise OSError(28, "No space left on device", "steps")

        callback.recorder._store.save = broken  # type: ignore[union-attr,method-assign]

    with pytest.warns(StrobeWarning, match="snapshot failed.*No space left.*training goes on"):
        trainer = fit(tmp_path, Net(), callback, At(3, break_it))
    assert trainer.global_step == 8
    assert len(recorded(tmp_path / "r", "loss")) == 8


def test_refusals_come_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="draws its own batches"):
        StrobeCallback(tmp_path / "r", on_nan="rewind")
    with pytest.raises(BadOption, match="most_snapshots"):
        fit(tmp_path, Net(), StrobeCallback(tmp_path / "r", most_snapshots=1))
    assert not (tmp_path / "r").exists()


def test_without_the_library_the_error_names_the_extra() -> None:
    code = "import sys; sys.modules['lightning'] = None; import strobe.runs.lightning"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'strobe[lightning]'" in done.stderr.splitlines()[-1]
