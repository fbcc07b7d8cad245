"""Inputs that name a subject, and the token after which the model answers: read at the one, changed at the one, answered at the other."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from strobe.core.capture import Forward, run_on, still
from strobe.core.data import chosen, count
from strobe.core.errors import BadOption
from strobe.core.site import Site
from strobe.core.tap import patch, tap

Place = int | Tensor
Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True, eq=False)
class Questions:
    """A batch as the model takes it (tensor or mapping), with two places in each input.

    subject, answer: the token that ends the subject's name, and the one after which the model answers; a number for all inputs (negative:
    from the last token) or one for each, (n,). Where a site has no tokens, (n, features), its rows are the places.
    forward(model, inputs) gives logits (n, tokens, words) or (n, words); by default the model's output, or the `logits` of it.

    >>> net = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5))
    >>> asked = Questions(net, torch.tensor([[1, 2, 3], [4, 2, 3]]), subject=0)
    >>> asked.answered().shape, asked.read("0").shape, torch.equal(asked.read("0"), net[0].weight[[1, 4]])
    (torch.Size([2, 5]), torch.Size([2, 4]), True)
    """

    model: nn.Module
    inputs: Any
    subject: Place = -2
    answer: Place = -1
    forward: Forward | None = None

    def __post_init__(self) -> None:
        for name in ("subject", "answer"):
            at = getattr(self, name)
            if isinstance(at, bool) or not (
                isinstance(at, int)
                or (isinstance(at, Tensor) and at.shape == (len(self),) and not at.is_floating_point())
            ):
                raise BadOption(f"{name} is the number of a token, or one for each of {len(self)} inputs, got {at!r}")

    def __len__(self) -> int:
        return count(self.inputs)

    def part(self, index: Tensor) -> "Questions":
        """The questions with these numbers."""
        subject, answer = (a[index] if isinstance(a, Tensor) else a for a in (self.subject, self.answer))
        return replace(self, inputs=chosen(self.inputs, index), subject=subject, answer=answer)

    def parts(self, batch: int) -> Iterator["Questions"]:
        """All of them, `batch` at a time. Raises `BadOption`."""
        if batch < 1:
            raise BadOption(f"batch is at least 1, got {batch}")
        return (self.part(index) for index in torch.arange(len(self)).split(batch))

    def run(
        self, changes: Mapping[str, tuple[Place, Change]] | None = None, sites: Iterable[str] = ()
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """(logits at the answers, tensors at sites), with gradients, what sites carry at places replaced by change((n, d))."""
        edits: dict[str | Site, Change] = {
            site: partial(_written, at=at, change=change, n=len(self), site=site)
            for site, (at, change) in (changes or {}).items()
        }
        with patch(self.model, edits), tap(self.model, sites, grad=True) as seen:
            out = run_on(self.model, self.inputs, self.forward)
        return rows(getattr(out, "logits", out), self.answer, len(self), "the output"), seen

    def read(self, site: str, at: Place | None = None) -> Tensor:
        """(n, d) of what a site carries at the subjects (or at other places), without gradients, in eval mode."""
        with still(self.model), torch.no_grad():
            _, seen = self.run(sites=[site])
            return rows(seen[site], self.subject if at is None else at, len(self), site)

    def answered(self, changes: Mapping[str, tuple[Place, Change]] | None = None) -> Tensor:
        """(n, words): logits at the answers, without gradients, in eval mode."""
        with still(self.model), torch.no_grad():
            return self.run(changes)[0]


def rows(x: Any, at: Place, n: int, what: str) -> Tensor:
    """(n, d) of (n, tokens, d) at a place. Raises `BadOption` for other shapes, or where there is no such token."""
    if not isinstance(x, Tensor) or x.ndim not in (2, 3) or len(x) != n or not x.is_floating_point():
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise BadOption(f"{what}: a question needs (inputs, tokens, features) or (inputs, features), got {got} for {n}")
    if x.ndim == 2:
        return x
    index = torch.as_tensor(at, device=x.device).expand(n)
    if not bool(((index >= -x.shape[1]) & (index < x.shape[1])).all()):
        raise BadOption(
            f"{what} has {x.shape[1]} tokens; there is no token {at if isinstance(at, int) else at.tolist()}"
        )
    return x[torch.arange(n, device=x.device), index]


def _written(x: Tensor, *, at: Place, change: Change, n: int, site: str) -> Tensor:
    new = change(rows(x, at, n, site)).to(x)
    if x.ndim == 2:
        return new
    out = x.clone()
    out[torch.arange(n, device=x.device), torch.as_tensor(at, device=x.device).expand(n)] = new
    return out
