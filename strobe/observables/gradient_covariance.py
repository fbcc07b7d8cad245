"""In which directions gradients differ from one example to the next: the top eigenvalues of their covariance."""

from typing import Any

import numpy as np

from strobe.core.cards import observable
from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot
from strobe.observables.gradient_noise import Split, split_gradients


@observable(symbol="λᵢ(Σ)", of="snapshot", cost="chunks gradients", ref="arXiv:1710.11029")
def gradient_covariance(
    snap: Snapshot, *, k: int = 1, chunks: int = 64, split: Split | None = None, seed: int = 0
) -> Reading:
    """The k largest eigenvalues of the covariance Σ of one example's gradient; a float for k = 1, else descending.

        Σ̂ = b / (n − 1) Σᵢ (gᵢ − ḡ)(gᵢ − ḡ)ᵀ,   gᵢ the mean gradient of chunk i of n, of b examples each

    from the n x n Gram matrix of the centred chunk gradients, exactly. `how["trace"]` is tr Σ̂, `how["share"]` the k's part of it,
    and `how["effective"]` = (tr Σ)² / tr Σ² of it how many directions the noise has.
    Args: k, below chunks; chunks n, at least 8 (n = examples is the per-example covariance of this sample); split as for `gradient_noise`.
    Err: one standard error by the jackknife over chunks, for the draw of the examples. It leaves out the bias of a largest eigenvalue
    from few chunks, upwards by about tr Σ / n: trust a value only well above `how["floor"]`, which is that.
    Cost: n gradients of b examples; memory n x parameters, in double precision.
    Regime: loss(model, data) a mean over the examples. Raises `BadOption` for data it can not split, `Diverged`.
    Ref: Chaudhari and Soatto, arXiv:1710.11029, section 2 (the diffusion matrix of descent with batches is Σ / batch).

    >>> import torch
    >>> x = torch.randn(400, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([2.0, 1.0])
    >>> snap = Snapshot(torch.nn.Linear(2, 1, bias=False), lambda m, x: (x @ m.weight.T).mean(), x)  # gᵢ = xᵢ
    >>> got = gradient_covariance(snap, k=2, chunks=400)
    >>> bool((abs(got.value - [4.0, 1.0]) < 3 * got.err).all())
    True
    """
    if chunks < 8 or not 1 <= k < chunks:
        raise BadOption(f"gradient_covariance needs chunks >= 8 and 1 <= k < chunks, got chunks = {chunks}, k = {k}")
    inner, size = split_gradients(snap, chunks, split, seed)
    values = _top(inner, size, k)
    without = np.stack([_top(np.delete(np.delete(inner, i, 0), i, 1), size, k) for i in range(chunks)])
    err = np.sqrt((chunks - 1) * np.square(without - without.mean(0)).mean(0))
    every = _top(inner, size, chunks - 1)
    total = float(every.sum())
    how: dict[str, Any] = {
        "trace": total, "share": float(values.sum()) / total if total else 0.0, "floor": total / chunks, "chunks": chunks,
        "effective": total**2 / float(np.square(every).sum()) if total else 0.0, "chunk_size": size,
    }  # fmt: skip
    if k == 1:
        return Reading(float(values[0]), float(err[0]), "(loss/θ)²", how)
    return Reading(values, err, "(loss/θ)²", how)


def _top(inner: np.ndarray, size: int, k: int) -> np.ndarray:
    n = len(inner)
    centred = inner - inner.mean(0) - inner.mean(1)[:, None] + inner.mean()
    return np.asarray(np.maximum(np.linalg.eigvalsh(centred)[::-1][:k], 0) * size / (n - 1))
