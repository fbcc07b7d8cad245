"""A small decoder-only transformer, for systems whose language is planted, and the learning rate that it likes."""

import math

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class Attention(nn.Module):
    """Causal attention, (B, T, d) -> (B, T, d)."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.o = nn.Linear(d, 3 * d), nn.Linear(d, d)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (y.unflatten(-1, (self.heads, -1)).transpose(1, 2) for y in self.qkv(x).chunk(3, -1))
        return self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """down(gelu(up(x)))."""

    def __init__(self, d: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(d, 4 * d), nn.Linear(4 * d, d)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x)))


class Block(nn.Module):
    """Residual stream -> residual stream: attention, then a layer of GELU, each after a layer norm."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList([nn.LayerNorm(d), nn.LayerNorm(d)])
        self.attn, self.mlp = Attention(d, heads), Mlp(d)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norms[0](x))
        return x + self.mlp(self.norms[1](x))


class Decoder(nn.Module):
    """Tokens (B, T) -> logits (B, T, V): embedding and places, blocks, layer norm, unembedding (not tied).

    Weights start at a deviation of ½/√d, embeddings at 0.02.

    >>> import torch
    >>> Decoder(vocab=20, context=8, d_model=8, heads=2, layers=2)(torch.zeros(3, 8, dtype=torch.long)).shape
    torch.Size([3, 8, 20])
    """

    def __init__(self, vocab: int, context: int, d_model: int = 96, heads: int = 4, layers: int = 4) -> None:
        super().__init__()
        self.embed, self.place = nn.Embedding(vocab, d_model), nn.Embedding(context, d_model)
        self.blocks = nn.ModuleList(Block(d_model, heads) for _ in range(layers))
        self.norm, self.unembed = nn.LayerNorm(d_model), nn.Linear(d_model, vocab, bias=False)
        for m in self.modules():
            if isinstance(m, nn.Embedding):
                nn.init.normal_(m.weight, std=0.02)
            elif isinstance(m, nn.Linear):
                nn.init.normal_(m.weight, std=0.5 / d_model**0.5)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens) + self.place.weight[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.unembed(self.norm(x))


def cosine(step: int, total: int, rise: int = 50) -> float:
    """Rises over `rise` steps, then falls from 1 to 0.05 at `total`, where it stays.

    >>> [round(cosine(step, 1000), 3) for step in (0, 49, 500, 1000, 2000)]
    [0.02, 0.994, 0.525, 0.05, 0.05]
    """
    done = min(step / total, 1.0)
    return min(1.0, (step + 1) / rise) * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done)))
