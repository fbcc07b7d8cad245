"""Record a Lightning `Trainer`: `Trainer(..., callbacks=[StrobeCallback("runs/mine")])`. Needs `strobe[lightning]`."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

try:
    import lightning.pytorch as pl
except ModuleNotFoundError as e:
    if e.name is None or e.name.partition(".")[0] != "lightning":
        raise
    raise ModuleNotFoundError(
        "strobe.runs.lightning needs lightning, which is not installed here: pip install 'strobe[lightning]'",
        name="lightning",
    ) from e

import torch

from strobe.runs.hosted import Hosted
from strobe.runs.recorder import Recorder


class StrobeCallback(pl.Callback):
    """Records every optimizer step of a `Trainer`, and obeys `strobe pause | set | snapshot | stop` while it trains.

    Args:
        path: the run directory. `fit(ckpt_path=...)` goes on in it; a fit that begins at step 0 needs a new one.
        loss, probe: `loss(module, probe)` on held-out data, for watches and `run.at`.
        setup: called with the open recorder before the first step: `lambda rec: rec.watch(sharpness, every=50)`.
        options: `snapshots=`, `on_nan=` ("record", "pause", "stop") and the rest of `strobe.record`.

    Series: `loss` (what `training_step` returned, summed over accumulated batches as the Trainer scales them) and `lr`
    of every step; and what the module logs with `self.log`, under its names (`logged/loss` for a clash). A step is a
    batch after which an optimizer had stepped. The state is the module, all optimizers and schedulers, the scaler and
    the random generators; the place in the data is the Trainer's, so `rewind` is refused.

    Raises what `strobe.record` raises, before the first step; no failure of Strobe's after that stops the training.
    """

    def __init__(
        self, path: str | Path, *, loss: Callable[[Any, Any], Any] | None = None, probe: Any = None,
        setup: Callable[[Recorder], None] | None = None, **options: Any,
    ) -> None:  # fmt: skip
        options = {"loss": loss, "probe": probe, **options}
        self._hosted = Hosted(path, host="the Trainer", setup=setup, options=options)
        self._steps = self._stepped = 0  # recorded steps; the Trainer's own count of optimizer steps
        self._loss: float | None = None
        self._lr: float | None = None
        self._seen: dict[str, torch.Tensor] = {}
        self._per_step: dict[str, bool] = {}

    @property
    def recorder(self) -> Recorder | None:
        """The recorder, while the training runs."""
        return self._hosted.recorder

    # ---------------------------------------------------------------- what the Trainer calls

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint of the Trainer's keeps: how many steps were recorded."""
        return {"steps": self._steps, "stepped": self._stepped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self._steps, self._stepped = int(state_dict["steps"]), int(state_dict["stepped"])

    def on_train_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Open the run at the step where the Trainer begins."""
        if trainer.global_step != self._stepped:  # a checkpoint made without this callback, or a second fit
            self._steps = trainer.global_step
        self._stepped, self._loss, self._lr, self._seen = (
            trainer.global_step,
            None,
            None,
            dict(trainer.callback_metrics),
        )
        objects: dict[str, Any] = {"model": pl_module, "scaler": getattr(trainer.precision_plugin, "scaler", None)}
        objects |= _numbered("optimizer", trainer.optimizers)
        objects |= _numbered("scheduler", [c.scheduler for c in trainer.lr_scheduler_configs])
        self._hosted.open(self._steps, objects, processes=trainer.world_size)

    def on_before_optimizer_step(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", optimizer: torch.optim.Optimizer
    ) -> None:
        """The learning rate that this step is taken with."""
        if optimizer is trainer.optimizers[0]:
            self._lr = float(optimizer.param_groups[0]["lr"])

    def on_train_batch_end(
        self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Record the step, if this batch ended one, and obey."""
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
        if isinstance(loss, torch.Tensor) and loss.numel() == 1:
            self._loss = loss.item() + (self._loss or 0.0)
        if trainer.global_step == self._stepped:
            return
        self._stepped, self._steps = trainer.global_step, self._steps + 1
        scalars = {k: v for k, v in {"loss": self._loss, "lr": self._lr}.items() if v is not None}
        self._loss = None
        ends = trainer.is_last_batch and trainer.current_epoch + 1 == trainer.max_epochs
        last = trainer.should_stop or ends or trainer.global_step == trainer.max_steps
        if self._hosted.step(last=last, **scalars, **self._fresh(trainer, of_step=True)):
            trainer.should_stop = True
            trainer.fit_loop.epoch_loop.min_steps = None  # a stop is a stop, whatever the least was
            trainer.fit_loop.min_epochs = None

    def _fresh(self, trainer: "pl.Trainer", *, of_step: bool) -> dict[str, float]:
        """What `self.log` reported since the last look, per step or per epoch.

        The Trainer keeps old entries as the very same tensors, and makes those of an epoch anew at the next batch, so a
        name belongs to where it was first seen.
        """
        now = dict(trainer.callback_metrics)
        new = [k for k, v in now.items() if v is not self._seen.get(k) and f"{k}_step" not in now]
        self._seen = now
        for k in new:
            self._per_step.setdefault(k, of_step)
        clash = ("loss", "lr", "example_loss", "last")
        return {f"logged/{k}" if k in clash else k: float(now[k]) for k in new if self._per_step[k] == of_step}

    def on_validation_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Record what the validation reported."""
        if not trainer.sanity_checking:
            self._hosted.log(self._fresh(trainer, of_step=False))

    def on_train_epoch_start(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Record what the epoch before reported, also in its last hooks."""
        self._hosted.log(self._fresh(trainer, of_step=False))

    def on_train_end(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule") -> None:
        """Close the run."""
        self._hosted.log(self._fresh(trainer, of_step=False))
        self._hosted.close()

    def on_exception(self, trainer: "pl.Trainer", pl_module: "pl.LightningModule", exception: BaseException) -> None:
        """Close the run as interrupted."""
        self._hosted.close(exception)


def _numbered(name: str, objects: list[Any]) -> dict[str, Any]:
    """The first under its plain name, which live control knows; the others behind it."""
    return {name if i == 0 else f"{name}_{i + 1}": x for i, x in enumerate(objects)}
