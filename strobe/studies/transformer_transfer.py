"""Does the best learning rate of a narrow transformer serve a wide one, once it is parametrised for it?"""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from strobe.core.cards import study
from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.core.system import System
from strobe.edits.mup import Widening, widening
from strobe.laws.width_transfer import coordinate_slopes, width_transfer
from strobe.observables.width_scaling import best_learning_rate, coordinate_check
from strobe.studies.docket import Docket, Progress, sized
from strobe.studies.width_transfer import KINDS, octaves

QUESTION = "Does the best learning rate of a narrow transformer serve a wide one, once it is parametrised for it?"
SCALES = {  # widths of the sweeps, steps, seeds, widths of the coordinate check
    "tiny": ((16, 64), 20, 2, (16, 32, 64)),
    "small": ((32, 64, 128, 256), 80, 3, (64, 128, 256, 512)),
    "full": ((32, 64, 128, 256, 512), 200, 6, (64, 128, 256, 512)),
}
VOCAB, CONTEXT, BATCH, HEADS = 16, 16, 12, 4
MODULES, ROLES = ("embed", "blocks.0.attention", "blocks.0.mlp", "out"), ("input", "hidden", "hidden", "output")


class Attention(nn.Module):
    """Causal, four heads; logits q·k √(d₀) / d with d a head's size and d₀ that at the base width: q·k/√d there."""

    future: Tensor

    def __init__(self, width: int, base: int, root: bool) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        size, first = width / HEADS, base / HEADS
        self.scale = size**-0.5 if root else first**0.5 / size
        self.register_buffer("future", torch.ones(CONTEXT, CONTEXT, dtype=torch.bool).triu(1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = (f(x).view(b, t, HEADS, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        scores = (q @ k.transpose(-1, -2) * self.scale).masked_fill(self.future[:t, :t], -torch.inf)
        return self.o((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, d))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, base: int, root: bool) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, base, root)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.first(x))
        return x + self.mlp(self.second(x))


class Reader(nn.Module):
    """Tokens (B, T) -> logits (B, T, V); the readout is not tied to the embedding."""

    def __init__(self, width: int, base: int, *, layers: int = 1, root: bool = False) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(VOCAB, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.ModuleList(Block(width, base, root) for _ in range(layers))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, VOCAB, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.place.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.out(self.norm(x))


@cache
def chain() -> Tensor:
    """log p(next | the one before last, last), (V, V, V): a sum of a table for each, so that attention is needed for the rest."""
    g = torch.Generator().manual_seed(0)
    last, before = (1.5 * torch.randn(VOCAB, VOCAB, generator=g) for _ in range(2))
    return (before[:, None] + last[None]).log_softmax(-1)


def second_order_text(
    *, width: int = 32, base: int = 32, root: bool = False, layers: int = 1, lr: float = 4e-3
) -> System:
    """Sequences of a second-order Markov chain over 16 symbols, a transformer of one block, Adam.

    The loss is the mean next-token cross-entropy less that of the chain itself on the same tokens: its floor is 0.
    Args: width, a multiple of 4; base, the width whose logits are q·k/√d; root, keep that at any width. Raises `BadOption`.
    """
    if width < HEADS or width % HEADS or layers < 1:
        raise BadOption(f"width is a multiple of {HEADS} and layers at least 1, got {width} and {layers}")

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return Reader(width, base, layers=layers, root=root)

    def batch(seed: int, step: int, rows: int = BATCH) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(seed * 1_000_003 + step)
        logp = chain()
        x = torch.randint(VOCAB, (rows, CONTEXT + 1), generator=g)
        own = torch.zeros(rows)
        for t in range(2, CONTEXT + 1):
            here = logp[x[:, t - 2], x[:, t - 1]]
            x[:, t] = torch.multinomial(here.exp(), 1, generator=g)[:, 0]
            own -= here.gather(1, x[:, t, None])[:, 0]
        return x, own / (CONTEXT - 1)

    def loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        x, own = data
        said = model(x[:, :-1])[:, 1:]
        return nn.functional.cross_entropy(said.flatten(0, 1), x[:, 2:].flatten()) - own.mean()

    return System(
        "second_order_text", "strobe.studies.transformer_transfer:second_order_text",
        {"width": width, "base": base, "root": root, "layers": layers, "lr": lr}, build, batch, loss,
        lambda seed: batch(seed, 2**31, 256), lambda m, rate: torch.optim.Adam(m.parameters(), lr=rate), lr, floor=0.0,
    )  # fmt: skip


@study(question="Does the best learning rate of a narrow transformer serve a wide one?", ref="arXiv:2203.03466")
def transformer_transfer(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """A transformer at several widths on a synthetic text, in the maximal update parametrisation and in the standard one.

    Sealed: that the best rate of Adam moves by at most half an octave; the null, the standard one by the same claim, which must fail;
    and how the change of each part's output goes with width, in both. Cost: some seconds at "tiny", two to three minutes at "small".
    The rates tried are ten octaves at the first width, and six about its best at the others, shifted down an octave for each octave of
    width in the standard parametrisation; where a best one is the first or last tried the verdict is "outside". Raises `BadOption`.
    """
    widths, steps, seeds, checked = sized(scale, SCALES)
    base = widths[0]
    starts = [1000 * seed + k for k in range(seeds)]
    rows: list[dict[str, Any]] = []
    with Docket(second_order_text(width=base, base=base), out / "recorded", QUESTION, steps=60, seed=seed) as docket:
        said = width_transfer(widths=widths)
        docket.seal("mup", said, f"octaves of the best lr, transformer: {KINDS['mup']}")
        null = "octaves of the best lr, transformer: null, the standard one by mup's claim (must fail)"
        docket.seal("standard", said, null, law="", knobs={})
        for kind in KINDS:
            slopes = coordinate_slopes(roles=ROLES, parametrisation=kind)
            docket.seal(f"{kind} slopes", slopes, f"exponents of |Δh|, transformer: {KINDS[kind]}")
        checks = []
        for kind in KINDS:
            read = coordinate_check(
                _start(kind, checked[0], seed), *_task(base), widths=checked, modules=MODULES, seeds=range(4)
            )
            docket.judge(f"{kind} slopes", read)
            checks.append({"parametrisation": KINDS[kind], **{m: float(v) for m, v in zip(MODULES, read.value, strict=True)},
                           "largest err": float(np.max(read.err))})  # fmt: skip
        first: Reading | None = None  # at the base width the two are one network
        for k, kind in enumerate(KINDS):
            found = []
            for j, width in enumerate(widths):
                build, table = scaled(kind, width, base)
                middle = -6.0 if first is None else first.value - (np.log2(width / base) if kind == "standard" else 0.0)
                reach = (-5, 5) if j == 0 else (-3, 3)
                rates = [2.0**p for p in range(round(middle) + reach[0], round(middle) + reach[1])]
                if first is None or j:
                    read = best_learning_rate(
                        build, *_task(base), rates=rates, seeds=starts, steps=steps, last=steps // 2, multipliers=table
                    )
                else:
                    read = first
                first = first or read
                found.append(read)
                rows.append({"parametrisation": KINDS[kind], "width": width, "log2 best lr": read.value, "err": read.err,
                             "lowest excess": read.how["lowest"], "outside the sweep": bool(read.how.get("flags"))})  # fmt: skip
                if progress:
                    progress("sweeps", k * len(widths) + j + 1, 2 * len(widths))
            inside = not any(f.how.get("flags") for f in found)
            docket.judge(
                kind, octaves(found), applies=inside, why="" if inside else "a best rate lies outside the sweep"
            )
        table_rows = [{"parameter": r.name, "role": r.role, "initial values ×": r.scale, "lr ×": r.lr}
                      for r in _table(widths[-1], base).rows]  # fmt: skip
        return docket.report(
            {"best learning rates": rows, "exponent of |Δh| in width": checks, f"mup's table at {widths[-1]} from {base}": table_rows},
            ["Yang et al. 2022, arXiv:2203.03466"], steps=steps, seeds=seeds,
        )  # fmt: skip


def _task(base: int) -> tuple[Any, Any]:
    world = second_order_text(width=base, base=base)
    return world.loss, world.batch


def _table(width: int, base: int) -> Widening:
    build = lambda n: second_order_text(width=n, base=base).build(0)  # noqa: E731
    return widening(build(width), build(base))


def scaled(kind: str, width: int, base: int, *, root: bool | None = None) -> tuple[Any, dict[str, float]]:
    """build(seed), and the multipliers of the learning rates; logits q·k/√d in the standard one, or where `root` says so."""
    build = second_order_text(width=width, base=base, root=kind == "standard" if root is None else root).build
    if kind == "standard":
        return build, {}
    table = _table(width, base)
    return lambda s: table.apply(build(s)), {r.name: r.lr for r in table.rows}


def _start(kind: str, base: int, seed: int) -> Any:
    """build(width, seed) -> (model, optimizer) for the coordinate check."""

    def build(width: int, s: int) -> tuple[nn.Module, torch.optim.Optimizer]:
        made, rates = scaled(kind, width, base)
        model = made(1000 * seed + s)
        lr = 1e-3 if kind == "mup" else 1e-4
        return model, torch.optim.Adam(
            [{"params": [p], "lr": lr * rates.get(n, 1.0)} for n, p in model.named_parameters()]
        )

    return build
