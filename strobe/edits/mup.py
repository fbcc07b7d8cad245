"""The maximal update parametrisation of any module: how far each parameter starts out and moves, by how it widens."""

import fnmatch
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from strobe.core.errors import BadOption, near

ROLES = ("input", "hidden", "output", "vector", "fixed")
OPTIMIZERS = ("adam", "sgd")
LINEAR = (nn.Linear, nn.Bilinear, nn.modules.conv._ConvNd)


@dataclass(frozen=True, slots=True)
class Row:
    """One parameter: its role, how much wider than in the base model its input and output are, and what follows."""

    name: str
    role: str
    shape: tuple[int, ...]
    wider_in: float
    wider_out: float
    std: float  # of its entries, in the base model; 0 where they are left as they are
    scale: float  # its entries are multiplied by this: 1 where they are left as they are
    lr: float  # its learning rate is the base model's times this


@dataclass(frozen=True, slots=True)
class Widening:
    """The table of `widening`: `apply` it to the model's initial values, and train with its `groups`."""

    rows: list[Row]
    optimizer: str

    def apply(self, model: nn.Module) -> nn.Module:
        """Rescale the initial values in place, once, before training; the same model comes back. Raises `BadOption` the second time."""
        own = dict(model.named_parameters())
        if any(getattr(own[row.name], "widened", False) for row in self.rows if row.scale != 1):
            raise BadOption("this model was rescaled before: a second time would be once too often; build it anew")
        with torch.no_grad():
            for row in self.rows:
                if row.scale != 1:
                    own[row.name].mul_(row.scale)
                    own[row.name].widened = True  # type: ignore[attr-defined]
        return model

    def groups(self, model: nn.Module, *, lr: float, weight_decay: float = 0.0) -> list[dict[str, Any]]:
        """Parameter groups for the optimizer at the base model's `lr`: one for each multiplier.

        Decoupled weight decay (AdamW's) is divided by the multiplier, so that lr × weight_decay is that of the base model.
        """
        own, by = dict(model.named_parameters()), dict[float, list[Tensor]]()
        for row in self.rows:
            by.setdefault(row.lr, []).append(own[row.name])
        return [{"params": p, "lr": lr * m, "weight_decay": weight_decay / m} for m, p in by.items()]

    def __str__(self) -> str:
        wide = max([9, *(len(r.name) for r in self.rows)])
        lines = [
            f"{'parameter':{wide}s}  role    shape             wider in, out   init ×    lr ×   ({self.optimizer})"
        ]
        for r in self.rows:
            shape, wider = "×".join(map(str, r.shape)), f"{r.wider_in:g}, {r.wider_out:g}"
            lines.append(f"{r.name:{wide}s}  {r.role:6s}  {shape:16s}  {wider:14s}  {r.scale:<8.4g}  {r.lr:.4g}")
        return "\n".join(lines)


