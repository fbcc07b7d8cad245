"""What each attention head attends to: the token before, or what followed the last time."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from strobe.core.cards import observable
from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot
from strobe.core.tap import tap
from strobe.observables.tokens import home, mean_err, over, token_windows


@observable(symbol="previous-token score", of="snapshot", cost="1 forward", ref="arXiv:2209.11895")
def previous_token_score(snap: Snapshot, *, sites: Sequence[str] | None = None) -> Reading:
    """Mean attention from a token to the one before it, per head: an array (layers, heads) in [0, 1].

        score = mean over windows b and queries i >= 1 of A_b[i, i − 1]

    Args: `sites` whose tensors are attention patterns (B, H, T, T), one per layer, e.g. "blocks.0.attn.pattern" or, for
    Hugging Face models with attn_implementation="eager", "transformer.h.0.attn:out.1"; default: found by
    `pattern_sites`. Measured on `snap.data`, the text itself.
    Err: standard error over windows. Cost: one forward pass, patterns of all layers in memory.
    Regime: any causal attention; a uniform head over a long context scores about ln T / T.
    Ref: Olsson et al. 2022, arXiv:2209.11895; Hoogland et al., arXiv:2402.02364, appendix (previous-token score).

    >>> from strobe.systems.attention_language import AttentionOnly
    >>> net = AttentionOnly(vocab=20, context=8, d_model=8, heads=2, layers=2, positions="rotary")
    >>> previous_token_score(Snapshot(net, loss=None, data=torch.randint(20, (4, 9)))).value.shape
    (2, 2)
    """
    tokens = token_windows(snap.data)[:, :-1]
    return _score(snap, tokens, sites, lambda a: a.diagonal(-1, -2, -1).mean(-1), {"on": "data"})


@observable(symbol="induction score", of="snapshot", cost="1 forward", ref="arXiv:2209.11895")
def induction_score(
    snap: Snapshot, *, sites: Sequence[str] | None = None, sequences: int = 16, length: int | None = None, seed: int = 0
) -> Reading:
    """Mean attention, in a random sequence said twice, to what followed the first time: (layers, heads) in [0, 1].

        x = r r, r of `length` ℓ random tokens        score = mean over queries i >= ℓ of A[i, i − ℓ + 1]

    Args: `sequences` their number; `length` ℓ (default: half the context of `snap.data`); tokens are drawn from those
    that occur in `snap.data`, without repetition where there are enough of them; `sites` as in `previous_token_score`.
    Err: standard error over sequences. Cost: one forward pass of `sequences` windows.
    Regime: a causal model; chance is about 1 / (1.5 ℓ).
    Ref: Olsson et al. 2022, arXiv:2209.11895 (induction heads on repeated random tokens).

    >>> from strobe.systems.attention_language import AttentionOnly
    >>> net = AttentionOnly(vocab=20, context=8, d_model=8, heads=2, layers=2, positions="rotary")
    >>> bool((induction_score(Snapshot(net, loss=None, data=torch.randint(20, (4, 9)))).value < 0.5).all())
    True
    """
    data = token_windows(snap.data)
    size = _length(length, 2, data.shape[1] - 1)
    tokens = _repeated(data, sequences, size, 2, seed)
    how = {"on": "random tokens said twice", "length": size, "seed": seed}
    return _score(snap, tokens, sites, lambda a: a.diagonal(1 - size, -2, -1)[..., 1:].mean(-1), how)


@observable(symbol="prefix-matching score", of="snapshot", cost="1 forward", ref="arXiv:2209.11895")
def prefix_matching_score(
    snap: Snapshot,
    *,
    sites: Sequence[str] | None = None,
    sequences: int = 16,
    length: int | None = None,
    times: int = 4,
    seed: int = 0,
) -> Reading:
    """Mean attention to all tokens that were preceded by the present token: (layers, heads) in [0, 1].

        x = r said `times` times       score = mean over queries i >= ℓ of Σ_{j <= i : x_{j−1} = x_i, j − 1 < i} A[i, j]

    Args: as `induction_score`; `length` ℓ defaults to 25 tokens, or to context / `times` where that is less.
    Err: standard error over sequences. Cost: one forward pass. Regime: as `induction_score`.
    Ref: Olsson et al. 2022, arXiv:2209.11895, "prefix matching": 25 random tokens said 4 times, less the first.

    >>> from strobe.systems.attention_language import AttentionOnly
    >>> net = AttentionOnly(vocab=20, context=8, d_model=8, heads=2, layers=2, positions="rotary")
    >>> prefix_matching_score(Snapshot(net, loss=None, data=torch.randint(20, (4, 9)))).how["length"]
    2
    """
    data = token_windows(snap.data)
    size = _length(25 if length is None and (data.shape[1] - 1) // times > 25 else length, times, data.shape[1] - 1)
    tokens = _repeated(data, sequences, size, times, seed)
    match = nn.functional.pad(tokens[:, :, None] == tokens[:, None, :-1], (1, 0)).tril()[
        :, None
    ]  # x_i = x_{j−1}, j <= i
    how = {"on": f"random tokens said {times} times", "length": size, "seed": seed}
    return _score(snap, tokens, sites, lambda a: (a * match.to(a.device)).sum(-1)[..., size:].mean(-1), how)


def pattern_sites(model: nn.Module, tokens: Tensor) -> list[str]:
    """Where this model shows its attention patterns, in the order of the forward pass.

    Modules whose name ends in "pattern"; otherwise those that return a tuple whose second item is (B, H, T, T), as
    Hugging Face's eager attention does. Raises `BadOption` where there is neither.
    """
    named = [name for name, _ in model.named_modules() if name.rsplit(".", 1)[-1].endswith("pattern")]
    if named:
        return named
    found: list[str] = []
    size = tokens.shape[1]

    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, out: Any) -> None:
            second = out[1] if isinstance(out, tuple) and len(out) > 1 else None
            inner = any(f.startswith(f"{name}.") for f in found)  # a block that passes its attention's weights on
            if isinstance(second, Tensor) and second.ndim == 4 and second.shape[-2:] == (size, size) and not inner:
                found.append(name)

        return hook

    with ExitStack() as stack:
        for name, module in model.named_modules():
            if name:
                stack.callback(module.register_forward_hook(look(name)).remove)
        model(tokens)
    if not found:
        raise BadOption(
            f"{type(model).__name__} shows no attention patterns; pass sites=[...] of modules that output "
            '(B, H, T, T), or load a Hugging Face model with attn_implementation="eager"'
        )
    return [f"{name}:out.1" for name in found]


def _score(
    snap: Snapshot,
    tokens: Tensor,
    sites: Sequence[str] | None,
    reduce: Callable[[Tensor], Tensor],
    how: dict[str, Any],
) -> Reading:
    """Apply `reduce`, (B, H, T, T) -> (B, H), to every layer's pattern; mean and error over sequences."""
    with snap.quiet() as model, torch.no_grad():
        tokens = tokens.to(home(model))
        places = list(sites) if sites is not None else pattern_sites(model, tokens[:1])
        with tap(model, places) as seen:
            model(tokens)
        layers = [over(reduce(_checked(seen[place], place, tokens))) for place in places]
    if len({layer.shape for layer in layers}) != 1:
        raise BadOption(
            f"the sites have different numbers of heads: {[x.shape[1] for x in layers]}; measure them apart"
        )
    value, err = mean_err(np.stack(layers, axis=1))
    return Reading(value, err, unit="attention", how={**how, "sites": places, "sequences": len(tokens)})


