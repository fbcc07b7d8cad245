"""The empirical tangent kernel of any network: how a step on one example moves the outputs of another."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from strobe.core.cards import observable
from strobe.core.data import count, rows
from strobe.core.errors import BadOption, Diverged, SiteNotFound, near
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot, keep_heap
from strobe.observables.tangent_factors import Forward, Tangents, inputs_of, outputs_of

ROUNDING = 32  # of err, in units of the last place; single precision against double was within 9 (tests)


@observable(
    symbol="Θ", of="snapshot", cost="a forward pass, a backward pass for each output, two products a layer", ref="arXiv:1806.07572"
)  # fmt: skip
def ntk(
    snap: Snapshot, *, outputs: str = "trace", parts: Mapping[str, Sequence[str] | str] | str | None = None, against: Any = None,
    forward: Forward | None = None, probes: int | None = None, memory: int = 1 << 30, way: str | None = None, seed: int = 0,
) -> Reading:  # fmt: skip
    """Inner products of the gradients of the outputs for all pairs of examples.

        Θ_ij = Σ_k ∂f_k(x_i)/∂θ · ∂f_k(x_j)/∂θ        "block": Θ_ikjl = ∂f_k(x_i)/∂θ · ∂f_l(x_j)/∂θ

    θ are all trainable parameters, f(x) the network on x as a batch of one, its k outputs whatever follows the first dimension.

    Args: outputs, "trace" (n, n) or "block" (n, k, n, k); parts, {name: patterns of parameter names}, or "modules": Θ of each part,
    (parts, ...), named in `how["labels"]`; against, other data: (n, m) between these and those; forward(model, data), the outputs
    (n, ...), default the model on the first element of the data; probes, of the trace: that many random directions of the outputs
    instead of all, for networks with thousands of them; memory, bytes that the factors may take; way, "plain" for no products.
    Err: rounding, 32 ε √(Θ_ii Θ_jj); with probes their standard error. Leaves out that the data stand for a population.
    Cost: `how["products"]` of the parameters, in linear layers, convolutions, embeddings and layer norms, cost one forward and k
    backward passes through activations, and Gram matrices of what each layer takes and gets back; the other `how["plain"]` have their
    gradients made.
    Regime: any differentiable module; ReLU counts as linear between its kinks. Half precision is refused.
    Raises `BadOption`, `SiteNotFound`; `Diverged` where a gradient is not finite.
    Ref: Jacot et al., arXiv:1806.07572, section 4; the contraction: Novak et al., arXiv:2206.08720, section 3. Departure: the trace is
    the sum over outputs, not their mean.

    >>> net = torch.nn.Linear(2, 1, bias=False)
    >>> ntk(Snapshot(net, None, torch.tensor([[1.0, 2.0], [0.0, 3.0]]))).value.tolist()
    [[5.0, 6.0], [6.0, 9.0]]
    """
    if outputs not in ("trace", "block") or way not in (None, "plain"):
        raise BadOption(f'outputs is "trace" or "block" and way "plain" or None, got {outputs!r} and {way!r}')
    if memory <= 0 or (probes is not None and (probes < 2 or outputs == "block")):
        raise BadOption(f"memory is > 0 bytes, and probes two or more, of the trace; got {memory} and {probes}")
    params = snap.params()
    if not params:
        raise BadOption(f"{type(snap.model).__name__} has no parameter with requires_grad: there is no tangent kernel")
    for k, p in params.items():
        if not p.is_floating_point() or p.element_size() < 4:
            raise BadOption(f"{k} is {str(p.dtype).removeprefix('torch.')}; measure copy.deepcopy(model).float()")
    data, other = inputs_of(snap.data, forward), None if against is None else inputs_of(against, forward)
    groups = _groups(params, parts)
    used = [k for k in params if any(k in names for names in groups.values())]
    keep_heap()
    with snap.quiet(), sdpa_kernel(SDPBackend.MATH):
        made = Tangents(snap, forward or outputs_of, data, used, plain=way == "plain")
        asked = (data, other, groups, outputs == "block", memory, probes, seed)
        try:
            value, spread, chunk = _kernel(made, *asked)
        except RuntimeError:
            if not made.spread:
                raise
            made.unspread()
            value, spread, chunk = _kernel(made, *asked)
    if not np.isfinite(value).all():
        raise Diverged(f"the tangent kernel at step {snap.step} is not finite: look at an earlier step")
    held = sum(params[k].numel() for k in used if k not in made.rest)
    how: dict[str, Any] = {
        "outputs": made.outputs, "examples": count(data), "together": chunk, "products": held,
        "plain": sum(params[k].numel() for k in made.rest),
    }  # fmt: skip
    if parts is None:
        value, spread = value[0], None if spread is None else spread[0]
    else:
        how["labels"] = list(groups)
    err = _rounding(value, outputs == "block", other is None, min(torch.finfo(params[k].dtype).bits for k in used))
    return Reading(value, err if spread is None else np.hypot(err, spread), "f²/θ²", how)


def _kernel(
    made: Tangents, data: Any, other: Any, groups: dict[str, list[str]], block: bool, memory: int, probes: int | None, seed: int
) -> tuple[np.ndarray, np.ndarray | None, int]:  # fmt: skip
    n, m, k = count(data), count(data if other is None else other), made.outputs
    first = next(iter(made.point.values()))
    if probes is None:
        cot, size = torch.eye(k, dtype=first.dtype, device=first.device), k
    else:
        draws = torch.randint(2, (probes, k), generator=torch.Generator().manual_seed(seed))
        cot, size = (2 * draws - 1).to(first), 1
    shape = (n, k, m, k) if block else (n, m)
    if (most := 8 * len(groups) * int(np.prod(shape))) > 4 * memory:
        raise BadOption(
            f"the kernel alone takes {most:,} bytes: raise memory={memory}, or ask for fewer examples or the trace"
        )
    together = max(n, m) * (1 if other is None else 2)
    if not block:  # of which all outputs are needed with all
        size = int(min(size, max((memory / together - made.kept) / made.each, 1)))
    chunk = int(min(max(n, m), max(memory / (2 * (made.kept + size * made.each)), 1)))
    chunk = max(n, m) if together * (made.kept + size * made.each) <= memory else chunk  # one tile needs no second
    out = np.zeros((len(groups), *shape))
    squares = np.zeros_like(out) if probes else None
    home = {name: [i for i, names in enumerate(groups.values()) if name in names] for name in made.names}
    parts = [slice(i, min(i + size, len(cot))) for i in range(0, len(cot), size)]
    for i in range(0, n, chunk):
        mine = made.on(rows(data, i, i + chunk))
        kept = mine.factors(cot) if len(parts) == 1 else None
        for j in range(0 if other is not None else i, m, chunk):
            same = other is None and j == i
            theirs = mine if same else made.on(rows(data if other is None else other, j, j + chunk))
            to, fro = slice(i, i + len(mine.out)), slice(j, j + len(theirs.out))
            for p in parts:
                f = mine.factors(cot[p]) if kept is None else kept
                h = f if same else theirs.factors(cot[p])
                where = (slice(None), to, slice(None), fro) if block else (slice(None), to, fro)
                got = np.zeros_like(out[where])
                for a, b in zip(f, h, strict=True):
                    for name, part in a.contract(b, block):
                        got[home[name]] += part.detach().double().cpu().numpy()
                out[where] += got
                if squares is not None:
                    squares[where] += got**2
            if other is None and not same:
                turned = (2, 3, 0, 1) if block else (1, 0)
                for grid in (out, squares):
                    if grid is not None:
                        for part in grid:
                            cell = part[to, :, fro] if block else part[to, fro]
                            part[(fro, slice(None), to) if block else (fro, to)] = cell.transpose(turned)
    if probes is None:
        return out, None, chunk
    assert squares is not None
    mean = out / probes
    return mean, np.sqrt(np.maximum(squares / probes - mean**2, 0) / (probes - 1)), chunk


def _rounding(value: np.ndarray, block: bool, square: bool, bits: int) -> np.ndarray:
    size = ROUNDING * np.finfo(np.float32 if bits <= 32 else np.float64).eps
    n = value.shape[-3] * value.shape[-4] if block else value.shape[-1]
    if not square:
        return np.full(value.shape, size * np.abs(value).max())
    flat = value.reshape(-1, n, n)
    long = np.sqrt(np.maximum(np.diagonal(flat, axis1=1, axis2=2), 0))
    return np.asarray((size * long[:, :, None] * long[:, None, :]).reshape(value.shape))


def _groups(params: dict[str, Tensor], parts: Mapping[str, Sequence[str] | str] | str | None) -> dict[str, list[str]]:
    if parts is None:
        return {"all": list(params)}
    found: dict[str, list[str]] = {}
    if isinstance(parts, str):
        if parts != "modules":
            raise BadOption(f'parts is "modules" or a mapping of names to patterns of parameters, got {parts!r}')
        for k in params:
            found.setdefault(k.rpartition(".")[0] or "(the model)", []).append(k)
        return found
    for label, patterns in parts.items():
        names: list[str] = []
        for text in [patterns] if isinstance(patterns, str) else patterns:
            hits = [k for k in params if fnmatchcase(k, text)]
            if not hits:
                raise SiteNotFound(f"part {label!r}: no trainable parameter matches {text!r}; {near(text, params)}")
            names += [k for k in hits if k not in names]
        found[label] = names
    if not found:
        raise BadOption('give at least one part, as {"first": "0.*"}')
    return found
