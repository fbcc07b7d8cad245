"""How noisy one example's gradient is against that of all: the batch size at which noise and signal tie."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strobe.core.cards import observable
from strobe.core.errors import BadOption, Diverged
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot

Split = Callable[[Any, Tensor], Any]


@observable(symbol="B", of="snapshot", cost="chunks gradients", ref="arXiv:1812.06162")
def gradient_noise(snap: Snapshot, *, chunks: int = 32, split: Split | None = None, seed: int = 0) -> Reading:
    """Gradient noise scale B = tr Σ / |G|², in examples.

        gᵢ the mean gradient of chunk i of n;  ḡ = mean gᵢ;  s² = Σ‖gᵢ − ḡ‖² / (n − 1)
        tr Σ = b s²     |G|² = ‖ḡ‖² − s² / n     B = tr Σ / |G|²        both unbiased; B a ratio of them

    with Σ the covariance of one example's gradient, G the gradient of the population the data are drawn from, and
    b examples in each chunk. The data are shuffled by `seed`; the examples that n does not divide are left out.
    Args: chunks n, at least 4 and at most the number of examples (n = examples is the per-example gradient: exact
    tr Σ of this sample); split(data, indices) -> data, for data that are not tensors, or tuples, lists or dicts of
    them with the examples along dimension 0.
    Err: one standard error by the jackknife over chunks. It covers the draw of the examples and the chunking, so it
    does not shrink with more chunks alone; nor does it cover a bias of the loss that is no mean over examples.
    Cost: n gradients of b examples. Regime: loss(model, data) a mean over the examples of data (a sum makes B wrong
    by a factor of b), and the network in eval mode: batch norm or dropout in train mode mix or add noise.
    Raises `BadOption` for data it can not split, and `Diverged` where |G|² is not above zero: the gradient is lost in
    the noise of this many examples, so B is only known to be larger than about their number.
    Ref: arXiv:1812.06162, appendix A.1. Departure: n chunks of one size instead of two sizes; the same estimator for
    sizes b and n b.

    >>> net = torch.nn.Linear(1, 1, bias=False)
    >>> snap = Snapshot(net, lambda m, x: (m.weight * x).mean(), torch.tensor([[0.9], [1.1]] * 50))
    >>> round(gradient_noise(snap, chunks=100).value, 4)  # tr Σ = 0.01, |G|² = 1
    0.0101
    """
    inner, size = split_gradients(snap, chunks, split, seed)
    trace, signal = _moments(inner, size)
    if not signal > 0:
        raise Diverged(
            f"gradient_noise at step {snap.step}: |G|² is estimated as {signal:.3g} from {chunks * size} examples: "
            f"the gradient is lost in the noise; give more examples"
        )
    keep = ~np.eye(chunks, dtype=bool)
    without = np.array([_ratio(*_moments(inner[np.ix_(k, k)], size)) for k in keep])
    if not np.isfinite(without).all():
        raise Diverged(f"gradient_noise at step {snap.step}: without one chunk |G|² is lost: give more examples")
    err = float(np.sqrt((chunks - 1) * np.mean((without - without.mean()) ** 2)))
    how = {"chunks": chunks, "chunk_size": size, "trace": trace, "signal": signal, "examples": chunks * size}
    return Reading(trace / signal, err, "examples", how)


def split_gradients(snap: Snapshot, chunks: int, split: Split | None, seed: int) -> tuple[np.ndarray, int]:
    """(the Gram matrix of the gradients of so many shuffled chunks, examples in each). Raises `BadOption`, `Diverged`."""
    data = snap.data
    total = _examples(data) if split is None else len(data)
    if not 4 <= chunks <= total:
        raise BadOption(f"the gradient is taken of 4 <= chunks <= {total}, the number of examples; got {chunks}")
    size = total // chunks
    order = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[: chunks * size]
    # all is computed from the n x n Gram matrix, so the n gradients meet once and in float64
    return _gram(_gradients(snap, [(split or _take)(data, part) for part in order.split(size)])), size


def _gradients(snap: Snapshot, parts: Sequence[Any]) -> list[Tensor]:
    leaves = {k: p.requires_grad_() for k, p in snap.params().items()}
    if not leaves:
        raise BadOption(f"{type(snap.model).__name__} has no parameter with requires_grad: there is no gradient")
    out = []
    for part in parts:
        here = Snapshot(snap.model, snap.loss, part, snap.step, snap.mode)
        with here.quiet():
            loss = here.loss_at(leaves)
            got = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
        out.append(torch.cat([g.reshape(-1).double() for g in got]))
    return out


def _gram(gradients: list[Tensor]) -> np.ndarray:
    g = torch.stack(gradients)
    inner = (g @ g.T).cpu().numpy()
    if not np.isfinite(inner).all():
        raise Diverged("gradient_noise: a gradient is NaN or infinite; look at an earlier step, or lower the lr")
    return inner


def _moments(inner: np.ndarray, size: int) -> tuple[float, float]:
    n = len(inner)
    mean = inner.mean()
    s2 = (np.trace(inner) - n * mean) / (n - 1)
    return float(size * s2), float(mean - s2 / n)


def _ratio(trace: float, signal: float) -> float:
    return trace / signal if signal > 0 else float("nan")


def _examples(data: Any) -> int:
    if isinstance(data, Tensor) and data.ndim:
        return len(data)
    if isinstance(data, Mapping | tuple | list):
        sizes = {_examples(x) for x in (data.values() if isinstance(data, Mapping) else data)}
        if len(sizes) == 1:
            return sizes.pop()
        raise BadOption(f"the tensors of the data have {sorted(sizes)} examples along dimension 0: give split=")
    raise BadOption(f"can not split a {type(data).__name__} into examples: give split=lambda data, indices: ...")


def _take(data: Any, indices: Tensor) -> Any:
    if isinstance(data, Tensor):
        return data[indices.to(data.device)]
    if isinstance(data, Mapping):
        return {k: _take(v, indices) for k, v in data.items()}
    items = [_take(v, indices) for v in data]
    if hasattr(data, "_fields"):
        return type(data)(*items)
    return tuple(items) if isinstance(data, tuple) else items