def _checked(pattern: Tensor, place: str, tokens: Tensor) -> Tensor:
    size = tokens.shape[1]
    if pattern.ndim != 4 or pattern.shape[0] != len(tokens) or pattern.shape[-2:] != (size, size):
        raise BadOption(f"site {place!r} holds {tuple(pattern.shape)}, not attention patterns (B, H, {size}, {size})")
    return pattern.float()


def _length(length: int | None, times: int, context: int) -> int:
    size = context // times if length is None else length
    if times < 2 or size < 2 or size * times > context:
        raise BadOption(
            f"{size} tokens said {times} times need a context of at least {max(size, 2) * max(times, 2)}, not {context}"
        )
    return size


def _repeated(data: Tensor, sequences: int, length: int, times: int, seed: int) -> Tensor:
    """(sequences, length · times): rows of random tokens of the data, said over and over."""
    if sequences < 2:
        raise BadOption(f"at least two sequences are needed to give an error, got {sequences}")
    vocab = data.unique().cpu()
    g = torch.Generator().manual_seed(seed)
    if len(vocab) >= length:
        pick = torch.stack([torch.randperm(len(vocab), generator=g)[:length] for _ in range(sequences)])
    else:
        pick = torch.randint(len(vocab), (sequences, length), generator=g)
    return vocab[pick].repeat(1, times)