def widening(
    model: nn.Module, base: nn.Module, *, optimizer: str = "adam", roles: Mapping[str, str] | None = None,
    branches: Sequence[str] = (), depth: float = 1.0, depth_exponent: float = 1.0,
) -> Widening:  # fmt: skip
    """What each parameter of a wide model needs so that the best learning rate of the narrow `base` is the best for it too.

        role     widens in      initial std        lr, Adam     lr, SGD
        input    outputs        that of base       1            m_out
        hidden   both           base / √m_in       1 / m_in     m_out / m_in
        output   inputs         base / m_in        1 / m_in     1 / m_in
        vector   (bias, gain)   left               1            m_out
        fixed    neither        left               1            1

    with m the factor by which that side is wider than in the base model. No multiplier goes into the forward pass: the one of the
    readout is carried by its initial values and its learning rate, which for Adam and SGD is the same (arXiv:2203.03466, table 3).
    Depth: a residual branch is scaled by depth^−depth_exponent through the last matrix of it, and hidden and vector learning
    rates of the blocks that hold one by depth^(depth_exponent − 1), for Adam
    (depth the factor by which the model is deeper: arXiv:2505.01618).

    Args: base, the same architecture at the width (and at the model's depth) where lr was tuned; roles, {pattern: role} for
    parameters whose shape does not tell (a raw matrix that widens on one side); branches, patterns of the names of parameters that
    write to a residual stream last (a weight
    brings its bias); depth_exponent, 1 (each layer learns) or ½.
    Regime: one width, grown together; as many heads or as large, but attention logits divided by the head's size, not its
    root, where the size grows; Adam's epsilon small against the gradients. Values that a module sets to constants are left.
    Raises `BadOption` where the parameters of the two differ in name or number of dimensions, a role can not be told, or an
    embedding is tied to a readout (each needs another rule: untie them).
    Ref: Yang et al., arXiv:2203.03466, tables 3 and 8. Departures: initial spreads are measured on the
    base model, not assumed; biases keep the spread that the module gives them (torch's shrinks with √fan_in, table 3 has it constant).

    >>> build = lambda n: nn.Sequential(nn.Linear(8, n), nn.ReLU(), nn.Linear(n, n), nn.ReLU(), nn.Linear(n, 2))
    >>> table = widening(build(256), build(64))
    >>> [(r.name, r.role, r.lr) for r in table.rows if r.role in ("input", "hidden", "output")]
    [('0.weight', 'input', 1.0), ('2.weight', 'hidden', 0.25), ('4.weight', 'output', 0.25)]
    >>> optimizer = torch.optim.Adam(table.groups(table.apply(build(256)), lr=1e-2))
    """
    if optimizer not in OPTIMIZERS:
        raise BadOption(
            f"widening has rules for adam (and AdamW) and sgd, not {optimizer!r}; {near(optimizer, OPTIMIZERS)}"
        )
    if not (depth > 0 and depth_exponent in (0.5, 1.0)):
        raise BadOption(f"widening needs depth > 0 and depth_exponent 0.5 or 1, got {depth} and {depth_exponent}")
    if depth != 1 and optimizer != "adam":
        raise BadOption("widening has a rule of depth for adam only: leave depth at 1, or train with Adam")
    if depth != 1 and not branches:
        raise BadOption("a deeper model needs branches=[...]: the parameters that write to the residual stream last")
    own, other = dict(model.named_parameters()), dict(base.named_parameters())
    if odd := sorted(set(own) ^ set(other)):
        raise BadOption(f"the model and its base differ by the parameter {odd[0]!r}: build both by the same code")
    _untied(model)
    owners = {
        f"{path}.{n}" if path else n: m
        for path, m in model.named_modules()
        for n, _ in m.named_parameters(recurse=False)
    }
    unmatched = {p for p in [*(roles or {}), *branches] if not fnmatch.filter(own, p)}
    if unmatched:
        raise BadOption(f"no parameter is called {sorted(unmatched)[0]!r}; {near(sorted(unmatched)[0], list(own))}")
    ends = {n for b in branches for n in fnmatch.filter(own, b)}
    ends |= {n for n in own if n.endswith(".bias") and f"{n.removesuffix('bias')}weight" in ends}
    blocks = {_block(n) for n in ends}
    untold = depth != 1 and depth_exponent != 1 and all(p.shape == other[n].shape for n, p in own.items())
    rows = []
    for name, p in own.items():
        was = other[name]
        if p.ndim != was.ndim:
            raise BadOption(
                f"{name} has {p.ndim} dimensions, in the base model {was.ndim}: build both by the same code"
            )
        given = next((r for pattern, r in (roles or {}).items() if fnmatch.fnmatch(name, pattern)), None)
        if untold and given is None and _block(name) in blocks:
            raise BadOption(
                f"at equal width the role of {name} that ½ needs cannot be told: give a narrower base, roles, or depth_exponent=1"
            )
        role, m_in, m_out = _role(name, owners[name], p, was, given)
        spread = _spread(was) if role in ("input", "hidden", "output") else 0.0
        std, lr = _rule(role, m_in, m_out, optimizer)
        scale = std * spread / _spread(p) if spread and _spread(p) and (m_in, m_out) != (1, 1) else 1.0
        if role in ("hidden", "vector") and _block(name) in blocks:
            lr *= depth ** (depth_exponent - 1)
        if name in ends:
            scale, lr = scale * depth**-depth_exponent, lr * depth**-depth_exponent
        rows.append(Row(name, role, tuple(p.shape), m_in, m_out, spread, scale, lr))
    return Widening(rows, optimizer)


