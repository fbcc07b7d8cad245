"""Data of any nesting (tuples, lists, mappings, dataclasses of tensors), taken apart into examples by the first dimension."""

import copy
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from strobe.core.errors import BadOption


def mapped(data: Any, fn: Callable[[Tensor], Tensor]) -> Any:
    """The same nesting of tuples, lists, mappings and dataclasses with `fn` of every tensor."""
    if isinstance(data, Tensor):
        return fn(data)
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(mapped(v, fn) for v in data))
    if isinstance(data, tuple | list):
        return type(data)(mapped(v, fn) for v in data)
    if isinstance(data, Mapping):
        new: Any = copy.copy(data)
        for k, v in data.items():
            new[k] = mapped(v, fn)
        return new
    if dataclasses.is_dataclass(data) and not isinstance(data, type):
        return dataclasses.replace(
            data, **{f.name: mapped(getattr(data, f.name), fn) for f in dataclasses.fields(data) if f.init}
        )
    return data


def leaves(data: Any) -> list[Tensor]:
    """The tensors with a first dimension inside `data`, in order."""
    found: list[Tensor] = []

    def see(t: Tensor) -> Tensor:
        if t.ndim:
            found.append(t)
        return t

    mapped(data, see)
    return found


def count(data: Any) -> int:
    """How many examples the data hold. Raises `BadOption` where its tensors do not share a first dimension."""
    sizes = {t.shape[0] for t in leaves(data)}
    if len(sizes) != 1 or 0 in sizes:
        raise BadOption(
            f"the probe (data) cannot be taken apart into examples: the first dimensions of its tensors are {sorted(sizes)}; "
            "give data whose tensors all have one row per example"
        )
    return sizes.pop()


def examples_in(data: Any) -> int:
    """The same, 0 where it cannot be taken apart."""
    try:
        return count(data)
    except BadOption:
        return 0


def rows(data: Any, start: int, stop: int) -> Any:
    """Examples `start` to `stop`, as a batch."""
    return mapped(data, lambda t: t[start:stop] if t.ndim else t)


def chosen(data: Any, index: Tensor) -> Any:
    """The examples with these numbers, as a batch (a copy)."""
    return mapped(data, lambda t: t[index.to(t.device)] if t.ndim else t)


def two_kinds(labels: Any, n: int) -> np.ndarray:
    """Which of n labels are of the larger of their two values. Raises `BadOption` where they are not n, or not of two kinds."""
    given = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    kinds = np.unique(given)
    if given.shape != (n,) or len(kinds) != 2:
        raise BadOption(
            f"labels are of two kinds, one for each of {n} inputs; got {len(kinds)} kinds, shape {given.shape}"
        )
    return np.asarray(given == kinds[1])
