"""The directions in which what a site carries varies most: what one can turn up, down or off there."""

from typing import Any

import torch
from torch import Tensor

from strobe.app.look_parts import Kit, num, nums
from strobe.core.errors import BadOption
from strobe.core.site import Site
from strobe.core.snapshot import Snapshot
from strobe.core.tap import tap

WIDEST = 4096  # features: the eigenvectors of such a covariance take 11 s, and an edit carries as many numbers
AT_ONCE = 4096  # rows of which a double copy is made
NOISE = 1e-10  # share of the variance below which a component is rounding


def directions(snap: Snapshot, kit: Kit, *, site: str, most: int = 5) -> dict[str, Any]:
    """The principal components of what a site carries over the whole probe: the eigenvectors of its covariance.

        C = (1/n) Σ (x − x̄)(x − x̄)ᵀ;   explained = λ / tr C

    Rows are all but the last dimension (examples, tokens, and each call of a module that is called more than once),
    features the last. Each direction has length 1, and its largest entry is positive. Components below 1e-10 of the
    variance are rounding, and left out. Regime: a component is a direction of large variance, not of large effect, and
    those of close shares mix freely; what one does to the loss is the look `dose` with edit="scale_direction".
    Raises `BadOption` for more than 4096 features, fewer than two rows, or activations that are not finite or all alike.
    """
    if isinstance(most, bool) or not isinstance(most, int) or not 1 <= most <= 50:
        raise BadOption(f"most is 1 to 50 directions, got {most!r}")
    at = Site.parse(site)
    if at.part != "param":
        at.module(snap.model)
    with snap.quiet() as model, torch.no_grad(), tap(model, [at]) as got:
        if at.part != "param":
            snap.loss(model, snap.data)
        x = _rows(at, got.every.get(str(at)) or [got[str(at)]])
        mean, values, vectors = _components(at, x)
    total, middle = values.sum(), nums(mean)
    kept = [i for i in range(min(most, len(values))) if values[i] > NOISE * total]
    return {
        "site": str(at),
        "directions": [
            {
                "name": f"PC {i + 1}",
                "direction": nums(_signed(vectors[:, i])),
                "explained": num(values[i] / total),
                "mean": middle,
            }
            for i in kept
        ],
        "rows": len(x),
        "features": x.shape[1],
        "how": f"principal components of {len(x)} centred rows: "
        + ("those of the parameter" if at.part == "param" else "every token of every example of the probe"),
    }


def _rows(at: Site, found: list[Tensor]) -> Tensor:
    shapes = sorted({tuple(x.shape) for x in found})
    if any(x.ndim < 2 or x.is_complex() for x in found) or len({x.shape[-1] for x in found}) > 1:
        raise BadOption(f"{at}: directions need rows of features; the tensors there have shapes {shapes}")
    features = found[0].shape[-1]
    if features > WIDEST:
        raise BadOption(f"{at} has {features} features; directions are looked for among at most {WIDEST}")
    x = torch.cat([x.reshape(-1, features) for x in found]).cpu()
    if len(x) < 2 or not x.numel():
        raise BadOption(f"{at}: directions need at least two rows; the tensors there have shapes {shapes}")
    if not x.isfinite().all():
        raise BadOption(f"the activations at {at} are not all finite")
    return x


def _components(at: Site, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variances (the largest first) and their unit directions (columns), in double."""
    parts = x.split(AT_ONCE)
    mean = torch.stack([p.double().sum(0) for p in parts]).sum(0) / len(x)
    cov = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for p in parts:
        centred = p.double() - mean
        cov.addmm_(centred.T, centred)
    values, vectors = torch.linalg.eigh(cov / len(x))
    values = values.clamp_min(0).flip(0)
    if not values.sum() > 1e-14 * mean.square().sum():  # rounding of the mean; also where all are 0
        raise BadOption(f"what {at} carries does not vary over the probe: there is no direction to find")
    return mean, values, vectors.flip(1)


def _signed(v: Tensor) -> Tensor:
    """With its largest entry positive; of entries alike but for rounding, the first counts."""
    at = int((v.abs() >= v.abs().max() * (1 - 1e-6)).int().argmax())
    return v if v[at] > 0 else -v
