"""Do two networks see the same examples alike: more than two untrained ones of their kind?"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import nn

from strobe.core.cards import observable
from strobe.core.errors import BadOption, Diverged
from strobe.core.reading import Reading
from strobe.core.site import Site
from strobe.core.snapshot import Snapshot
from strobe.core.tap import tap
from strobe.numerics.similarity import shared_neighbours, unbiased_cka

FOLDS = 10
Pair = tuple[Snapshot, Snapshot]


@observable(symbol="CKA excess", of="pair", cost="2 + 2 nulls forward passes", ref="arXiv:1905.00414")
def cka(
    snap: Snapshot,
    *,
    other: Snapshot,
    sites: Sequence[str],
    untrained: Sequence[Pair] | None = None,
    nulls: int = 4,
    seed: int = 0,
) -> Reading:
    """Unbiased linear CKA between the features of two networks, above that of untrained pairs; an array, one a site.

        CKA = HSIC(K, L) / √(HSIC(K, K) HSIC(L, L)),  K = X Xᵀ, L = Y Yᵀ of centred features; HSIC without bias in n
        value = CKA(snap, other) − mean CKA(untrained pair)

    Wide untrained networks are alike already (0.94 at width 1024 on digits), so a raw CKA says little: it is in `how["raw"]`, the
    null's in `how["null"]`.
    Args: other, a snapshot on the same data; sites of both networks, or "a|b" for a of the first and b of the second, features
    flattened to one row for each example; untrained pairs of the same two kinds, by default `nulls` of them made by
    `reset_parameters` of every module.
    Err: one standard error: a jackknife over ten folds of the examples and the spread between the null pairs.
    Regime: at least 40 examples. Raises `BadOption`, also where a module keeps parameters that it cannot draw again; `SiteNotFound`.
    Ref: Kornblith and others, arXiv:1905.00414; the unbiased estimator is Song and others 2012 (JMLR 13, 1393).

    >>> nets = [torch.nn.Sequential(torch.nn.Linear(4, 8)) for _ in range(2)]
    >>> x = torch.randn(100, 4)
    >>> a, b = (Snapshot(n, lambda m, d: m(d).sum(), x) for n in nets)
    >>> got = cka(a, other=a, sites=["0"])
    >>> round(got.how["raw"][0], 6), bool(got.value[0] < 1)
    (1.0, True)
    """
    return _excess(snap, other, sites, untrained, nulls, seed, _cka)


@observable(symbol="mkNN excess", of="pair", cost="2 + 2 nulls forward passes", ref="arXiv:2405.07987")
def mutual_neighbours(
    snap: Snapshot, *, other: Snapshot, sites: Sequence[str], k: int = 10, untrained: Sequence[Pair] | None = None, nulls: int = 4,
    seed: int = 0,
) -> Reading:  # fmt: skip
    """The share of each example's k nearest neighbours on which two networks agree, above untrained pairs; an array, one a site.

        value = mean_i |N_k(x_i) ∩ N_k(y_i)| / k  −  the same of an untrained pair         neighbours by cosine of centred features

    Args, `how`: as for `cka`; k, below a quarter of the examples. Two independent networks share k / (n − 1) by chance.
    Err: one standard error: over examples, and between the null pairs. Raises `BadOption`, `SiteNotFound`.
    Ref: Huh and others, arXiv:2405.07987, section 3 (mutual nearest-neighbour metric).

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8))
    >>> a = Snapshot(net, lambda m, d: m(d).sum(), torch.randn(100, 4))
    >>> round(mutual_neighbours(a, other=a, sites=["0"]).how["raw"][0], 6)
    1.0
    """

    def both(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
        if not 1 <= k < len(x) / 4:
            raise BadOption(f"k is at least 1 and below a quarter of the {len(x)} examples, got {k}")
        each = shared_neighbours(x, y, k)
        return float(each.mean()), float(each.std(ddof=1) / len(each) ** 0.5)

    return _excess(snap, other, sites, untrained, nulls, seed, both)


def _cka(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    fold = np.arange(len(x)) % FOLDS
    left = np.array([unbiased_cka(x[fold != f], y[fold != f]) for f in range(FOLDS)])
    return unbiased_cka(x, y), float(np.sqrt((FOLDS - 1) / FOLDS * np.square(left - left.mean()).sum()))


def _excess(
    snap: Snapshot, other: Snapshot, sites: Sequence[str], untrained: Sequence[Pair] | None, nulls: int, seed: int,
    measure: Callable[[np.ndarray, np.ndarray], tuple[float, float]],
) -> Reading:  # fmt: skip
    if isinstance(sites, str) or not sites:
        raise BadOption(f"sites is a list of at least one site, got {sites!r}")
    if untrained is None and nulls < 2:
        raise BadOption(f"nulls is at least 2 untrained pairs, whose spread is part of the error; got {nulls}")
    pairs = [(text.partition("|")[0], text.partition("|")[2] or text.partition("|")[0]) for text in sites]
    if untrained is None:
        drawn = [(fresh(snap, 2 * i + 1000 * seed), fresh(other, 2 * i + 1 + 1000 * seed)) for i in range(nulls)]
    else:
        drawn = list(untrained)
    if not drawn:
        raise BadOption("untrained is a list of at least one pair of snapshots")

    def of(a: Snapshot, b: Snapshot) -> np.ndarray:
        x, y = features(a, [p for p, _ in pairs]), features(b, [q for _, q in pairs])
        if len(x[0]) != len(y[0]) or len(x[0]) < 40:
            raise BadOption(f"both networks need the same examples, at least 40; got {len(x[0])} and {len(y[0])}")
        return np.array([measure(*xy) for xy in zip(x, y, strict=True)])  # (sites, 2)

    raw, null = of(snap, other), np.stack([of(a, b) for a, b in drawn])
    few = null[..., 0].std(0, ddof=1) / len(drawn) ** 0.5 if len(drawn) > 1 else 0.0
    err = np.sqrt(raw[:, 1] ** 2 + null[..., 1].mean(0) ** 2 + np.square(few))
    value = raw[:, 0] - null[..., 0].mean(0)
    if not np.isfinite(value).all():
        raise Diverged(f"features at step {snap.step} are constant or not finite, so they are like nothing")
    how = {"labels": list(sites), "raw": raw[:, 0].tolist(), "null": null[..., 0].mean(0).tolist(), "nulls": len(drawn)}
    return Reading(value, err, "", how)


def features(snap: Snapshot, sites: Sequence[str]) -> list[np.ndarray]:
    """What is at each site when the loss of the snapshot is computed, (examples, all the rest)."""
    with snap.quiet() as model, torch.no_grad(), tap(model, sites) as seen:
        snap.loss(model, snap.data)
    return [seen[str(Site.parse(s))].flatten(1).double().cpu().numpy() for s in sites]


def fresh(snap: Snapshot, seed: int) -> Snapshot:
    """The same network, every module's parameters drawn again by its own `reset_parameters`. Raises `BadOption`."""
    home = next(iter(snap.params().values()), torch.zeros(0)).device
    model: nn.Module = copy.deepcopy(
        snap.model
    ).cpu()  # drawn there: the same numbers everywhere, and no other random state moves
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for name, module in model.named_modules():
            own: dict[str, Any] = dict(module.named_parameters(recurse=False))
            reset = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
            if reset is not None:
                reset()
            elif own:
                raise BadOption(
                    f"{name or type(module).__name__} holds {next(iter(own))!r} and has no reset_parameters: give "
                    "untrained=[(snapshot, snapshot), ...], networks as they were before training"
                )
    return replace(snap, model=model.to(home))
