"""A nested state as plain JSON plus named tensors, and back; never a pickle.

What JSON cannot say is written as a one-key object: {"$tensor": name}, {"$array": name}, {"$tuple": [...]},
{"$map": [[key, value], ...]} (keys that are not strings), {"$float": "nan"}, {"$bytes": base64},
{"$ints": name} (long lists of ints, such as Python's random state), {"$dtype"| "$device": text}.
"""

import base64
import math
from collections import deque
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strobe.core.errors import Damaged, NotPlain


def flatten(state: Any, name: str) -> tuple[Any, dict[str, Tensor]]:
    """(JSON skeleton, tensors by name) of a state made of tensors, arrays, numbers, text and containers of these.

    Tensors are detached, not copied. Raises `NotPlain` naming the place of anything else.
    """
    tensors: dict[str, Tensor] = {}
    return _down(state, name, tensors), tensors


def unflatten(skeleton: Any, tensors: dict[str, Tensor]) -> Any:
    """The inverse of `flatten`. Raises `Damaged` when the skeleton names a tensor that is not there."""
    if isinstance(skeleton, list):
        return [unflatten(x, tensors) for x in skeleton]
    if not isinstance(skeleton, dict):
        return skeleton
    if len(skeleton) == 1:
        ((tag, x),) = skeleton.items()
        if tag.startswith("$"):
            return _up(tag, x, tensors)
    return {k: unflatten(v, tensors) for k, v in skeleton.items()}


def _down(x: Any, name: str, out: dict[str, Tensor]) -> Any:
    if x is None or isinstance(x, bool | str) or type(x) is int:
        return x
    if isinstance(x, Tensor):
        out[name] = x.detach()
        return {"$tensor": name}
    if isinstance(x, float) and not isinstance(x, np.generic):
        return x if math.isfinite(x) else {"$float": repr(x)}
    if isinstance(x, np.generic | np.ndarray):
        return _array(x, name, out)
    if isinstance(x, dict):
        if all(isinstance(k, str) and not k.startswith("$") for k in x):
            return {k: _down(v, f"{name}.{k}", out) for k, v in x.items()}
        return {"$map": [[_down(k, f"{name}.key", out), _down(v, f"{name}.{k}", out)] for k, v in x.items()]}
    if isinstance(x, list | tuple | deque):
        return _sequence(x, name, out)
    if isinstance(x, bytes | bytearray):
        return {"$bytes": base64.b64encode(x).decode()}
    if isinstance(x, torch.dtype | torch.device):
        return {f"${type(x).__name__}": str(x).removeprefix("torch.")}
    if isinstance(x, int):  # IntEnum and the like
        return int(x)
    raise NotPlain(
        f"the state at {name!r} holds a {type(x).__module__}.{type(x).__name__}, which is neither a tensor, an array nor "
        "plain data; Strobe does not pickle. Hand over an object whose state_dict() holds plain data only"
    )


def _array(x: Any, name: str, out: dict[str, Tensor]) -> Any:
    a = np.ascontiguousarray(x)
    if a.dtype.hasobject or a.dtype.kind in "USV":
        raise NotPlain(f"the state at {name!r} is an array of {a.dtype}, which has no plain bytes")
    out[name] = torch.from_numpy(a.reshape(-1).view(np.uint8).copy())
    return {"$array": [name, a.dtype.str, list(np.shape(x)), bool(isinstance(x, np.generic))]}


def _sequence(x: Any, name: str, out: dict[str, Tensor]) -> Any:
    if len(x) > 64 and all(type(v) is int and -(2**63) <= v < 2**63 for v in x):
        out[name] = torch.tensor(list(x), dtype=torch.int64)
        items: Any = {"$ints": name}
    else:
        items = [_down(v, f"{name}.{i}", out) for i, v in enumerate(x)]
    return {"$tuple": items} if isinstance(x, tuple) else items


def _up(tag: str, x: Any, tensors: dict[str, Tensor]) -> Any:
    try:
        if tag == "$tensor":
            return tensors[x]
        if tag == "$ints":
            return tensors[x].tolist()
        if tag == "$array":
            name, dtype, shape, scalar = x
            a = tensors[name].numpy().view(np.dtype(dtype)).reshape(shape).copy()
            return a[()] if scalar else a
    except KeyError as e:
        raise Damaged(f"the snapshot's manifest names the tensor {e.args[0]!r}, which is not among its tensors") from e
    if tag == "$tuple":
        return tuple(unflatten(x, tensors))
    if tag == "$map":
        return {unflatten(k, tensors): unflatten(v, tensors) for k, v in x}
    if tag == "$float":
        return float(x)
    if tag == "$bytes":
        return base64.b64decode(x)
    if tag in ("$dtype", "$device"):
        return getattr(torch, x) if tag == "$dtype" else torch.device(x)
    raise Damaged(f"the snapshot's manifest holds {tag!r}, which this version of Strobe does not know")
