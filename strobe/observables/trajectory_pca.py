"""The path of a run through the space of its outputs or its parameters, in its own principal axes."""

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from strobe.core.cards import observable
from strobe.core.errors import BadOption
from strobe.core.reading import Reading


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
    rows = [_params(s) if of == "params" else _outputs(s, outputs) for s in run.walk(at)]
    x = torch.stack(rows).double()  # (T, examples, D)
    x = x - x.mean(0, keepdim=True)
    if of == "params":
        scores, share = _pca(_gram(x), x[0].numel(), components)
        return Reading(scores, np.zeros_like(scores), "", {"steps": at, "explained": share, "of": of})
    if x.shape[1] < groups:
        groups = x.shape[1]
    if groups < 2:
        raise BadOption("trajectory_pca needs a probe of at least 2 examples for an error")
    blocks = torch.arange(x.shape[1]) % groups
    grams = [_gram(x[:, blocks == g]) for g in range(groups)]
    total = sum(grams[1:], grams[0])
    scores, share = _pca(total, x[0].numel(), components)
    left = [
        _aligned(_pca(total - g, int((blocks != i).sum()) * x.shape[2], components)[0], scores)
        for i, g in enumerate(grams)
    ]
    err = np.sqrt((groups - 1) / groups * np.square(np.stack(left) - np.mean(left, 0)).sum(0))
    return Reading(scores, err, "", {"steps": at, "explained": share, "of": of, "examples": x.shape[1]})


def _gram(x: Tensor) -> np.ndarray:
    flat = x.reshape(len(x), -1)
    return (flat @ flat.T).numpy()


def _pca(gram: np.ndarray, count: int, k: int) -> tuple[np.ndarray, list[float]]:
    values, vectors = np.linalg.eigh(gram)
    values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
    scores = vectors[:, :k] * np.sqrt(values[:k] / count)
    scores *= np.where(scores[-1] < 0, -1.0, 1.0)
    return scores, [float(v) for v in values[:k] / max(values.sum(), 1e-300)]


def _aligned(scores: np.ndarray, to: np.ndarray) -> np.ndarray:
    return scores * np.where((scores * to).sum(0) < 0, -1.0, 1.0)


def _params(snap: Any) -> Tensor:
    return torch.cat([p.reshape(-1).cpu() for p in snap.params().values()]).clone()[:, None]


def _outputs(snap: Any, outputs: Callable[[nn.Module, Any], Tensor] | None) -> Tensor:
    with snap.quiet() as model, torch.no_grad():
        y = outputs(model, snap.data) if outputs else _default(model, snap.data)
    return y.detach().float().cpu().reshape(len(y), -1).clone()


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
