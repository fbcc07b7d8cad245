"""The best denoiser that sees only a patch around each pixel: the posterior mean over the patches of a training set."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad, unfold

BORDERS = ("zeros", "circular")


def local_denoise(
    noisy: Tensor, data: Tensor, *, patch: int, signal: float, border: str = "zeros", shared: bool = True, chunk: int = 2**20
) -> Tensor:  # fmt: skip
    """The clean image that the equivariant local score machine expects behind each noisy one, (m, c, h, w).

        x̂_i = Σ_p w_p p_centre / Σ_p w_p        w_p = exp(−|y_patch(i) − a p|² / 2(1 − a²))        y = a x + √(1 − a²) ε
        score (a x̂ − y) / (1 − a²)              noise ε̂ = (y − a x̂) / √(1 − a²)

    p runs over the patches (side `patch`, all channels) of `data` at every place that looks the same to a network with this border:
    with zeros outside, a patch that hangs over the edge shows how far the edge is, so its place along that axis is its own class and
    the places inside share one; with a circular border all places share one. `shared=False`: each place has only its own patches (the
    local machine without equivariance). A patch of 2 max(h, w) − 1 or more with zeros sees the whole image from every place: the ideal
    machine, which remembers the training images.
    Args: noisy (m, c, h, w); data (n, c, h, w); patch, odd, in pixels; signal a, between 0 and 1 (√ᾱ); chunk, how many
    weights are in memory at once.
    Err: none, exact up to rounding.
    Raises `ValueError` for an even or non-positive patch, a signal outside (0, 1), another border, images of other shapes.
    Ref: Kamb and Ganguli, arXiv:2412.20292, sections 3 and 4.

    >>> data = torch.tensor([[[[1.0]]], [[[-1.0]]]])  # one pixel, two values: x̂ = tanh(a y / (1 − a²))
    >>> round(float(local_denoise(torch.ones(1, 1, 1, 1), data, patch=1, signal=0.6)), 4), round(float(torch.tensor(0.6 / 0.64).tanh()), 4)
    (0.7341, 0.7341)
    """
    if patch < 1 or patch % 2 == 0:
        raise ValueError(f"patch is an odd number of pixels, got {patch}")
    if not 0 < signal < 1:
        raise ValueError(f"signal is a number between 0 and 1, got {signal}")
    if border not in BORDERS:
        raise ValueError(f"border is one of {BORDERS}, got {border!r}")
    if noisy.ndim != 4 or data.ndim != 4 or noisy.shape[1:] != data.shape[1:] or not len(data):
        raise ValueError(f"noisy and data are images (m, c, h, w), got {tuple(noisy.shape)} and {tuple(data.shape)}")
    (_, c, h, w), variance = noisy.shape, 1 - signal**2
    if border == "circular" and patch > min(h, w):
        raise ValueError(f"a patch of {patch} pixels goes around an image of {h} x {w}")
    seen, known = _patches(noisy, patch, border), _patches(data, patch, border)  # (m, h w, c patch²)
    out = torch.empty(len(noisy), h * w, c, dtype=noisy.dtype, device=noisy.device)
    for places in _classes(h, w, patch, border, shared):
        at = torch.tensor(places, device=noisy.device)
        p = signal * known[:, at].flatten(0, 1)
        centre = data.flatten(2)[:, :, at].permute(0, 2, 1).reshape(-1, c)
        prior = -p.square().sum(1) / (2 * variance)
        if patch == 1:  # pixels repeat where patches do not: each value once, with how often it comes
            centre, counts = torch.unique(centre, dim=0, return_counts=True)
            p = signal * centre
            prior = counts.log() - p.square().sum(1) / (2 * variance)
        asked = seen[:, at].flatten(0, 1)
        means = [
            torch.softmax(torch.addmm(prior, q, p.T, alpha=1 / variance), 1) @ centre
            for q in asked.split(max(1, chunk // len(p)))
        ]
        out[:, at] = torch.cat(means).view(len(noisy), len(places), c)
    return out.transpose(1, 2).reshape(noisy.shape)


def _patches(images: Tensor, patch: int, border: str) -> Tensor:
    """(m, h w, c patch²)."""
    r = patch // 2
    around = pad(images, (r,) * 4, mode="constant" if border == "zeros" else "circular") if r else images
    return unfold(around, patch).transpose(1, 2)


def _classes(h: int, w: int, patch: int, border: str, shared: bool) -> Iterator[list[int]]:
    """Places (row w + column) that share their patches."""
    r = patch // 2
    groups: dict[object, list[int]] = {}
    for i in range(h):
        for j in range(w):
            edge = (min(i, r), min(h - 1 - i, r), min(j, r), min(w - 1 - j, r)) if border == "zeros" else ()
            groups.setdefault(edge if shared else (i, j), []).append(i * w + j)
    yield from groups.values()
