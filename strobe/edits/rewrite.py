"""Write an association into one weight: what it gives for a key, and as little else as the data's own covariance allows."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from strobe.core import cards
from strobe.core.capture import Forward, capture
from strobe.core.errors import BadOption, Diverged
from strobe.edits.scale_direction import numbers


@cards.edit(at="param", ref="arXiv:2202.05262")
def add_outer(*, left: list[float], right: list[float]) -> Callable[[Tensor], Tensor]:
    """W ← W + left rightᵀ: one row of the change for each output, one column for each input. Raises `BadOption`.

    >>> add_outer(left=[1.0, 0.0], right=[0.0, 2.0])(torch.zeros(2, 2)).tolist()
    [[0.0, 2.0], [0.0, 0.0]]
    """
    u, v = numbers("left", left), numbers("right", right)

    def add(w: Tensor) -> Tensor:
        if w.shape != (len(u), len(v)):
            raise BadOption(f"the weight is {tuple(w.shape)} and the change {len(u)} x {len(v)}")
        return (w.double() + torch.outer(u, v).to(w.device)).to(w)

    return add


def key_covariance(
    model: nn.Module,
    layer: str,
    inputs: Any,
    *,
    forward: Forward | None = None,
    mask: Tensor | None = None,
    batch: int = 64,
) -> Tensor:
    """C = (1/n) Σ k kᵀ, (d, d) in double, of what a layer is given at every token of the inputs: the run's own data, not another's."""
    k = capture(model, inputs, [f"{layer}:in"], positions="all", forward=forward, mask=mask, batch=batch)[f"{layer}:in"]
    total = torch.zeros(k.shape[1], k.shape[1], dtype=torch.float64)
    for part in k.split(4096):
        total.addmm_(part.double().T, part.double())
    return total / len(k)


def rank_one(weight: Tensor, key: Tensor, value: Tensor, covariance: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(left, right) of the smallest change, measured on keys of covariance C, after which the weight gives `value` for `key`.

        W' = W + (v − W k) (C⁻¹ k)ᵀ / (kᵀ C⁻¹ k)

    It is exact at k, and of all changes that are it has the least mean square of (W' − W) k' over keys k' with E[k' k'ᵀ] = C. Without a
    covariance C = I. 1e-6 of its mean diagonal is added to C, which need not be full. Computed in double; given back as the weight is.
    Args: weight (out, in) as of nn.Linear; key (in,); value (out,); covariance (in, in).
    Raises `BadOption` for sizes that do not fit or a key of zeros, `Diverged` where the change is not finite.
    Ref: Bau et al. 2020 (arXiv:2007.15646); Meng et al. 2022 (arXiv:2202.05262), eq. 2.

    >>> left, right = rank_one(torch.eye(2), torch.tensor([1.0, 0.0]), torch.tensor([5.0, 5.0]))
    >>> ((torch.eye(2) + torch.outer(left, right)) @ torch.tensor([1.0, 0.0])).tolist()
    [5.0, 5.0]
    """
    right, left = spread(weight, key[None], value[None], covariance, exact=True)
    return left[:, 0].to(weight), right[0].to(weight)


def spread(
    weight: Tensor,
    keys: Tensor,
    values: Tensor,
    covariance: Tensor | None = None,
    *,
    strength: float = 1.0,
    exact: bool = False,
) -> tuple[Tensor, Tensor]:
    """(right (m, in), left (out, m)) of the change W' = W + left right that gives many values for many keys.

        W' = W + R Kᵀ (strength C + K Kᵀ)⁻¹,  R = V − W K           with `exact`: W' = W + R (Kᵀ C⁻¹ K)⁻¹ Kᵀ C⁻¹

    The first trades the new associations against what the weight gave for other keys (strength times as much weight as they have); the
    second puts the new ones through. Over several layers, hand each a share of what is left: (V − output) / (layers to go).
    Args: keys (m, in), values (m, out). Ref: Meng et al. 2023 (arXiv:2210.07229), eq. 14.
    """
    W, K, V = weight.detach().double().cpu(), keys.detach().double().cpu(), values.detach().double().cpu()
    if W.ndim != 2 or K.ndim != 2 or K.shape[1] != W.shape[1] or V.shape != (len(K), len(W)):
        raise BadOption(
            f"a weight {tuple(W.shape)} needs keys (m, {W.shape[-1]}) and values (m, {len(W)}), "
            f"got {tuple(K.shape)}, {tuple(V.shape)}"
        )
    if not K.isfinite().all() or not V.isfinite().all() or not K.norm(dim=1).all():
        raise BadOption("keys and values are finite, and no key is zero")
    C = torch.eye(W.shape[1], dtype=torch.float64) if covariance is None else covariance.detach().double().cpu()
    if C.shape != (W.shape[1],) * 2:
        raise BadOption(f"the covariance is {tuple(C.shape)}, the weight takes {W.shape[1]} numbers")
    C = C + 1e-6 * C.diagonal().mean() * torch.eye(len(C), dtype=torch.float64)
    rest = (V - K @ W.T).T
    if exact:
        white = torch.linalg.solve(C, K.T)
        right = torch.linalg.solve(K @ white, white.T)
    else:
        right = torch.linalg.solve(strength * C + K.T @ K, K.T).T
    if not right.isfinite().all() or not rest.isfinite().all():
        raise Diverged("the change is not finite: two keys are the same, or the covariance is singular")
    return right, rest


def rewriting(weight_site: str, left: Tensor, right: Tensor, label: str = "") -> dict[str, Any]:
    """The plain edit of `rank_one`'s change at a site such as "blocks.1.mlp.down:param.weight", for `patch`, forks and journals."""
    kwargs = {"left": left.double().tolist(), "right": right.double().tolist()}
    return {"act": "site", "site": weight_site, "edit": "strobe.edits.rewrite:add_outer", "kwargs": kwargs} | (
        {"label": label} if label else {}
    )
