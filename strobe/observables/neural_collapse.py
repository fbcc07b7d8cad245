"""How far a classifier's last features have collapsed to one point for each class, and these to a simplex."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strobe.core.cards import observable
from strobe.core.errors import BadOption, Diverged
from strobe.core.reading import Reading
from strobe.core.site import Site
from strobe.core.snapshot import Snapshot
from strobe.core.tap import tap

FOLDS = 10
LABELS = ("NC1, within / between", "NC2, spread of cosines", "NC2, spread of norms", "NC3, not dual")


@observable(symbol="NC", of="snapshot", cost="1 forward pass", ref="arXiv:2008.08186")
def neural_collapse(
    snap: Snapshot,
    *,
    classifier: str,
    layer: str | None = None,
    labels: Callable[[Any], Tensor] | None = None,
) -> Reading:
    """Four numbers that are 0 at full collapse, an array (4,); `how["labels"]` names them.

        NC1    tr(Σ_W Σ_B⁺) / K                     Σ_W within, Σ_B between the K class means of the last features
        NC2    standard deviation of cos(μ_c, μ_c') over pairs, and of ‖μ_c‖ relative to its mean,   μ_c centred by the global mean
        NC3    ‖ Wᵀ/‖W‖ − M/‖M‖ ‖                 M = [μ_1 … μ_K], W the classifier's weight (K, d), Frobenius norms

    The mean cosine is −1/(K−1) to first order for any K centred means, trained or not, so it is not among them: its spread is.
    Args: classifier, module path of the last linear layer; layer, a site for the features, by default what goes into it; labels(data)
    -> (n,) whole numbers, by default data[1].
    Err: one standard error by a jackknife over ten folds of the examples (every tenth of each class).
    Regime: every class of the classifier occurs at least 10 times. Compare with an untrained network: its numbers are the null.
    Cost: one forward pass, in double precision from there. Raises `BadOption`, `SiteNotFound`, `Diverged`.
    Ref: Papyan, Han and Donoho, arXiv:2008.08186, section 3 (there NC2 and NC3 up to constant factors).

    >>> net = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Linear(3, 3, bias=False))
    >>> _ = net[1].weight.data.copy_(torch.eye(3) - 1 / 3)
    >>> x = torch.eye(3).repeat(20, 1) + 0.1 * torch.randn(60, 3, generator=torch.Generator().manual_seed(0))
    >>> snap = Snapshot(net, lambda m, d: torch.nn.functional.cross_entropy(m(d[0]), d[1]), (x, torch.arange(60) % 3))
    >>> bool((neural_collapse(snap, classifier="1").value < 0.1).all())
    True
    """
    site = Site.parse(layer if layer is not None else f"{classifier}:in")
    weight = Site.parse(f"{classifier}:param.weight").parameter(snap.model).detach()
    y = _labels(snap.data, labels)
    with snap.quiet() as model, torch.no_grad(), tap(model, [site]) as seen:
        snap.loss(model, snap.data)
    h = seen[str(site)]
    if weight.ndim != 2 or h.shape[-1] != weight.shape[1]:
        raise BadOption(
            f"{classifier} has a weight of shape {tuple(weight.shape)}, the features at {site} {tuple(h.shape)}"
        )
    h = h.reshape(-1, h.shape[-1])
    if len(h) != len(y):
        raise BadOption(
            f"{len(h)} features at {site} for {len(y)} labels: give labels=lambda data: ..., one for each row"
        )
    features, w, k = h.double().cpu().numpy(), weight.double().cpu().numpy(), len(weight)
    sizes = np.bincount(y, minlength=k)
    if y.min() < 0 or len(sizes) > k or sizes.min() < FOLDS:
        raise BadOption(f"each of the {k} classes must occur at least {FOLDS} times, got {sizes.tolist()}")
    if not np.isfinite(features).all():
        raise Diverged(f"neural_collapse at step {snap.step}: features at {site} are NaN or infinite")
    rank = np.empty(len(y), int)  # of an example within its class
    for c in range(k):
        rank[y == c] = np.arange(sizes[c])
    value = _collapse(features, y, w)
    left = np.stack([_collapse(features[rank % FOLDS != f], y[rank % FOLDS != f], w) for f in range(FOLDS)])
    err = np.sqrt((FOLDS - 1) / FOLDS * np.square(left - left.mean(0)).sum(0))
    how = {"labels": list(LABELS), "classes": k, "examples": len(y), "width": w.shape[1]}
    return Reading(value, err, "", how)


def _collapse(h: np.ndarray, y: np.ndarray, w: np.ndarray) -> np.ndarray:
    k = len(w)
    means = np.stack([h[y == c].mean(0) for c in range(k)])
    m = means - means.mean(0)
    within = h - means[y]
    # tr(Σ_W Σ_B⁺) from the between-space alone: Σ_B = mᵀ m / k
    values, vectors = np.linalg.eigh(m @ m.T / k)
    kept = values > 1e-12 * max(values.max(), 1e-300)
    axes = vectors[:, kept].T @ m / np.sqrt(k * values[kept])[:, None]  # orthonormal, (rank, d)
    scores = within @ axes.T
    nc1 = float((np.square(scores).mean(0) / values[kept]).sum() / k)
    norms = np.linalg.norm(m, axis=1)
    unit = m / np.maximum(norms, 1e-300)[:, None]
    cosines = (unit @ unit.T)[~np.eye(k, dtype=bool)]
    nc3 = np.linalg.norm(w / max(np.linalg.norm(w), 1e-300) - m / max(np.linalg.norm(m), 1e-300))
    return np.array([nc1, cosines.std(), norms.std() / max(norms.mean(), 1e-300), nc3])


def _labels(data: Any, labels: Callable[[Any], Tensor] | None) -> np.ndarray:
    try:
        y = labels(data) if labels else data[1]
    except (TypeError, KeyError, IndexError) as e:
        raise BadOption("the data have no second part to take labels from: give labels=lambda data: ...") from e
    if not isinstance(y, Tensor) or y.is_floating_point() or y.is_complex():
        raise BadOption(f"labels are a tensor of whole numbers, got {type(y).__name__}: give labels=lambda data: ...")
    return y.reshape(-1).cpu().numpy()
