"""Scanned digits as studies take them, in one shuffled order."""

from functools import cache

import numpy as np
import torch
from torch import Tensor

ORDER = 0  # the seed of the shuffle


@cache
def drawn() -> tuple[Tensor, Tensor]:
    """Pixels (1797, 8, 8) as they were scanned, in `standardised`'s order, all moved and divided by two numbers to mean 0 and
    variance 1; labels (1797,). Raises `ModuleNotFoundError` without scikit-learn.

    >>> pixels, labels = drawn()
    >>> tuple(pixels.shape), abs(round(float(pixels.mean()), 3)), round(float(pixels.var()), 2)
    ((1797, 8, 8), 0.0, 1.0)
    """
    images, labels = _shuffled()
    pixels = torch.from_numpy(images).float().view(-1, 8, 8)
    return (pixels - pixels.mean()) / pixels.std(), torch.from_numpy(labels).long()


@cache
def standardised() -> tuple[Tensor, Tensor]:
    """Pixels (1797, 64), each centred and all divided by one number so that their variance is 1; labels (1797,).

    Raises `ModuleNotFoundError` without scikit-learn, which `strobe[demo]` brings.

    >>> pixels, labels = standardised()
    >>> tuple(pixels.shape), round(float(pixels.var()), 2)
    ((1797, 64), 1.0)
    """
    images, labels = _shuffled()
    pixels = torch.from_numpy(images).float()
    pixels -= pixels.mean(0)
    return pixels / pixels.std(), torch.from_numpy(labels).long()


def _shuffled() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as e:
        raise ModuleNotFoundError(
            "this study needs scikit-learn for its digits: pip install 'scikit-learn>=1.4,<2'", name=e.name
        ) from e
    found = load_digits()
    order = np.random.default_rng(ORDER).permutation(len(found.target))
    return found.data[order], found.target[order]
