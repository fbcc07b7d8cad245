"""Record a Hugging Face `Trainer`: `Trainer(..., callbacks=[StrobeCallback("runs/mine")])`; `strobe[huggingface]`."""

import atexit
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

try:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
except ModuleNotFoundError as e:
    if e.name != "transformers":
        raise
    raise ModuleNotFoundError(
        "strobe.runs.huggingface needs transformers, which is not installed here: pip install 'strobe[huggingface]'",
        name="transformers",
    ) from e

import torch

from strobe.runs.hosted import Hosted
from strobe.runs.recorder import Recorder


def model_loss(model: Any, batch: Mapping[str, Any]) -> torch.Tensor:
    """The loss a Hugging Face model returns on a batch with labels: what `probe=` is measured with by default."""
    return model(**{k: v.to(model.device) if hasattr(v, "to") else v for k, v in batch.items()})["loss"]


class StrobeCallback(TrainerCallback):
    """Records every optimizer step of a `Trainer`, and obeys `strobe pause | set | snapshot | stop` while it trains.

    Args:
        path: the run directory. A Trainer that resumes from a checkpoint goes on in it; one that begins at step 0 needs
            a new one.
        loss, probe: `loss(model, probe)` on a held-out batch, for watches; by default the model's own loss.
        setup: called with the open recorder before the first step: `lambda rec: rec.watch(sharpness, every=50)`.
        options: `snapshots=`, `on_nan=` ("record", "pause", "stop") and the rest of `strobe.record`.

    Series: `loss` and `lr` of every step (the model's own loss, also where it is NaN, which the Trainer's log
    hides in an average), and what the Trainer logs as `train/...` and `eval/...`. A model that is compiled, spread over several
    devices, or returns no loss has only the latter. The state is the model, optimizer, scheduler, scaler and the
    random generators; the place in the data is the Trainer's, so `rewind` is refused.

    A training that raises does not tell its callbacks: use `with StrobeCallback(...) as record:` around it, or the
    run is closed when the process ends. Raises what `strobe.record` raises, before the first step; no failure of
    Strobe's after that stops the training.
    """

    def __init__(
        self, path: str | Path, *, loss: Callable[[Any, Any], Any] | None = None, probe: Any = None,
        setup: Callable[[Recorder], None] | None = None, **options: Any,
    ) -> None:  # fmt: skip
        loss = loss or (model_loss if probe is not None else None)
        self._hosted = Hosted(path, host="the Trainer", setup=setup, options={"loss": loss, "probe": probe, **options})
        self._losses: list[tuple[torch.Tensor, bool]] = []
        self._lr: float | None = None
        self._since: list[float] = []
        self._hook: Any = None

    @property
    def recorder(self) -> Recorder | None:
        """The recorder, while the training runs."""
        return self._hosted.recorder

    def __enter__(self) -> "StrobeCallback":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.close(error)

    def close(self, error: BaseException | None = None) -> None:
        """End the recording (done when the training ends well)."""
        if self._hook is not None:
            self._hook.remove()
            self._hook = None
        atexit.unregister(self._at_exit)
        self._hosted.close(error)

    def _at_exit(self) -> None:
        self.close(getattr(sys, "last_value", None) or RuntimeError("the training did not end"))

    # ---------------------------------------------------------------- what the Trainer calls

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Open the run at the step where the Trainer begins."""
        model, optimizer, scheduler = kwargs["model"], kwargs["optimizer"], kwargs["lr_scheduler"]
        objects = {
            "model": model,
            "scaler": getattr(optimizer, "scaler", None),
            "optimizer": getattr(optimizer, "optimizer", optimizer),  # out of Accelerate's wrappers: plain state_dicts
            "scheduler": getattr(scheduler, "scheduler", scheduler),
        }
        self._hosted.open(state.global_step, objects, processes=args.world_size)
        self._losses, self._since = [], []
        if not args.torch_compile and args.n_gpu <= 1:
            self._hook = model.register_forward_hook(self._hear, with_kwargs=True)
        atexit.register(self._at_exit)

    def _hear(self, model: Any, args: Any, kwargs: Mapping[str, Any], output: Any) -> None:
        """Keep the loss of one micro-batch; whether the model divided it by the items of the whole step."""
        if model.training and torch.is_grad_enabled():
            loss = output.get("loss") if isinstance(output, Mapping) else None
            if isinstance(loss, torch.Tensor) and loss.ndim == 0:
                self._losses.append((loss.detach(), kwargs.get("num_items_in_batch") is not None))

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A step's first micro-batch comes."""
        self._losses = []

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The learning rate that this step was taken with."""
        self._lr = float(kwargs["optimizer"].param_groups[0]["lr"])

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Record the step, and obey."""
        heard, self._losses = self._losses, []
        scalars: dict[str, float] = {} if self._lr is None else {"lr": self._lr}
        if heard:
            scalars["loss"] = sum(float(x) for x, _ in heard) / (1 if heard[0][1] else len(heard))
            self._since.append(scalars["loss"])
        last = control.should_training_stop or state.global_step >= state.max_steps
        try:
            if self._hosted.step(last=last, **scalars):
                control.should_training_stop = True
        except BaseException as e:  # a fork that arrived, Ctrl-C in a pause: no callback hears of it again
            self.close(e)
            raise

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        """Record what the Trainer reports, under the names that other trackers give it."""
        logs = logs or {}
        self._compare(logs)
        self._hosted.log({_name(k): v for k, v in logs.items() if k != "epoch"})

    def _compare(self, logs: Mapping[str, Any]) -> None:
        """Say once where the Trainer trains on another loss than the model's own."""
        if "loss" not in logs or not (since := self._since):
            return
        self._since = []
        mean, logged, rec = sum(since) / len(since), float(logs["loss"]), self.recorder
        if rec is not None and abs(mean - logged) > 1e-3 * (1 + abs(logged)):  # the log may be rounded to four digits
            rec._say(
                "loss", f"step {rec.n}: the Trainer logs a loss of {logged:.6g}, the model's own is {mean:.6g} (a "
                "compute_loss of one's own?): the series loss is the model's, train/loss the Trainer's"
            )  # fmt: skip

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Close the run."""
        self.close()


def _name(key: str) -> str:
    for part in ("eval_", "test_"):
        if key.startswith(part):
            return f"{part[:-1]}/{key.removeprefix(part)}"
    return f"train/{key}"
