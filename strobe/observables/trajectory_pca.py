"""The path of a run through the space of its outputs or its parameters, in its own principal axes."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from strobe.core.cards import observable
from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.numerics.principal import gram, jackknifed, principal


@observable(symbol="PC", of="run", cost="one forward per stored step", ref="arXiv:2402.02364")
def trajectory_pca(
    run: Any, *, of: Literal["outputs", "params"] = "outputs", components: int = 3, steps: list[int] | None = None,
    outputs: Callable[[nn.Module, Any], Tensor] | None = None, groups: int = 16,
) -> Reading:  # fmt: skip
    """Principal-component scores of a run's trajectory: an array (steps, components).

        X (T, D) row t = outputs on the probe (or parameters) at step t;  X_c = X − mean over t
        X_c X_cᵀ = U Λ Uᵀ,   scores = U √Λ / √(number of entries of a row), an r.m.s.,   signs such that the last step is positive

    Args: `run` anything with `stored()` and `walk(steps)`; `outputs(model, data)` -> tensor whose first dimension
    counts examples (default: the model on the data's inputs); `groups` blocks of examples for the error.
    Err: jackknife over groups of examples of the probe, per score (for outputs); for parameters 0: nothing is sampled.
    how: steps, explained variance shares.
    Cost: one forward per step, T² D additions; memory T·D floats.
    Regime: a projection; two paths that look close need not be.
    Raises `BadOption` for fewer than 3 steps, or outputs with fewer examples than groups.
    Ref: essential dynamics as in Hoogland et al., arXiv:2402.02364.
    """
    at = run.stored() if steps is None else steps
    if len(at) < 3 or components < 1:
        raise BadOption(f"trajectory_pca needs at least 3 stored steps and 1 component, got {len(at)} and {components}")
    rows = [_params(s) if of == "params" else probe_outputs(s, outputs) for s in run.walk(at)]
    x = torch.stack(rows)  # (T, examples, D)
    x = x - x.mean(0, keepdim=True)
    if of == "params":
        scores, share = principal(gram(x), x[0].numel(), components)
        return Reading(scores, np.zeros_like(scores), "", {"steps": at, "explained": share, "of": of})
    scores, err, share = scores_of(x, components, groups)
    return Reading(scores, err, "", {"steps": at, "explained": share, "of": of, "examples": x.shape[1]})


def scores_of(x: Tensor, components: int, groups: int) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """Scores, err and shares of centred rows (T, examples, D), by groups of examples. Raises `BadOption` for one example."""
    groups = min(groups, x.shape[1])
    if groups < 2:
        raise BadOption("a probe of at least 2 examples is needed for an error")
    blocks = torch.arange(x.shape[1]) % groups
    parts = [x[:, blocks == g] for g in range(groups)]
    return jackknifed([gram(p) for p in parts], [p[0].numel() for p in parts], components)


def probe_outputs(snap: Any, outputs: Callable[[nn.Module, Any], Tensor] | None = None, data: Any = None) -> Tensor:
    """What the model says of the probe, or of `data`: (examples, D)."""
    given = snap.data if data is None else data
    with snap.quiet() as model, torch.no_grad():
        y = outputs(model, given) if outputs else _default(model, given)
    return y.detach().float().cpu().reshape(len(y), -1).clone()


def _params(snap: Any) -> Tensor:
    return torch.cat([p.reshape(-1).cpu() for p in snap.params().values()]).clone()[:, None]


def _default(model: nn.Module, data: Any) -> Tensor:
    """The model on the inputs of the data: tokens but the last, the first of a tuple, or `input_ids`."""
    if isinstance(data, dict):
        data = data.get("input_ids", next(iter(data.values())))
    if isinstance(data, tuple | list):
        data = data[0]
    elif isinstance(data, Tensor) and not data.is_floating_point():
        data = data[:, :-1]
    y = model(data)
    return y.logits if hasattr(y, "logits") else y
