"""How many directions a representation or a weight matrix uses, and what sticks out of a random matrix."""

from collections.abc import Sequence

import numpy as np
import torch

from strobe.core.cards import observable
from strobe.core.errors import BadOption, Diverged
from strobe.core.reading import Reading
from strobe.core.site import Site
from strobe.core.snapshot import Snapshot
from strobe.core.tap import tap

FOLDS = 10
SPECTRUM = ("effective rank", "stable rank", "largest / edge", "outliers")


@observable(symbol="erank", of="snapshot", cost="1 forward pass", ref="")
def effective_rank(snap: Snapshot, *, sites: Sequence[str]) -> Reading:
    """Effective rank of the features (centred) or of the weight matrix at each site; an array, one a site.

        erank = exp(−Σ p_i ln p_i),    p_i = σ_i / Σ σ,  σ the singular values

    Args: sites of activations ("layers.2": rows are all leading dimensions flattened) or of parameters ("layers.2:param.weight").
    Err: of features one standard error, a jackknife over ten folds of the rows; of weights 0, for there is nothing random.
    Regime: at least 40 rows; the rank of few rows is limited by their number (`how["rows"]`).
    Raises `BadOption`, `SiteNotFound`, `Diverged`.
    Ref: Roy and Vetterli 2007 (EUSIPCO), definition 1.

    >>> net = torch.nn.Linear(4, 4, bias=False)
    >>> _ = torch.nn.init.eye_(net.weight)
    >>> round(float(effective_rank(Snapshot(net, None, None), sites=[":param.weight"]).value[0]), 4)
    4.0
    """
    if isinstance(sites, str) or not sites:
        raise BadOption(f"sites is a list of at least one site, got {sites!r}")
    parsed = [Site.parse(s) for s in sites]
    acts = [s for s in parsed if s.part != "param"]
    seen: dict[str, torch.Tensor] = {}
    if acts:
        with snap.quiet() as model, torch.no_grad(), tap(model, acts) as tapped:
            snap.loss(model, snap.data)
        seen = dict(tapped)
    values, errs, counts = [], [], []
    for site in parsed:
        if site.part == "param":
            w = _matrix(site.view(site.parameter(snap.model).detach()), str(site))
            values.append(_erank(w))
            errs.append(0.0)
        else:
            h = _matrix(seen[str(site)], str(site))
            if len(h) < 4 * FOLDS:
                raise BadOption(f"{site} has {len(h)} rows; at least {4 * FOLDS} are needed for an error")
            fold = np.arange(len(h)) % FOLDS
            left = np.array([_erank(h[fold != f] - h[fold != f].mean(0)) for f in range(FOLDS)])
            values.append(_erank(h - h.mean(0)))
            errs.append(float(np.sqrt((FOLDS - 1) / FOLDS * np.square(left - left.mean()).sum())))
            w = h
        counts.append(len(w))
    return Reading(np.array(values), np.array(errs), "directions", {"labels": list(map(str, parsed)), "rows": counts})


@observable(symbol="σ(W)", of="snapshot", cost="one singular value decomposition a matrix", ref="arXiv:1810.01075")
def weight_spectrum(snap: Snapshot, *, matrices: Sequence[str] | None = None) -> Reading:
    """Four numbers of each weight matrix, an array (matrices, 4); `how["columns"]` names them.

        effective rank exp(−Σ p ln p),  stable rank Σσ² / σ₁²,  σ₁ / edge,  how many σ lie above 1.05 edge
        edge = s (√n + √m)      where the largest singular value of n x m independent entries of variance s² lies

    s² is read off the median of σ², which outliers do not move, by the median of the Marchenko-Pastur law.
    Args: matrices, parameter names ("layers.0.weight"), by default all trainable ones of two dimensions with both above 7; more
    dimensions are flattened to rows of the first.
    Err: 0: nothing random enters; the spread is that over seeds of training. Regime: matrices large enough for an edge, above 7 x 7.
    Raises `BadOption`, `Diverged`. Ref: Martin and Mahoney, arXiv:1810.01075, section 3; Marchenko and Pastur 1967.

    >>> net = torch.nn.Linear(200, 100, bias=False)
    >>> _ = net.weight.data.copy_(torch.randn(100, 200, generator=torch.Generator().manual_seed(0)))
    >>> got = weight_spectrum(Snapshot(net, None, None)).value[0]
    >>> bool(0.95 < got[2] < 1.03), float(got[3])
    (True, 0.0)
    """
    params = snap.params()
    names = [n for n, p in params.items() if p.ndim == 2 and min(p.shape) > 7] if matrices is None else list(matrices)
    if bad := [n for n in names if n not in params or params[n].ndim < 2]:
        raise BadOption(
            f"{bad[0]!r} is no trainable matrix; there are {[n for n, p in params.items() if p.ndim > 1][:8]}"
        )
    if not names:
        raise BadOption("no trainable matrix above 7 x 7: name some with matrices=[...]")
    values = np.stack([_spectrum(_matrix(params[n], n, rows=True)) for n in names])
    return Reading(values, np.zeros_like(values), "", {"labels": names, "columns": list(SPECTRUM)})


def _matrix(x: torch.Tensor, what: str, *, rows: bool = False) -> np.ndarray:
    if x.ndim < 2:
        raise BadOption(f"{what} has shape {tuple(x.shape)}: a matrix or more is needed")
    flat = (x.flatten(1) if rows else x.reshape(-1, x.shape[-1])).detach().double().cpu().numpy()
    if not np.isfinite(flat).all():
        raise Diverged(f"{what} has entries that are NaN or infinite")
    return flat


def _erank(x: np.ndarray) -> float:
    sigma = np.linalg.svd(x, compute_uv=False)
    p = sigma / max(float(sigma.sum()), 1e-300)
    return float(np.exp(-(p[p > 0] * np.log(p[p > 0])).sum()))


def _spectrum(w: np.ndarray) -> np.ndarray:
    n, m = max(w.shape), min(w.shape)
    sigma = np.linalg.svd(w, compute_uv=False)
    s2 = float(np.median(sigma**2)) / (n * _median_mp(m / n))
    edge = (s2**0.5) * (n**0.5 + m**0.5)
    above = float((sigma > 1.05 * edge).sum())
    return np.array(
        [_erank(w), float((sigma**2).sum() / max(sigma[0] ** 2, 1e-300)), sigma[0] / max(edge, 1e-300), above]
    )


def _median_mp(ratio: float) -> float:
    """The median of the Marchenko-Pastur law of unit variance and aspect ratio <= 1."""
    low, high = (1 - ratio**0.5) ** 2, (1 + ratio**0.5) ** 2
    x = low + (high - low) * (1 - np.cos(np.linspace(0, np.pi, 4001))) / 2
    y = np.sqrt(np.maximum((x - low) * (high - x), 0)) / np.maximum(x, 1e-12)
    mass = np.concatenate([[0], np.cumsum((y[1:] + y[:-1]) / 2 * np.diff(x))])
    return float(np.interp(0.5, mass / mass[-1], x))
