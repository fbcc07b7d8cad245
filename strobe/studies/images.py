"""Scanned digits as studies of scale take them: standardised, in one shuffled order."""

from functools import cache

import numpy as np
import torch
from torch import Tensor

ORDER = 0  # the seed of the shuffle


@cache
def standardised() -> tuple[Tensor, Tensor]:
    """Pixels (1797, 64), each centred and all divided by one number so that their variance is 1; labels (1797,).

    Raises `ModuleNotFoundError` without scikit-learn, which `strobe[demo]` brings.

    >>> pixels, labels = standardised()
    >>> tuple(pixels.shape), round(float(pixels.var()), 2)
    ((1797, 64), 1.0)
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as e:
        raise ModuleNotFoundError(
            "this study needs scikit-learn for its digits: pip install 'scikit-learn>=1.4,<2'", name=e.name
        ) from e
    found = load_digits()
    order = np.random.default_rng(ORDER).permutation(len(found.target))
    pixels = torch.from_numpy(found.data[order]).float()
    pixels -= pixels.mean(0)
    return pixels / pixels.std(), torch.from_numpy(found.target[order]).long()
