"""A rule and a shortcut: the parity of two bits, and a third bit that tells it in some of the rows."""

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as nats

from strobe.core.cards import system
from strobe.core.errors import BadOption
from strobe.core.system import System


class OneLayer(nn.Module):
    """Bits as ±1 (n, bits) -> a logit (n,), through `width` rectified units.

    >>> OneLayer(4, 8)(torch.ones(3, 4)).shape
    torch.Size([3])
    """

    def __init__(self, bits: int, width: int) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(bits, width), nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x).relu()).squeeze(-1)


@system(what="The parity of two bits, with a third that gives it away in some rows: shortcut or rule", ref="")
def cue_parity(
    *, mix: float = 1.0, bits: int = 10, rows: int = 512, width: int = 32, batch: int = 64, lr: float = 3e-3, data_seed: int = 0
) -> System:  # fmt: skip
    """y = x_1 xor x_2 of `bits` random bits; bit 0, the cue, is y in a share `mix` of the rows and a coin in the others.

    A batch is (x (n, bits) of ±1, -1 for a bit that is set, y (n,) of 0 and 1), drawn with replacement from `rows` rows
    as a function of (seed, step) alone; the probe is 512 other rows of the same mix. Trained with Adam on the binary
    cross-entropy, in nats.
    Facts: `rows` (all that is trained on), `conflict` (512 rows whose cue is wrong, other bits random), `bits`.
    Ref: the test of "You are what you eat" in our specification (specs/attrib.md, 2.10).

    >>> x, y = cue_parity(mix=1.0).facts["rows"]
    >>> bool(((x[:, 0] < 0) == (y == 1)).all()), bool(((x[:, 1] * x[:, 2] < 0) == (y == 1)).all())
    (True, True)
    """
    if not 0 <= mix <= 1 or bits < 3 or min(rows, width, batch) < 1 or not lr > 0:
        raise BadOption(
            f"cue_parity needs 0 <= mix <= 1, bits >= 3, rows, width, batch >= 1, lr > 0; got {mix}, {bits}, {rows}, {width}, {batch}, {lr}"
        )

    def drawn(seed: int, n: int, share: float, wrong: bool = False) -> tuple[Tensor, Tensor]:
        rng = np.random.default_rng((data_seed, seed))
        x = rng.integers(2, size=(n, bits))
        y = x[:, 1] ^ x[:, 2]
        x[:, 0] = np.where(rng.random(n) < share, y ^ wrong, x[:, 0])
        return torch.from_numpy(1.0 - 2.0 * x).float(), torch.from_numpy(y).float()

    train = drawn(1, rows, mix)

    def build(seed: int) -> nn.Module:
        model, g = OneLayer(bits, width), torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in model.parameters():  # weights N(0, 2/fan-in), biases 0
                p.copy_(torch.randn(p.shape, generator=g) * (2 / p.shape[1]) ** 0.5 if p.ndim == 2 else p * 0)
        return model

    def draw(seed: int, step: int) -> tuple[Tensor, Tensor]:
        ids = torch.from_numpy(np.random.default_rng((seed, step)).integers(rows, size=batch))
        return train[0][ids], train[1][ids]

    return System(
        name="cue_parity",
        path="strobe.systems.cue_parity:cue_parity",
        knobs={
            "mix": mix,
            "bits": bits,
            "rows": rows,
            "width": width,
            "batch": batch,
            "lr": lr,
            "data_seed": data_seed,
        },
        build=build,
        batch=draw,
        loss=lambda model, data: nats(model(data[0]), data[1]),
        probe=lambda seed: drawn(1000 + seed, 512, mix),
        optimizer=lambda model, rate: torch.optim.Adam(model.parameters(), lr=rate),
        lr=lr,
        floor=0.0,
        facts={"rows": train, "conflict": drawn(2, 512, 1.0, wrong=True), "bits": bits},
    )
