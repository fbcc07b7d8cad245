"""Several concepts steered at once: what each gets of the others' doses, from the angles between their directions."""

from collections.abc import Sequence

import torch
from torch import Tensor

from strobe.core.errors import BadOption
from strobe.features.concept import Concept


def gram(concepts: Sequence[Concept]) -> Tensor:
    """Gᵢⱼ = uᵢ · uⱼ of the directions, (k, k), double; 0 between concepts of different sites."""
    if not concepts:
        raise BadOption("name at least one concept")
    G = torch.eye(len(concepts), dtype=torch.float64)
    for i, a in enumerate(concepts):
        for j, b in enumerate(concepts[:i]):
            if a.site == b.site:
                if a.direction.shape != b.direction.shape:
                    raise BadOption(f"the concepts at {a.site} have {len(a.direction)} and {len(b.direction)} features")
                G[i, j] = G[j, i] = a.direction.double() @ b.direction.double()
    return G


def interference(concepts: Sequence[Concept], doses: Sequence[float]) -> Tensor:
    """How far each concept moves when all are steered at once: x → x + Σⱼ aⱼ uⱼ moves coordinate i by (G a)ᵢ.

    Args: doses aⱼ in units of the activations. Regime: where the coordinate is all that matters, that is, where the network reads
    concept i through uᵢ alone; what layers above do with the rest is not in it. Raises `BadOption`.

    >>> axes = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    >>> pair = [Concept("blocks.0", u[None], torch.zeros(2)) for u in axes]
    >>> [round(x, 3) for x in interference(pair, [1.0, 2.0]).tolist()]
    [2.2, 2.6]
    """
    return gram(concepts) @ _numbers(concepts, doses)


def corrected(concepts: Sequence[Concept], wanted: Sequence[float], *, most: float = 1e3) -> Tensor:
    """The doses a with G a = wanted: each concept moves as far as if it were steered alone.

    Raises `BadOption` where directions are so alike (condition of G above `most`) that no sensible dose does it.

    >>> axes = torch.tensor([[1.0, 0.0], [0.6, 0.8]])
    >>> pair = [Concept("blocks.0", u[None], torch.zeros(2)) for u in axes]
    >>> [round(x, 2) for x in corrected(pair, [1.0, 2.0]).tolist()]
    [-0.31, 2.19]
    """
    G = gram(concepts)
    if float(torch.linalg.cond(G)) > most:
        raise BadOption("these directions are almost the same: no doses move one and not the other; leave one out")
    return torch.linalg.solve(G, _numbers(concepts, wanted))


def _numbers(concepts: Sequence[Concept], given: Sequence[float]) -> Tensor:
    a = torch.as_tensor(given, dtype=torch.float64)
    if a.shape != (len(concepts),) or not a.isfinite().all():
        raise BadOption(f"there are {len(concepts)} concepts: give as many finite doses, not {list(given)!r}")
    return a
