"""How much a network's tangent kernel looks like another kernel: of its targets, or of itself at another moment."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strobe.core.cards import observable
from strobe.core.data import count
from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot
from strobe.observables.tangent_factors import Forward
from strobe.observables.tangent_kernel import ntk


@observable(
    symbol="A(Θ, ·)", of="snapshot", cost="one tangent kernel, and one more of another snapshot", ref="arXiv:1203.0550"
)
def kernel_alignment(
    snap: Snapshot, *, to: Snapshot | np.ndarray | Tensor | str = "targets", centred: bool = True,
    parts: Mapping[str, Sequence[str] | str] | str | None = None, forward: Forward | None = None, memory: int = 1 << 30,
) -> Reading:  # fmt: skip
    """The cosine between the tangent kernel Θ and another kernel K of the same examples.

        A = ⟨Θ, K⟩ / (|Θ| |K|),    Θ = Σ_k ∂f_k/∂θ · ∂f_k/∂θ,    both centred (HΘH, H = 1 − 11ᵀ/n) unless centred=False

    1 where one is a multiple of the other. A rise with the targets is feature learning; 1 − A with the kernel at the start is its drift.
    Args: to, "targets" (K = Y Yᵀ, Y the second element of the data: class numbers as unit vectors, or numbers), another `Snapshot` of
    the same examples (K its Θ; its model may be of another kind), or a kernel (n, n), as a reading of `ntk` holds; parts, as of `ntk`:
    A of each part's Θ, an array named in `how["labels"]`; forward, memory: as of `ntk`.
    Err: jackknife over examples: the standard error of A for as many examples of the population.
    Cost: see `ntk`. Regime: three examples or more. A centred kernel that is zero, as of targets that are all one, has no cosine.
    Raises `BadOption`, for that too, and what `ntk` raises.
    Ref: Cristianini et al. 2001; Cortes et al., arXiv:1203.0550, definition 4 (centred); of tangent kernels Baratin et al.,
    arXiv:2008.00938.

    >>> net = torch.nn.Linear(1, 1, bias=False)
    >>> data = (torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([3.0, 6.0, 9.0]))
    >>> round(kernel_alignment(Snapshot(net, None, data)).value, 6)
    1.0
    """
    own = ntk(snap, parts=parts, forward=forward, memory=memory)
    mine = own.value if parts is not None else own.value[None]
    other = _other(snap, to, forward, memory)
    n = mine.shape[-1]
    if other.shape != (n, n) or n < 3:
        raise BadOption(
            f"two kernels of the same three or more examples are needed, got {mine.shape[1:]} and {other.shape}"
        )
    found = [_cosine(k, other, centred) for k in mine]
    value, err = (np.array(v) for v in zip(*found, strict=True))
    how: dict[str, Any] = {"examples": n, "centred": centred, "plain": own.how["plain"]}
    if parts is None:
        return Reading(float(value[0]), float(err[0]), "cosine", how)
    return Reading(value, err, "cosine", how | {"labels": own.how["labels"]})


def _other(snap: Snapshot, to: Any, forward: Forward | None, memory: int) -> np.ndarray:
    if isinstance(to, Snapshot):
        return np.asarray(ntk(to, forward=forward, memory=memory).value)
    if isinstance(to, str):
        if to != "targets" or not isinstance(snap.data, tuple | list) or len(snap.data) < 2:
            raise BadOption(f'to is "targets" (the second element of the data), a snapshot, or a kernel; got {to!r}')
        y = torch.as_tensor(snap.data[1])
        count(y)
        wide = y.reshape(len(y), -1)
        if not y.is_floating_point() and wide.shape[1] == 1:
            wide = torch.nn.functional.one_hot(wide[:, 0].long() - int(wide.min()))
        flat = wide.double().cpu().numpy()
        return np.asarray(flat @ flat.T)
    return np.asarray(torch.as_tensor(to).double().cpu().numpy())


def _cosine(a: np.ndarray, b: np.ndarray, centred: bool) -> tuple[float, float]:
    """The cosine and its jackknife error: leaving an example out leaves its row and column out of all sums."""
    n = len(a)
    all_of_them = _cosine_of(a, b, np.ones((1, n)), centred)[0]
    without = _cosine_of(a, b, 1 - np.eye(n), centred)
    return float(all_of_them), float(np.sqrt((n - 1) / n * np.square(without - without.mean()).sum()))


def _cosine_of(a: np.ndarray, b: np.ndarray, keep: np.ndarray, centred: bool) -> np.ndarray:
    """Of each row of weights 0 or 1 over the examples, (c, n) -> (c,).

    ⟨HaH, HbH⟩ = Σ a b − (2/m) Σ_i a_i· b_i· + a·· b·· / m²,  over the m examples kept
    """
    m = keep.sum(1)

    def inner(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        full = np.einsum("ci,ci->c", keep @ (x * y), keep)
        if not centred:
            return np.asarray(full)
        p, q = (keep * (keep @ z) for z in (x, y))
        return np.asarray(full - 2 / m * (p * q).sum(1) + p.sum(1) * q.sum(1) / m**2)

    aa, bb = inner(a, a), inner(b, b)
    scale = np.einsum("ci,ci->c", keep @ (a * a), keep), np.einsum("ci,ci->c", keep @ (b * b), keep)
    if (aa <= 1e-13 * scale[0]).any() or (bb <= 1e-13 * scale[1]).any():
        raise BadOption("a kernel is zero (where it is centred: the same for all examples), so it has no direction")
    return np.asarray(inner(a, b) / np.sqrt(aa * bb))
