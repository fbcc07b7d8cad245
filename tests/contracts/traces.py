"""All that measuring or looking must leave as it was, and a comparison of it to the bit."""

import copy
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strobe.core.snapshot import Snapshot


def state_of(snap: Snapshot) -> Any:
    m = snap.model
    hooks = [(len(x._forward_hooks), len(x._forward_pre_hooks), len(x._backward_hooks)) for x in m.modules()]
    return (
        {k: v.clone() for k, v in m.state_dict().items()}, [x.training for x in m.modules()], hooks, random.getstate(),
        np.random.get_state()[1].tolist(), torch.get_rng_state(), [None if p.grad is None else p.grad.clone() for p in m.parameters()],
        [p.requires_grad for p in m.parameters()], torch.is_grad_enabled(), copy.deepcopy(snap.data),
    )  # fmt: skip


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)
