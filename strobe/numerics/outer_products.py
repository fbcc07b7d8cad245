"""Inner products of sums of outer products, Σ_t b_t a_tᵀ, for all pairs: without making the matrices where that is less work."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

HALF = 128  # rows below which a symmetric product is not taken in halves: thin products run at half the speed
PIECE = 1 << 20  # gradients that are made at a time: they stay in the cache until they are multiplied
MOVED = 12  # a number written and read again costs as much as so many multiplications (one CPU core, single precision)


@dataclass(frozen=True, slots=True)
class Plain:
    """Gradients themselves, of one parameter: (examples, outputs, numbers)."""

    name: str
    g: Tensor

    def contract(self, other: "Plain", block: bool) -> Iterator[tuple[str, Tensor]]:
        """Their inner products: (n, m), or (n, outputs, m, outputs)."""
        yield self.name, gram(self.g, other.g, block)

    def gradients(self) -> Iterator[tuple[str, Tensor]]:
        """Name and (examples, outputs, numbers)."""
        yield self.name, self.g


@dataclass(frozen=True, slots=True)
class Products:
    """Gradients of a layer y_t = W a_t + c: Σ_t b_t a_tᵀ of its weight, Σ_t b_t of its bias, t the positions it is used at."""

    weight: str | None
    bias: str | None
    a: Tensor  # (examples, positions, d); of an embedding the tokens (examples, positions)
    b: Tensor  # (examples, outputs, positions, m)
    words: int = 0  # of an embedding: how many it knows

    def gradients(self) -> Iterator[tuple[str, Tensor]]:
        """Name and (examples, outputs, numbers): the gradients, made after all."""
        if self.weight:
            yield self.weight, self._whole()
        if self.bias:
            yield self.bias, self.b.sum(2)

    def contract(self, other: "Products", block: bool) -> Iterator[tuple[str, Tensor]]:
        """Inner products of the gradients: (n, m), or (n, outputs, m, outputs)."""
        positions = self.b.shape[2]
        if positions == 1 and not self.words:
            back = gram(self.b[:, :, 0], other.b[:, :, 0] if other is not self else self.b[:, :, 0], block)
            if self.weight:
                took = gram(self.a, other.a, False)
                yield self.weight, back * (took[:, None, :, None] if block else took)
            if self.bias:
                yield self.bias, back
            return
        if self.weight and self.by_positions(block):
            yield self.weight, self._by_positions(other)
        elif self.weight and block:
            yield self.weight, gram(self._whole(), other._whole(), block)
        elif self.weight:
            step = max(PIECE // (len(self.b) * self.b.shape[3] * (self.words or self.a.shape[-1])), 1)
            total: Tensor | None = None
            for i in range(0, self.b.shape[1], step):
                mine = self._whole(slice(i, i + step))
                more = gram(mine, mine if other is self else other._whole(slice(i, i + step)), False)
                total = more if total is None else total.add_(more)
            assert total is not None
            yield self.weight, total
        if self.bias:
            summed = self.b.sum(2)
            yield self.bias, gram(summed, summed if other is self else other.b.sum(2), block)

    def by_positions(self, block: bool) -> bool:
        """Is it less work to compare all positions with all than to make the gradients?"""
        _, s, t, m = self.b.shape
        d = self.words or self.a.shape[-1]
        n = max(len(self.b), 2)
        pairs = n * t * t * ((1 if self.words else d) + s * m) / 2
        return not block and pairs < s * m * d * (n / 2 + MOVED + (0 if self.words else t))

    def _whole(self, of: slice = slice(None)) -> Tensor:
        b = self.b[:, of]
        n, s, t, m = b.shape
        if not self.words:
            return (b.permute(0, 1, 3, 2).reshape(n, s * m, t) @ self.a).reshape(n, s, -1)
        made = b.new_zeros(n, s, self.words, m)
        return made.scatter_add_(2, self.a[:, None, :, None].expand(n, s, t, m), b).reshape(n, s, -1)

    def _by_positions(self, other: "Products") -> Tensor:
        flat = [x.b.permute(0, 2, 1, 3).reshape(x.b.shape[0], x.b.shape[2], -1) for x in (self, other)]
        n, t, m = len(flat[0]), flat[0].shape[1], len(flat[1])
        out = flat[0].new_empty(n, m)
        step = min(max((1 << 21) // (t * t * m), 1), max(HALF // t, n // 4, 1))
        for i in range(0, n, step):
            j = i if other is self else 0  # the lower half of a symmetric one is copied
            a, b, c, d = self.a[i : i + step], flat[0][i : i + step], other.a[j:], flat[1][j:]
            long = 1 if self.words else a.shape[-1]
            a, c = a.reshape(-1, long), c.reshape(-1, long).T
            took = (a == c).to(b) if self.words else a @ c
            took.mul_(b.reshape(-1, b.shape[-1]) @ d.reshape(-1, b.shape[-1]).T)
            out[i : i + step, j:] = took.view(len(b), t, m - j, t).sum((1, 3))
            if other is self:
                out[j:, i : i + step] = out[i : i + step, j:].T.clone()
        return out


def gram(x: Tensor, y: Tensor, block: bool) -> Tensor:
    """Inner products of (n, s, p) with (m, s, p): summed over s, (n, m), or all of them, (n, s, m, s)."""
    if block:
        return (x.flatten(0, 1) @ y.flatten(0, 1).T).view(*x.shape[:2], *y.shape[:2])
    return symmetric(x.flatten(1)) if x is y else x.flatten(1) @ y.flatten(1).T


def symmetric(x: Tensor) -> Tensor:
    """x xᵀ of (n, p), each half but once: for many rows a half of the work."""
    if len(x) < 2 * HALF:
        return x @ x.T
    half = len(x) // 2
    across = x[:half] @ x[half:].T
    return torch.cat([torch.cat([symmetric(x[:half]), across], 1), torch.cat([across.T, symmetric(x[half:])], 1)])
