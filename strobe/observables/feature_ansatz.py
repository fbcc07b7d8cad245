"""What a layer's weights amplify, beside what the network is sensitive to: the neural feature ansatz."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from strobe.core.cards import observable
from strobe.core.data import count, rows
from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot


@observable(symbol="cos(WᵀW, AGOP)", of="snapshot", cost="outputs backward passes", ref="arXiv:2212.13881")
def feature_ansatz(
    snap: Snapshot,
    *,
    layers: Sequence[str],
    outputs: str = "",
    chunks: int = 8,
    initial: dict[str, Tensor] | None = None,
) -> Reading:
    """Per layer the cosine of WᵀW with the average gradient outer product (AGOP) of the network's outputs, and with its root.

        AGOP = mean over examples of Σ_k ∇_h f_k ∇_h f_kᵀ,  h the layer's input;   cos(A, B) = tr(A B) / (‖A‖ ‖B‖)
        value (layers, 2): cos(WᵀW, AGOP), cos(WᵀW, AGOP^½)

    Args: layers, paths of linear layers (a weight of shape (out, in), input (..., in)); outputs, the path of the module whose output is f
    (the model itself by default), (examples, ..., K); chunks of examples, for the error; initial, {path: weight at the start}: then
    W is what was learned since, W − W_0 (the init-subtracted ansatz).
    Err: one standard error of the AGOP's draw, by the jackknife over chunks.
    Cost: K backward passes. Regime: examples apart from each other (eval mode).
    Raises `BadOption` for a module that is not there, is no linear layer or does not run, or for fewer than 4 chunks.
    Ref: Radhakrishnan et al., arXiv:2212.13881, equation 2; the root, Beaglehole et al., arXiv:2309.00570.

    >>> net = nn.Sequential(nn.Linear(3, 2, bias=False), nn.Linear(2, 1, bias=False))
    >>> snap = Snapshot(net, lambda m, x: m(x).sum(), torch.randn(16, 3))
    >>> w, v = (p.detach() for p in net.parameters())
    >>> a, g = w.T @ w, w.T @ v.T @ v @ w  # of a linear network the AGOP is known
    >>> bool(abs(feature_ansatz(snap, layers=["0"]).value[0, 0] - float((a * g).sum() / a.norm() / g.norm())) < 1e-5)
    True
    """
    known = dict(snap.model.named_modules())
    weights = {}
    for path in layers:
        if path not in known:
            raise BadOption(f"the model has no module {path!r}; there are {', '.join(list(known)[1:9])}")
        weight = getattr(known[path], "weight", None)
        if not isinstance(known[path], nn.Linear) or weight is None:
            raise BadOption(f"{path!r} is a {type(known[path]).__name__}: the ansatz is of linear layers")
        start = (initial or {}).get(path)
        weights[path] = (weight.detach() - (start if start is not None else 0)).double()
    if outputs not in known:
        raise BadOption(f"the model has no module {outputs!r} to take the outputs of")
    total = count(snap.data)
    if not 4 <= chunks <= total or not layers:
        raise BadOption(f"feature_ansatz needs a layer and 4 <= chunks <= {total} examples, got {chunks}")
    size = total // chunks
    parts = [agop(snap, rows(snap.data, i * size, (i + 1) * size), layers, outputs) for i in range(chunks)]
    value = _cosines(weights, _mean(parts))
    without = np.stack([_cosines(weights, _mean(parts[:i] + parts[i + 1 :])) for i in range(chunks)])
    err = np.sqrt((chunks - 1) * np.mean((without - without.mean(0)) ** 2, 0))
    return Reading(
        value, err, "cosine", {"layers": list(layers), "columns": ["AGOP", "AGOP^½"], "examples": size * chunks}
    )


def agop(snap: Snapshot, data: Any, layers: Sequence[str], outputs: str = "") -> dict[str, Tensor]:
    """{path: AGOP (in, in)} of these examples, in double precision. Raises `BadOption` for a layer that does not run."""
    known = dict(snap.model.named_modules())
    entered: dict[str, Tensor] = {}
    given: list[Tensor] = []

    def enter(path: str) -> Any:
        def keep(module: nn.Module, args: Any) -> Any:
            x = args[0] if args[0].requires_grad else args[0].detach().requires_grad_()
            entered[path] = x
            return (x, *args[1:])

        return keep

    hooks = [known[p].register_forward_pre_hook(enter(p)) for p in layers]
    hooks.append(known[outputs].register_forward_hook(lambda m, a, out: given.append(out)))
    try:
        with snap.quiet():
            snap.loss(snap.model, data)
            if missing := [p for p in layers if p not in entered]:
                raise BadOption(f"{missing[0]!r} does not run in the forward pass")
            if not given:
                raise BadOption(f"{outputs!r} does not run in the forward pass: there are no outputs to differentiate")
            f = given[-1].flatten(1) if given[-1].ndim > 1 else given[-1][:, None]
            out = {
                p: torch.zeros(x.shape[-1], x.shape[-1], dtype=torch.float64, device=x.device)
                for p, x in entered.items()
            }
            for k in range(f.shape[1]):
                got = torch.autograd.grad(f[:, k].sum(), list(entered.values()), retain_graph=True, allow_unused=True)
                for path, g in zip(entered, got, strict=True):
                    if g is not None:
                        flat = g.reshape(-1, g.shape[-1]).double()
                        out[path] += flat.T @ flat / len(f)
            return out
    finally:
        for h in hooks:
            h.remove()


def _mean(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {p: torch.stack([x[p] for x in parts]).mean(0) for p in parts[0]}


def _cosines(weights: dict[str, Tensor], of: dict[str, Tensor]) -> np.ndarray:
    table = []
    for path, w in weights.items():
        a, g = w.T @ w, of[path]
        size, axes = torch.linalg.eigh(g)
        root = (axes * size.clamp_min(0).sqrt()) @ axes.T
        table.append([float((a * b).sum() / (a.norm() * b.norm()).clamp_min(1e-300)) for b in (g, root)])
    return np.array(table)
