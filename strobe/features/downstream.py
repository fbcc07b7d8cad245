"""Vectors ranked by what they do to the model's answer, not to a site inside."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from strobe.core.capture import Forward
from strobe.core.errors import BadOption, Diverged
from strobe.features.pushing import POSITIONS, pushing
from strobe.features.unsupervised import Pushes


@dataclass(frozen=True, slots=True, eq=False)
class Downstream:
    """order (m,): the vectors, the largest effect on the answer first (by divergence; by |loss| where the answer is no distribution).

    divergence (m,), nats: mean over inputs of the mean over tokens of KL(answer without ‖ answer with); err (m,): its standard error over
    inputs; flipped (m,): share of inputs' tokens whose likeliest answer changes; loss (m,): the loss with less the loss without.
    None: not asked for.
    """

    order: Tensor
    divergence: Tensor | None = None
    err: Tensor | None = None
    flipped: Tensor | None = None
    loss: Tensor | None = None


def downstream(
    model: nn.Module, inputs: Any, vectors: Tensor | Pushes, source: str | None = None, *,
    loss: Callable[[Any, Any], Tensor] | None = None, distribution: bool = True, tokens: Literal["all", "last"] = "all",
    mask: Tensor | None = None, forward: Forward | None = None, positions: int = POSITIONS,
) -> Downstream:  # fmt: skip
    """What each vector (m, d), added at `source` at every token, does to the model's answer.

        divergence_k = mean_i mean_t Σ_v p(v) ln(p(v) / p_k(v)),   p = softmax of what the model returns (its `.logits` where it has such)
        loss_k = loss(answer_k, inputs) − loss(answer, inputs)

    Args: vectors, or what `unsupervised` found (with its source); inputs as the model takes them; loss(what the model returns, inputs) a
    scalar; distribution=False where the answer is no logits (inputs, ..., words); tokens, all or each input's last; mask
    (inputs, tokens), default the mapping's `attention_mask`; forward, positions as in `pushing`.
    Cost: m forward passes, together as far as `positions` allows.
    Raises `BadOption`, `SiteNotFound`; `Diverged` where an answer is not finite.

    >>> net = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5))
    >>> got = downstream(net, torch.tensor([[1, 2], [3, 4]]), torch.tensor([[0.1, 0, 0], [3.0, 0, 0]]), "0")
    >>> got.order.tolist()
    [1, 0]
    """
    at, found = (vectors.source, vectors.vectors) if isinstance(vectors, Pushes) else (source, vectors)
    if at is None or found.ndim != 2 or not len(found):
        raise BadOption("give vectors (m, features) and the source they are added to, or what `unsupervised` found")
    if tokens not in ("all", "last") or not (distribution or loss is not None):
        raise BadOption(f'tokens is "all" or "last", got {tokens!r}; distribution=False needs a loss to rank by')
    kl: list[Tensor] = []
    flips: list[Tensor] = []
    losses: list[Tensor] = []
    with torch.no_grad(), pushing(model, inputs, at, at, forward=forward, positions=positions) as push:
        if found.shape[1] != push.size:
            raise BadOption(f"{at} has {push.size} features, the vectors {found.shape[1]}")
        p = _log_p(push.out) if distribution else None
        w = None if p is None else _weights(p, inputs, mask, tokens)
        before = torch.tensor(0.0) if loss is None else loss(push.out, inputs)
        for out in push.answers(found.to(push.plain)):
            if loss is not None:
                losses.append(loss(out, inputs) - before)
            if p is not None and w is not None:
                q = _log_p(out)
                kl.append(((p.exp() * (p - q)).sum(-1) * w).sum(1))
                flips.append(((p.argmax(-1) != q.argmax(-1)) * w).sum(1).mean())
    change = torch.stack(losses) if losses else None
    if not kl:
        assert change is not None
        return Downstream(change.abs().argsort(descending=True), loss=change)
    each = torch.stack(kl)
    if not each.isfinite().all():
        raise Diverged("the model's answer is not finite with a vector added: take a lower norm")
    err = each.std(1) / each.shape[1] ** 0.5 if each.shape[1] > 1 else torch.full_like(each[:, 0], torch.nan)
    return Downstream(each.mean(1).argsort(descending=True), each.mean(1), err, torch.stack(flips), change)


def _log_p(out: Any) -> Tensor:
    """(inputs, tokens, words)."""
    logits = getattr(out, "logits", out)
    if not isinstance(logits, Tensor) or logits.ndim < 2 or not logits.is_floating_point():
        raise BadOption(
            f"the model returned a {type(logits).__name__}, no logits (inputs, ..., words): give forward=, or loss= and distribution=False"
        )
    log_p = logits.float().log_softmax(-1)
    return log_p[:, None] if logits.ndim == 2 else log_p.flatten(1, -2)


def _weights(p: Tensor, inputs: Any, mask: Tensor | None, tokens: str) -> Tensor:
    """(inputs, tokens) that sum to 1 over the tokens of an input."""
    own = inputs.get("attention_mask") if isinstance(inputs, Mapping) else None
    if mask is not None and mask.shape != p.shape[:2]:
        raise BadOption(f"mask has shape {tuple(mask.shape)} where the answer has {tuple(p.shape[:2])} tokens")
    given = own if mask is None and isinstance(own, Tensor) and own.shape == p.shape[:2] else mask
    there = torch.ones(p.shape[:2], device=p.device) if given is None else (given.to(p.device) > 0).float()
    if tokens == "last":
        there = there * (there.cumsum(1) == there.sum(1, keepdim=True))
    return there / there.sum(1, keepdim=True).clamp_min(1)
