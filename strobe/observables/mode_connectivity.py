"""How high the loss rises on the straight line between two networks, before and after their units are matched."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from strobe.core.cards import observable
from strobe.core.data import count, rows
from strobe.core.errors import BadOption, Diverged
from strobe.core.reading import Reading
from strobe.core.site import Site
from strobe.core.snapshot import Snapshot

FOLDS = 10
ROUNDS = 50  # of matching, which ends by itself after about ten


@observable(symbol="barrier", of="pair", cost="points forward passes, twice with match", ref="arXiv:2209.04836")
def mode_connectivity(
    snap: Snapshot, *, other: Snapshot, match: Sequence[str] | None = None, points: int = 11, seed: int = 0
) -> Reading:
    """The loss barrier between two networks of one shape; with `match`, an array: (as they are, after matching).

        barrier = max over t of  L(θ_t) − (1 − t) L(θ₀) − t L(θ₁),    θ_t = (1 − t) θ₀ + t θ₁,  on the data of `snap`

    Args: other, the second network; match, module paths of the linear layers of a perceptron in order ("0", "2", "4"): the hidden units
    between them are permuted in the second network so that Σ ⟨W₀, W₁⟩ is largest, layer by layer in random order until
    nothing changes (linear assignment), which leaves its function as it is: that is checked; points on the line, at least 3.
    Err: one standard error by a jackknife over ten folds of the data at the highest point; it leaves out the grid and the matching.
    `how` has the loss curves and `how["moved"]`, the share of units that changed place.
    Regime: the loss a mean over examples; no layer between the matched ones but elementwise functions. Statistics of batch norm
    stay those of `snap`.
    Raises `BadOption` for other shapes, or layers whose permutation changes the function; `SiteNotFound`, `Diverged`.
    Ref: Ainsworth, Hayase and Srinivasa, arXiv:2209.04836, section 3.2 (weight matching), 2.2 (barrier).

    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    >>> twin = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))
    >>> order = torch.tensor([2, 0, 3, 1])
    >>> state = net.state_dict()
    >>> turned = {"0.weight": state["0.weight"][order], "0.bias": state["0.bias"][order], "2.weight": state["2.weight"][:, order]}
    >>> _ = twin.load_state_dict({**turned, "2.bias": state["2.bias"]})
    >>> x = torch.randn(50, 2)
    >>> a, b = (Snapshot(n, lambda m, d: (m(d) - 1).square().mean(), x) for n in (net, twin))
    >>> got = mode_connectivity(a, other=b, match=["0", "2"])
    >>> got.how["moved"], bool(abs(got.value[1]) < 1e-5)
    (1.0, True)
    """
    if points < 3:
        raise BadOption(f"points on the line is at least 3, got {points}")
    if count(snap.data) < FOLDS:
        raise BadOption(f"the error is over {FOLDS} folds of the data, which have {count(snap.data)} examples")
    first, second = snap.params(), other.params()
    odd = [n for n in {**first, **second} if n not in first or n not in second or first[n].shape != second[n].shape]
    if odd:
        raise BadOption(f"the networks differ in shape at {odd[0]!r}, so there is no line between them")
    value, err, curve = _barrier(snap, first, second, points)
    how: dict[str, Any] = {"curve": curve, "points": points}
    if match is None:
        return Reading(value, err, "loss", how)
    turned, moved = matched(first, second, _layers(snap, match), seed)
    with torch.no_grad(), snap.quiet():
        before, after = (float(replace(other, data=snap.data).loss_at(p)) for p in (second, turned))
    if abs(after - before) > 1e-3 * abs(before) + 1e-5:
        raise BadOption(
            f"permuting the units between {list(match)} changes the loss from {before:.5g} to {after:.5g}: something else than "
            "elementwise functions lies between these layers, or a layer is missing"
        )
    after_value, after_err, after_curve = _barrier(snap, first, turned, points)
    how |= {"matched": after_curve, "moved": moved}
    return Reading(np.array([value, after_value]), np.array([err, after_err]), "loss", how)


def _barrier(
    snap: Snapshot, first: dict[str, Tensor], second: dict[str, Tensor], points: int
) -> tuple[float, float, list[float]]:
    n = count(snap.data)
    edges = np.linspace(0, n, FOLDS + 1).astype(int)
    parts = [rows(snap.data, int(a), int(b)) for a, b in pairwise(edges)]
    share = np.diff(edges) / n
    t = np.linspace(0, 1, points)
    losses = np.empty((points, FOLDS))
    with torch.no_grad(), snap.quiet():
        for i, at in enumerate(t.tolist()):
            here = {k: torch.lerp(first[k], second[k], at) for k in first}
            losses[i] = [float(replace(snap, data=part).loss_at(here)) for part in parts]
    if not np.isfinite(losses).all():
        raise Diverged("the loss on the line between the networks is not finite")
    above = losses - (1 - t)[:, None] * losses[0] - t[:, None] * losses[-1]  # (points, folds)
    mean = above @ share
    top = int(mean.argmax())
    left = np.array([(mean[top] - share[f] * above[top, f]) / (1 - share[f]) for f in range(FOLDS)])
    err = float(np.sqrt((FOLDS - 1) / FOLDS * np.square(left - left.mean()).sum()))
    return float(mean[top]), err, (losses @ share).tolist()


def _layers(snap: Snapshot, match: Sequence[str]) -> list[tuple[str, str | None]]:
    """(weight, bias) names of the layers. Raises `BadOption`, `SiteNotFound`."""
    if isinstance(match, str) or len(match) < 2:
        raise BadOption(f"match names at least two linear layers in order, got {match!r}")
    params, names = snap.params(), []
    for path in match:
        Site.parse(path).module(snap.model)
        if f"{path}.weight" not in params or params[f"{path}.weight"].ndim != 2:
            raise BadOption(f"{path} is no linear layer with a trainable weight matrix")
        names.append((f"{path}.weight", f"{path}.bias" if f"{path}.bias" in params else None))
    for (a, _), (b, _) in pairwise(names):
        if params[a].shape[0] != params[b].shape[1]:
            raise BadOption(
                f"{a} gives {params[a].shape[0]} units and {b} takes {params[b].shape[1]}: not one after the other"
            )
    return names


def matched(
    first: dict[str, Tensor], second: dict[str, Tensor], layers: Sequence[tuple[str, str | None]], seed: int = 0
) -> tuple[dict[str, Tensor], float]:
    """(the second network with its hidden units permuted towards the first, the share of units that moved)."""
    now, g = dict(second), torch.Generator().manual_seed(seed)
    hidden = len(layers) - 1
    places = [torch.arange(first[layers[i][0]].shape[0]) for i in range(hidden)]
    for _ in range(ROUNDS):
        still = True
        for i in torch.randperm(hidden, generator=g).tolist():
            (w, b), (after, _) = layers[i], layers[i + 1]
            gain = first[w].flatten(1) @ now[w].flatten(1).T + first[after].T @ now[after]
            if b is not None:
                gain = gain + torch.outer(first[b], now[b])
            order = torch.from_numpy(linear_sum_assignment(gain.double().cpu().numpy(), maximize=True)[1]).to(
                now[w].device
            )
            if bool((order != torch.arange(len(order), device=order.device)).any()):
                still = False
                now[w], now[after], places[i] = now[w][order], now[after][:, order], places[i][order.cpu()]
                if b is not None:
                    now[b] = now[b][order]
        if still:
            break
    moved = torch.cat([p != torch.arange(len(p)) for p in places]).double().mean()
    return now, float(moved)
