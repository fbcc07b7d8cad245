"""A concept: directions in what a site carries, what of them is usual, and a score; saved as plain tensors."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from strobe.core.errors import BadOption, StateMismatch

TENSORS = ("directions", "mean", "weight")
KIND = "strobe.features.concept:Concept"


@dataclass(frozen=True, slots=True, eq=False)
class Concept:
    """Directions (p, d), orthonormal, the first the concept's own, towards "on"; made by `fit_concept`, or by hand.

    mean (d,) and norm: the mean of the activations it was fitted on, and the mean length of what is left; gap: how far the two groups
    lie apart along the first direction; spread: the deviation along it within groups. weight (d,) and bias: a linear score x·weight + bias,
    by default (x − mean)·directions[0]; machine: a kernel's rows, instead. threshold: the score above which it is said to be on.
    `facts`: how it was found.
    """

    site: str
    directions: Tensor
    mean: Tensor
    norm: float = 1.0
    gap: float = 1.0
    spread: float = 1.0
    weight: Tensor | None = None
    bias: float = 0.0
    machine: dict[str, Tensor] = field(default_factory=dict)
    bandwidth: float = 1.0
    threshold: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        d = self.directions
        if d.ndim != 2 or self.mean.shape != d.shape[1:] or not d.isfinite().all() or not self.mean.isfinite().all():
            raise BadOption(
                f"a concept has finite directions (p, d) and a mean (d,), got {tuple(d.shape)} and {tuple(self.mean.shape)}"
            )
        if (d @ d.T - torch.eye(len(d)).to(d)).abs().max() > 1e-3:
            raise BadOption(
                "the directions of a concept are orthonormal; torch.linalg.qr(directions.T).Q.T makes them so"
            )

    @property
    def direction(self) -> Tensor:
        """The concept's own, (d,), of length 1, towards on."""
        return self.directions[0]

    def encode(self, x: Tensor) -> Tensor:
        """Coordinates (..., p) of activations (..., d). Raises `StateMismatch` for another size."""
        if not x.ndim or x.shape[-1] != len(self.mean):
            raise StateMismatch(
                f"the concept at {self.site} has {len(self.mean)} features, these activations {tuple(x.shape)}"
            )
        return (x - self.mean.to(x)) @ self.directions.to(x).T

    def decode(self, z: Tensor) -> Tensor:
        """Activations (..., d) of coordinates (..., p), the mean elsewhere."""
        return z @ self.directions.to(z) + self.mean.to(z)

    def score(self, x: Tensor) -> Tensor:
        """How much it is on, (...), of activations (..., d); above `threshold` it is said to be on."""
        along = self.encode(x)[..., 0]
        if self.machine:
            return self._kernel(x)
        return along if self.weight is None else x @ self.weight.to(x) + self.bias

    def _kernel(self, x: Tensor) -> Tensor:
        new, m = (x - self.mean.to(x)).reshape(-1, x.shape[-1]), {k: v.to(x) for k, v in self.machine.items()}
        flat = new @ m["metric"].T if "metric" in m else new
        got = torch.exp(-torch.cdist(flat, m["rows"]) / self.bandwidth) @ m["alpha"]
        return got.reshape(x.shape[:-1])

    def save(self, path: str | Path) -> Path:
        """Tensors and facts in one safetensors file. Raises `BadOption` for facts that are not JSON."""
        path = Path(path)
        tensors = {k: v for k in TENSORS if (v := getattr(self, k)) is not None}
        tensors |= {f"machine.{k}": v for k, v in self.machine.items()}
        plain = {
            k: getattr(self, k) for k in ("site", "norm", "gap", "spread", "bias", "bandwidth", "threshold", "facts")
        }
        try:
            told = json.dumps(plain)
        except (TypeError, ValueError) as e:
            raise BadOption(f"the facts of a concept are plain numbers, texts, lists and dicts: {e}") from e
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.part")
        save_file(
            {k: v.detach().contiguous().cpu() for k, v in tensors.items()}, beside, {"kind": KIND, "concept": told}
        )
        beside.replace(path)
        return path

    @classmethod
    def load(cls, path: str | Path) -> "Concept":
        """What `save` wrote. Raises `BadOption` for another file."""
        try:
            with safe_open(path, "pt") as f:
                told = f.metadata() or {}
                tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as e:
            raise BadOption(f"{path} cannot be read as a concept: {e}") from e
        if told.get("kind") != KIND:
            raise BadOption(f"{path} is no concept: it says it is {told.get('kind')!r}")
        machine = {k.removeprefix("machine."): v for k, v in tensors.items() if k.startswith("machine.")}
        return cls(**json.loads(told["concept"]), **{k: v for k, v in tensors.items() if k in TENSORS}, machine=machine)
