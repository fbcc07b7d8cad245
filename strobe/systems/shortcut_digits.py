"""Digits with a code beside them that tells the label: two ways to be right, of which a run may take either."""

import itertools
from math import log
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

from strobe.core.cards import system
from strobe.core.errors import BadOption
from strobe.core.system import System
from strobe.systems.digits import _load

Batch = tuple[Tensor, Tensor]


def with_code(images: Tensor, codes: Tensor) -> Tensor:
    """Images (n, 8, 8) and codes (n,) as inputs (n, 74): centred pixels, then ten pixels of which the code's is lit."""
    return torch.cat([images.flatten(1) - 0.3, one_hot(codes, 10).float()], 1)


@system(
    what="Digits with a shortcut: ten pixels that tell the label, and a knob for how often they are right",
    ref="arXiv:2211.08422",
)
def shortcut_digits(
    *, reliable: float = 1.0, destroyed: bool = False, width: int = 64, layers: int = 4, batch: int = 16, lr: float = 0.2,
    train_rows: int = 1200, split_seed: int = 0, shuffle: int = 0,
) -> System:  # fmt: skip
    """Mean cross-entropy, in nats, of a perceptron on digits with a code of the label beside them.

    Args: reliable, the share of training rows whose code is the label's, the others' drawn at random; destroyed, the images are those
    of other rows, in an order drawn by shuffle, so that only the code tells; SGD. A batch is (inputs (batch, 74), labels), a function of
    (seed, step) alone. The probe is the held-out rest with true codes; `facts["conflict"]` the same with the code of the next digit, on
    which the accuracy says which way is taken; `facts["rows"]` all that is trained on.
    Raises `BadOption`. Needs scikit-learn. Ref: Lubana et al. 2023 (arXiv:2211.08422), synthetic cues.

    >>> shortcut_digits(reliable=0.1).facts["rows"][0].shape
    torch.Size([1200, 74])
    """
    if not 0 <= reliable <= 1 or width < 1 or layers < 0 or batch < 1 or not lr > 0 or not 100 <= train_rows <= 1700:
        raise BadOption(
            f"shortcut_digits needs reliable in 0 to 1, width, batch >= 1, layers >= 0, lr > 0, 100 to 1700 train_rows; got {reliable}, "
            f"{width}, {batch}, {layers}, {lr}, {train_rows}"
        )
    images, labels = _load()
    g = torch.Generator().manual_seed(split_seed)
    order = torch.randperm(len(images), generator=g)
    train, held = order[:train_rows], order[train_rows:]
    y = labels[train]
    codes = torch.where(
        torch.rand(train_rows, generator=g) < reliable, y, torch.randint(10, (train_rows,), generator=g)
    )
    mixed = torch.randperm(train_rows, generator=torch.Generator().manual_seed(1 + shuffle))
    shown = images[train][mixed] if destroyed else images[train]
    rows, truth = with_code(shown, codes), labels[held]

    def build(seed: int) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            sizes = [74] + [width] * layers
            parts: list[nn.Module] = []
            for a, b in itertools.pairwise(sizes):
                parts += [nn.Linear(a, b), nn.ReLU()]
            return nn.Sequential(*parts, nn.Linear(sizes[-1], 10))

    def draw(seed: int, step: int) -> Batch:
        i = torch.from_numpy(np.random.default_rng((seed, step)).integers(train_rows, size=batch))
        return rows[i], y[i]

    knobs: dict[str, Any] = {
        "reliable": reliable, "destroyed": destroyed, "width": width, "layers": layers, "batch": batch, "lr": lr, "train_rows": train_rows,
        "split_seed": split_seed, "shuffle": shuffle,
    }  # fmt: skip
    return System(
        name="shortcut_digits", path="strobe.systems.shortcut_digits:shortcut_digits", knobs=knobs, build=build, batch=draw,
        loss=lambda model, data: cross_entropy(model(data[0]), data[1]),
        probe=lambda seed: (with_code(images[held], truth), truth),
        optimizer=lambda model, rate: torch.optim.SGD(model.parameters(), lr=rate), lr=lr, floor=0.0,
        facts={"chance": log(10), "rows": (rows, y), "conflict": (with_code(images[held], (truth + 1) % 10), truth)},
    )  # fmt: skip
