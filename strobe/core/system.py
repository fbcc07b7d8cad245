"""A world to train in: data, model and recipe, as plain functions."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.optim import Optimizer


@dataclass(frozen=True, slots=True)
class System:
    """`build(seed)` a model, get `batch(seed, step)`, compute `loss(model, batch)`.

    `batch` is pure: the same (seed, step) gives the same bits, in any order, which is what makes a run of a
    system resumable at any step. `optimizer(model, lr)` is the recipe's optimiser; `probe(seed)` the held-out
    data that observables measure on. `path` and `knobs` rebuild the system: `load(path)(**knobs)`.
    `floor` is the lowest reachable loss, where theory knows it; `facts` holds what laws may know before training
    (entropies, spectra, sites), never anything measured on a trained model. `schedule(step)` is what the learning rate
    is multiplied by, 1 where there is none.
    """

    name: str
    path: str
    knobs: dict[str, Any]
    build: "Callable[[int], nn.Module]"
    batch: Callable[[int, int], Any]
    loss: "Callable[[nn.Module, Any], Tensor]"
    probe: Callable[[int], Any]
    optimizer: "Callable[[nn.Module, float], Optimizer]"
    lr: float
    floor: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    example_loss: "Callable[[nn.Module, Any], tuple[Tensor, Tensor]] | None" = None
    schedule: Callable[[int], float] | None = None
