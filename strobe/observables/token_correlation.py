"""How the correlation of tokens falls with their distance."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from torch import Tensor

from strobe.core.cards import observable
from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot
from strobe.numerics.token_correlations import token_correlations


@observable(symbol="|C(n)|", of="snapshot", cost="distances · (tokens + blocks · vocab³)", ref="arXiv:2602.07488")
def token_correlation(
    snap: Snapshot, *, distances: Sequence[int] = (1, 2, 4, 8, 16, 32), vocab: int | None = None,
    norm: Literal["operator", "frobenius"] = "operator", blocks: int = 8,
) -> Reading:  # fmt: skip
    """Norm of the covariance of one-hot tokens n apart, one number for each of `distances`, free of the noise of a finite text.

        C_n(a, b) = P(x_t = a, x_{t+n} = b) − P(a) P(b)        (`numerics.token_correlations`)

    It is a statistic of `snap.data` alone; the model is not asked. Its decay, `numerics.power_decay.decay(distances, value, err)`, is
    the β of `data_exponent`; γ comes in the same way from `loss_by_position` of a trained model.
    Args: `snap.data` a stream (T,) or windows (B, T) of ids, or a mapping with them as "input_ids"; vocab, by default the largest id + 1;
    norm; blocks, contiguous parts.
    Err: over blocks, as independent. Regime: parts long enough to be alike; more tokens than vocab² in all.
    Raises `BadOption` for data that are not ids, or distances that a part does not reach.
    Ref: Cagnetta and others, arXiv:2602.07488, section 3.

    >>> import torch
    >>> token_correlation(Snapshot(torch.nn.Identity(), None, torch.arange(4000) % 2), distances=[1, 2]).value.round(2).tolist()
    [0.5, 0.5]
    """
    data: Any = snap.data
    ids = (
        data
        if isinstance(data, Tensor)
        else data["input_ids"]
        if hasattr(data, "keys") and "input_ids" in data
        else None
    )
    if not isinstance(ids, Tensor) or ids.is_floating_point() or not ids.numel():
        raise BadOption(
            "token_correlation reads a LongTensor (T,) or (B, T), or a mapping that holds one as 'input_ids'"
        )
    x = ids.cpu().numpy()
    try:
        value, err = token_correlations(x, vocab or int(x.max()) + 1, list(distances), norm=norm, blocks=blocks)
    except ValueError as e:
        raise BadOption(str(e)) from e
    return Reading(
        value, err, "norm", {"distances": list(distances), "tokens": int(np.size(x)), "norm": norm, "blocks": blocks}
    )