def _block(name: str) -> str:
    """Its repeated block: the name up to its first number."""
    parts = name.split(".")
    at = next((i for i, x in enumerate(parts) if x.isdigit()), len(parts) - 1)
    return ".".join(parts[: at + 1])


def _rule(role: str, m_in: float, m_out: float, optimizer: str) -> tuple[float, float]:
    """(initial std over the base model's, learning rate over the base model's)."""
    std = {"hidden": m_in**-0.5, "output": 1 / m_in}.get(role, 1.0)
    if optimizer == "adam":
        return std, 1 / m_in if role in ("hidden", "output") else 1.0
    lr = {"input": m_out, "vector": m_out, "hidden": m_out / m_in, "output": 1 / m_in}
    return std, lr.get(role, 1.0)


def _role(name: str, owner: nn.Module, p: Tensor, was: Tensor, given: str | None) -> tuple[str, float, float]:
    """(role, m_in, m_out) by which dimensions grew, and by what the module's dimensions mean."""
    if given is not None and given not in ROLES:
        raise BadOption(f"{given!r} is no role of {name}; {near(given, ROLES)}")
    grew = [a / b for a, b in zip(p.shape, was.shape, strict=True)]
    wide = [i for i, g in enumerate(grew) if g != 1]
    most = max(grew, default=1.0)
    if given is not None:
        m_in = (grew[1] if len(wide) == 2 else most) if given in ("hidden", "output") else 1.0
        return given, m_in, most if given in ("input", "hidden", "vector") else 1.0
    if not wide:
        return "fixed", 1.0, 1.0
    if p.ndim == 1:
        return "vector", 1.0, most
    if isinstance(owner, nn.Embedding | nn.EmbeddingBag) and wide == [1]:
        return "input", 1.0, most
    if isinstance(owner, nn.modules.conv._ConvTransposeNd):
        grew[0], grew[1] = grew[1], grew[0]
        wide = [i for i, g in enumerate(grew) if g != 1]
    if len(wide) == 2:
        return "hidden", grew[1], grew[0]
    told = isinstance(owner, LINEAR) or (isinstance(owner, nn.MultiheadAttention) and p.ndim == 2)
    if len(wide) == 1 and told and wide[0] < 2:
        return ("input", 1.0, most) if wide == [0] else ("output", most, 1.0)
    raise BadOption(
        f"{name} {tuple(p.shape)} was {tuple(was.shape)}: whether it is an input or an output of the width can not be told from a "
        f"{type(owner).__name__}; say roles={{{name!r}: 'input'}} or 'output'"
    )


def _spread(p: Tensor) -> float:
    """The standard deviation of its entries; 0 for constants."""
    x = p.detach().double()
    std = float(x.std()) if x.numel() > 1 else 0.0
    if not math.isfinite(std):
        raise BadOption("a parameter of the model is NaN or infinite before training")
    return std


def _untied(model: nn.Module) -> None:
    seen: dict[int, str] = {}
    for name, p in model.named_parameters(remove_duplicate=False):
        if id(p) in seen:
            raise BadOption(
                f"{name} is tied to {seen[id(p)]}: as an input it keeps its spread, as an output it is divided by the width; untie them"
            )
        seen[id(p)] = name
