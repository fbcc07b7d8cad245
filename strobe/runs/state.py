"""The full state of a training loop: every object that has a state, the random generators, the module flags."""

import contextlib
import random
import sys
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from strobe.core.errors import BadOption, StateMismatch
from strobe.runs.tree import flatten


def capture(objects: Mapping[str, Any]) -> dict[str, Any]:
    """The state of all objects and of the random generators. Tensors are the live ones, not copies: save or copy at once."""
    return {"objects": {name: _state(name, obj) for name, obj in objects.items()}, "random": _random_state()}


def restore(objects: Mapping[str, Any], state: Mapping[str, Any], *, where: str = "the snapshot") -> None:
    """Put a captured state back, bit for bit. All names and shapes are checked before the first change.

    Raises `StateMismatch` naming what does not fit.
    """
    stored = state["objects"]
    if set(stored) != set(objects):
        only, extra = sorted(set(stored) - set(objects)), sorted(set(objects) - set(stored))
        raise StateMismatch(
            f"{where} holds the state of {sorted(stored)}, the loop hands over {sorted(objects)}"
            + (f"; missing in the loop: {', '.join(only)}" if only else "")
            + (f"; not in the snapshot: {', '.join(extra)}" if extra else "")
        )
    for name, obj in objects.items():
        if isinstance(obj, nn.Module):
            check_shapes(name, obj, stored[name]["state"], where)
    for name, obj in objects.items():
        _load(name, obj, stored[name], where)
    _set_random_state(state["random"])


def check_shapes(name: str, module: nn.Module, stored: Mapping[str, Any], where: str) -> None:
    """Raise `StateMismatch` unless the module has exactly the stored names and shapes."""
    have = {k: v for k, v in module.state_dict().items() if isinstance(v, Tensor)}
    want = {k: v for k, v in stored.items() if isinstance(v, Tensor)}
    for k, v in want.items():
        if k not in have:
            raise StateMismatch(f"{where} holds {name}.{k} {tuple(v.shape)}, which this model does not have")
        if have[k].shape != v.shape:
            raise StateMismatch(
                f"{name}.{k} has shape {tuple(v.shape)} in {where} and {tuple(have[k].shape)} in this model; "
                "build the model with the knobs of the run"
            )
    if left := sorted(set(have) - set(want)):
        raise StateMismatch(f"this model has {name}.{left[0]}, which {where} does not hold")


def differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[str]:
    """Where two captured states differ, in words; empty when they are bit-equal (-0.0 and NaN payloads count)."""
    (sa, ta), (sb, tb) = flatten(a, ""), flatten(b, "")
    found = [f"{k[1:]}: {_how(ta[k], tb[k])}" for k in ta if k in tb and not _same(ta[k], tb[k])]
    found += [f"{k[1:]}: only in one of them" for k in {**ta, **tb} if (k in ta) != (k in tb)]
    if sa != sb and not found:
        found += [f"{p}: {x!r} and {y!r}" for p, x, y in _walk("", sa, sb)]
    return found


def _walk(path: str, a: Any, b: Any) -> list[tuple[str, Any, Any]]:
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [d for k in a for d in _walk(f"{path}.{k}".lstrip("."), a[k], b[k])]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in _walk(f"{path}.{i}", x, y)]
    return [] if a == b else [(path, a, b)]


def _same(a: Tensor, b: Tensor) -> bool:
    from strobe.runs.packs import raw

    return a.shape == b.shape and a.dtype == b.dtype and raw(a) == raw(b)


def _how(a: Tensor, b: Tensor) -> str:
    if a.shape != b.shape or a.dtype != b.dtype:
        return f"{a.dtype} {tuple(a.shape)} and {b.dtype} {tuple(b.shape)}"
    if not a.dtype.is_floating_point:
        return f"{int((a.cpu() != b.cpu()).sum())} of {a.numel()} entries differ"
    gap = (a.cpu().double() - b.cpu().double()).abs()
    return f"{int((gap != 0).sum())} of {a.numel()} entries differ, by {float(gap.max()):.3g} at most"


def _state(name: str, obj: Any) -> Any:
    if isinstance(obj, nn.Module):
        own = obj.state_dict()
        loose = {k: b for k, b in obj.named_buffers() if k not in own}
        return {
            "state": dict(own),
            "loose_buffers": loose,
            "evaluating": [k for k, m in obj.named_modules() if not m.training],
            "frozen": [k for k, p in obj.named_parameters() if not p.requires_grad],
        }
    if hasattr(obj, "state_dict"):
        return obj.state_dict()
    if isinstance(obj, torch.Generator):
        return obj.get_state()
    if isinstance(obj, np.random.Generator):
        return obj.bit_generator.state
    if isinstance(obj, random.Random):
        return obj.getstate()
    raise BadOption(
        f"{name} is a {type(obj).__name__} without state_dict(): hand over objects with state_dict() and "
        "load_state_dict(), or a torch, NumPy or Python random generator"
    )


def _load(name: str, obj: Any, stored: Any, where: str) -> None:
    if isinstance(obj, nn.Module):
        _load_module(obj, stored)
    elif isinstance(obj, torch.Generator):
        obj.set_state(stored)
    elif isinstance(obj, np.random.Generator):
        obj.bit_generator.state = stored
    elif isinstance(obj, random.Random):
        obj.setstate(stored)
    else:
        try:
            obj.load_state_dict(stored)
            if hasattr(obj, "__iter__"):  # a loader makes its iterator now, not in the loop: making one draws a seed,
                obj.state_dict()  # which must come before the random states are put back
        except (ValueError, KeyError, RuntimeError) as e:
            raise StateMismatch(f"{name} ({type(obj).__name__}) does not take the state in {where}: {e}") from e


def _load_module(module: nn.Module, stored: Mapping[str, Any]) -> None:
    module.load_state_dict(stored["state"], strict=True)
    buffers, evaluating, frozen = dict(module.named_buffers()), set(stored["evaluating"]), set(stored["frozen"])
    with torch.no_grad():
        for k, v in stored["loose_buffers"].items():
            if k in buffers:
                buffers[k].copy_(v)
    for k, m in module.named_modules():
        m.training = k not in evaluating
    for k, p in module.named_parameters():
        p.requires_grad_(k not in frozen)


@contextlib.contextmanager
def random_kept() -> Iterator[None]:
    """Leave the caller's random generators as they are: reading a run must not change the training around it."""
    state = _random_state()
    try:
        yield
    finally:
        _set_random_state(state)


def _random_state() -> dict[str, Any]:
    state: dict[str, Any] = {"python": random.getstate(), "torch": torch.get_rng_state()}
    if "numpy.random" in sys.modules:
        state["numpy"] = np.random.get_state()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def _set_random_state(state: Mapping[str, Any]) -> None:
    random.setstate(state["python"])
    torch.set_rng_state(state["torch"])
    if "numpy" in state:
        np.random.set_state(state["numpy"])
    if "cuda" in state and torch.cuda.is_available():
        for i, s in enumerate(state["cuda"][: torch.cuda.device_count()]):
            torch.cuda.set_rng_state(s, i)
