"""Do the branches of a residual network pull one way, or each its own?"""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from strobe.core.cards import observable
from strobe.core.errors import BadOption, Diverged
from strobe.core.reading import Reading
from strobe.core.site import Site
from strobe.core.snapshot import Snapshot
from strobe.core.tap import tap
from strobe.numerics.jackknife import jackknife

FOLDS = 10
COLUMNS = ("coherence", "cosine", "moved")


@observable(symbol="|Σb|²/Σ|b|²", of="snapshot", cost="1 or 2 forward passes", ref="arXiv:2309.16620")
def branch_coherence(
    snap: Snapshot, *, branches: Sequence[str], start: Mapping[str, Tensor] | None = None
) -> Reading:  # fmt: skip
    """Three numbers of what L branches add to a stream, an array (3,); `how["columns"]` names them.

        coherence   Σ_x |Σ_l b_l(x)|² / Σ_x Σ_l |b_l(x)|²       1 where they are orthogonal, L where all are one vector
        cosine      mean over l of Σ_x b_l·b_{l+1} / √(Σ_x |b_l|² Σ_x |b_{l+1}|²)      of successive ones
        moved       √(mean_x |Σ_l b_l(x)|² / d)                 the typical entry of what they add together

    Args: branches, sites of what each block adds, in order ("blocks.0.down"); start, parameters by name: b_l is then what was learned,
    the branch's output minus that of the same model with these parameters on the same data.
    Err: one standard error, a jackknife over ten folds of the rows (leading dimensions flattened).
    Regime: at least 40 rows. Raises `BadOption` for fewer than 2 branches, other widths, too few rows or names that `start` lacks;
    `SiteNotFound`, `Diverged`.
    Ref: Bordelon and others, arXiv:2309.16620, for the two limits.

    >>> net = torch.nn.Sequential(torch.nn.Identity(), torch.nn.Identity())
    >>> branch_coherence(Snapshot(net, lambda m, x: m(x).sum(), torch.randn(64, 3)), branches=["0", "1"]).value[:2].round(4).tolist()
    [2.0, 1.0]
    """
    if isinstance(branches, str) or len(branches) < 2:
        raise BadOption(f"branches is a list of at least two sites, got {branches!r}")
    sites = [Site.parse(b) for b in branches]
    if odd := [str(s) for s in sites if s.part == "param"]:
        raise BadOption(f"{odd[0]} is a parameter: a branch is the output of a module")
    b = _outputs(snap, sites, snap.params())
    if start is not None:
        if missing := [n for n in snap.params() if n not in start]:
            raise BadOption(f"start has no {missing[0]!r}: give all parameters of the model before training")
        b = b - _outputs(snap, sites, {n: start[n] for n in snap.params()})
    if b.shape[1] < 4 * FOLDS:
        raise BadOption(f"{b.shape[1]} rows; at least {4 * FOLDS} are needed for an error")
    if not np.isfinite(b).all():
        raise Diverged("a branch has outputs that are NaN or infinite")
    parts = np.stack([_moments(b[:, i::FOLDS]) for i in range(FOLDS)])
    layers, d = len(b), b.shape[2]

    def read(m: np.ndarray) -> np.ndarray:
        own, following = m[1 : 1 + layers], m[1 + layers :]
        cosine = (following / np.sqrt(np.maximum(own[:-1] * own[1:], 1e-300))).mean()
        return np.array([m[0] / max(own.sum(), 1e-300), cosine, (m[0] / d) ** 0.5])

    value, err = jackknife(parts, read)
    how = {"labels": list(map(str, sites)), "columns": list(COLUMNS), "rows": b.shape[1]}
    return Reading(np.asarray(value), np.asarray(err), "", how)


def _moments(b: np.ndarray) -> np.ndarray:
    """Means over rows of |Σ b|², of each |b_l|² and of b_l·b_{l+1}, (2 L,)."""
    together = np.square(b.sum(0)).sum(1).mean(keepdims=True)
    return np.concatenate([together, np.square(b).sum(2).mean(1), (b[:-1] * b[1:]).sum(2).mean(1)])


def _outputs(snap: Snapshot, sites: list[Site], params: Mapping[str, Tensor]) -> np.ndarray:
    """(branch, row, feature)."""
    with snap.quiet() as model, torch.no_grad(), tap(model, sites) as tapped:
        snap.loss_at(params)
    seen = [tapped[str(s)] for s in sites]
    if len({x.shape for x in seen}) != 1 or seen[0].ndim < 2:
        raise BadOption(f"branches add to one stream: outputs of one shape, got {sorted({tuple(x.shape) for x in seen})}")  # fmt: skip
    return np.stack([x.detach().double().flatten(0, -2).cpu().numpy() for x in seen])
