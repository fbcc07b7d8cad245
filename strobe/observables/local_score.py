"""Does a denoiser look only around each pixel, and is its output that of the local score machine?"""

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from strobe.core.cards import observable
from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot
from strobe.numerics.local_score import local_denoise


@observable(symbol="2r + 1", of="snapshot", cost="places backward passes, 3 forwards", ref="arXiv:2412.20292")
def receptive_field(snap: Snapshot, *, places: int = 64, seed: int = 0) -> Reading:
    """Side of the smallest square around an output pixel that holds every input pixel it depends on.

        r = max over output pixels i, input pixels j with ∂f_i/∂y_j ≠ 0 for some image of  max(|Δrow|, |Δcolumn|)

    Args: `snap.data` is the noisy images (m, c, h, w), or a tuple that begins with them and goes on with the model's other inputs;
    places, how many output pixels are looked at (all, where there are fewer), drawn by seed.
    Err: 0; a lower bound, that a dead path or a place not drawn can hide. how: `equivariance`, the largest
    |f(shifted y) − shifted f(y)| / std f over pixels whose square lies inside both images, for shifts by one row and one column (None
    where no pixel is that far from the border: then nothing tells whether the places share one rule).
    Regime: a model that autograd runs through; its output has the shape of its input.
    Raises `BadOption` for data that are not images or places < 1.
    Ref: Luo and others, arXiv:1701.04128 (there the effective one); its use here, arXiv:2412.20292.

    >>> net = torch.nn.Conv2d(1, 1, 3, padding=1)
    >>> receptive_field(Snapshot(net, None, torch.randn(2, 1, 6, 6))).value
    3.0
    """
    noisy, more = _images(snap.data)
    if places < 1:
        raise BadOption(f"receptive_field looks at one place or more, got {places}")
    m, _, h, w = noisy.shape
    at = np.random.default_rng(seed).permutation(h * w)[:places]
    rows, columns = torch.arange(h), torch.arange(w)
    with snap.quiet() as model:
        leaf = noisy.detach().clone().requires_grad_()
        out = _shaped(model(leaf, *more), noisy)
        r = 0
        for i, j in zip((at // w).tolist(), (at % w).tolist(), strict=True):
            (g,) = torch.autograd.grad(
                out[:, :, i, j].sum(), leaf, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            touched = (g != 0).any(0).any(0).cpu()
            far = torch.maximum((rows - i).abs()[:, None], (columns - j).abs()[None])
            r = max(r, int(far[touched].max()) if touched.any() else 0)
        with torch.no_grad():
            moved = [_shaped(model(noisy.roll(1, d), *more), noisy) for d in (2, 3)]
    defect = None
    if h > 2 * r + 1 and w > 2 * r + 1:  # a pixel and its neighbour, both with whole squares inside the image
        out, inner = out.detach(), lambda x: x[:, :, r + 1 : h - r, r + 1 : w - r]
        apart = [(inner(x) - inner(out.roll(1, d))).abs().max() for x, d in zip(moved, (2, 3), strict=True)]
        defect = float(torch.stack(apart).max() / out.std())
    return Reading(float(2 * r + 1), 0.0, "pixels", {"places": len(at), "images": m, "equivariance": defect})


@observable(symbol="r²", of="snapshot", cost="1 forward, images · pixels · patches", ref="arXiv:2412.20292")
def local_score_match(
    snap: Snapshot, *, data: Tensor, patch: int, signal: float, output: Literal["image", "noise", "score"] = "image",
    border: Literal["zeros", "circular"] = "zeros", shared: bool = True, draws: int = 200, seed: int = 0,
) -> Reading:  # fmt: skip
    """Median over images of r² between what a denoiser says the clean image is and what the local score machine says.

        r²_b = 1 − Σ_i (f_bi − g_bi)² / Σ_i (f_bi − mean_i f_bi)²        f the model's clean image, g that of `local_denoise`

    Args: `snap.data` the noisy images (m, c, h, w), or a tuple of them and the model's other inputs (times, levels);
    data, the clean training images (n, c, h, w); patch, in pixels; signal a, √ᾱ of these images; output, what the model returns: the
    clean image, the noise or the score, brought to the clean image by y = a x + √(1 − a²) ε; border and shared as in `local_denoise`.
    Err: bootstrap over images (draws) of the median; the network is taken as it is. how: `quartiles` of r² over images, and `beyond`,
    1 − Σ(f − g)² / Σ(f − mean image)² over all images, which is 0 for a machine that always says the mean of `data`: at high noise every
    denoiser says nearly that, and a high r² alone says little.
    Regime: one noise level; a model that does not read labels.
    Raises `BadOption` for images that do not fit, an even patch, another output.
    Ref: Kamb and Ganguli, arXiv:2412.20292, section 5.

    >>> x = torch.randn(20, 1, 5, 5)
    >>> machine = torch.nn.Identity()
    >>> machine.forward = lambda y: local_denoise(y, x, patch=3, signal=0.8)
    >>> local_score_match(Snapshot(machine, None, torch.randn(8, 1, 5, 5)), data=x, patch=3, signal=0.8).value
    1.0
    """
    noisy, more = _images(snap.data)
    if output not in ("image", "noise", "score"):
        raise BadOption(f"output is 'image', 'noise' or 'score', got {output!r}")
    if len(noisy) < 2 or draws < 2:
        raise BadOption(f"a spread over images needs at least two of them and two draws, got {len(noisy)} and {draws}")
    try:
        g = local_denoise(noisy, data, patch=patch, signal=signal, border=border, shared=shared)
    except ValueError as e:
        raise BadOption(str(e)) from e
    with snap.quiet() as model, torch.no_grad():
        f = _shaped(model(noisy, *more), noisy)
    a, s = signal, (1 - signal**2) ** 0.5
    f = {"image": f, "noise": (noisy - s * f) / a, "score": (noisy + s**2 * f) / a}[output]
    return agreement(f, g, data.mean(0), draws=draws, seed=seed)


def agreement(f: Tensor, g: Tensor, mean: Tensor, *, draws: int = 200, seed: int = 0) -> Reading:
    """Median over images of r² of g for f, with its bootstrap error; how: as `local_score_match`, around the image `mean`."""
    f, g = f.flatten(1).double().cpu(), g.flatten(1).double().cpu()
    rest = (f - g).square().sum(1)
    each = (1 - rest / (f - f.mean(1, keepdim=True)).square().sum(1)).numpy()
    picks = np.random.default_rng(seed).integers(0, len(each), (draws, len(each)))
    err = float(np.median(each[picks], 1).std(ddof=1))
    beyond = 1 - float(rest.sum() / (f - mean.flatten().double().cpu()).square().sum())
    low, high = np.quantile(each, [0.25, 0.75]).tolist()
    return Reading(float(np.median(each)), err, "r²", {"images": len(each), "quartiles": [low, high], "beyond": beyond})


def _images(data: Any) -> tuple[Tensor, tuple[Any, ...]]:
    noisy, *more = data if isinstance(data, tuple | list) else (data,)
    if not (isinstance(noisy, Tensor) and noisy.ndim == 4 and len(noisy)):
        raise BadOption("snap.data is images (m, c, h, w), or a tuple that begins with them")
    return noisy, tuple(more)


def _shaped(out: Tensor, noisy: Tensor) -> Tensor:
    if out.shape != noisy.shape:
        raise BadOption(
            f"a denoiser returns images of the shape it was given, {tuple(noisy.shape)}, got {tuple(out.shape)}"
        )
    return out
