"""A loop as a user writes it, importable by name so that it can be replayed."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import strobe


class Toy:
    """A loop as a user writes it: model, optimizer, data as a function of the step."""

    def __init__(self, seed: int = 0, dropout: float = 0.1) -> None:
        torch.manual_seed(seed)
        layers = (nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(dropout), nn.Linear(8, 1))
        self.model = nn.Sequential(*layers)
        self.opt = torch.optim.AdamW(self.model.parameters(), lr=1e-2)

    def batch(self, step: int) -> torch.Tensor:
        return torch.randn(16, 4, generator=torch.Generator().manual_seed(step))

    def loss(self, model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return (model(x).squeeze(-1) - x.sum(1)).square().mean()

    def one(self, step: int) -> torch.Tensor:
        loss = self.loss(self.model, self.batch(step))
        self.opt.zero_grad()
        loss.backward()
        self.opt.step()
        return loss

    def run(
        self, path: Path, steps: int, hook: Callable[[strobe.Recorder], None] | None = None, **options: object
    ) -> Path:
        given = {"loss": self.loss, "probe": self.batch(10**6), **options}
        with strobe.record(path, model=self.model, optimizer=self.opt, **given) as rec:  # type: ignore[arg-type]
            for step in rec.steps(steps):
                rec.step(loss=self.one(step))
                if hook:
                    hook(rec)
        return rec.path


def toy_again(*, out: str, steps: int, seed: int = 0, **options: object) -> None:
    """The importable entry of a Toy run, for replay and fork."""
    Toy(seed).run(Path(out), steps, entry=(toy_again, {"out": out, "steps": steps, "seed": seed}), **options)


class Letters:
    """A tokenizer without a padding token: one number a letter."""

    def encode(self, text: str) -> list[int]:
        return [ord(c) % 64 for c in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(chr(i + 64) for i in ids)


class LetterNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tok = nn.Embedding(64, 16)
        self.blocks = nn.ModuleList(nn.GRU(16, 16, batch_first=True) for _ in range(2))
        self.head = nn.Linear(16, 64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.tok(x)
        for b in self.blocks:
            h = h + b(h)[0]
        return self.head(h)


def letter_loss(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())


def letters_again(*, out: str, tokenizer: bool = True) -> None:
    torch.manual_seed(0)
    net = LetterNet()
    opt = torch.optim.Adam(net.parameters(), 1e-3)
    probe = torch.randint(64, (4, 41), generator=torch.Generator().manual_seed(1))
    own = {"tokenizer": Letters()} if tokenizer else {}
    entry = (letters_again, {"out": out, "tokenizer": tokenizer})
    with strobe.record(out, model=net, optimizer=opt, loss=letter_loss, probe=probe, entry=entry, **own) as rec:
        for _ in rec.steps(3):
            opt.zero_grad()
            value = letter_loss(net, probe)
            value.backward()
            opt.step()
            rec.step(loss=value)


def letters_world(out: Path) -> tuple[Any, Any]:
    """The snapshot at step 3 of what `letters_again` recorded, and the kit that reads text for it."""
    from strobe.app.look import kit_of
    from strobe.runs.run import Opened, open_run

    letters_again(out=str(out))
    opened = Opened(open_run(out))
    return opened.at(3), kit_of(opened.run, opened.recorder)
