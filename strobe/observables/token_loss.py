"""Loss per token of a language model, over all positions and at each."""

from strobe.core.cards import observable
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot
from strobe.observables.tokens import losses_of, mean_err


@observable(symbol="L", of="snapshot", cost="1 forward", ref="")
def token_loss(snap: Snapshot) -> Reading:
    """Cross-entropy per token L, in nats.

        L = mean over windows b and positions t of −log p(x_{b,t+1} | x_{b,≤t})

    Args: `snap.data` LongTensor (B, T+1) or {"input_ids": ...}; the model maps (B, T) to logits, or to `.logits`.
    Err: standard error over windows, each taken as one draw; windows of one document are more alike than that.
    Cost: one forward pass. Regime: any next-token model. Ref: none; the definition.

    >>> import torch
    >>> net = torch.nn.Embedding.from_pretrained(torch.zeros(4, 4), freeze=False)  # uniform over 4 tokens: ln 4
    >>> token_loss(Snapshot(net, loss=None, data=torch.randint(4, (8, 5)))).value
    1.386294...
    """
    losses = losses_of(snap)
    value, err = mean_err(losses.mean(1))
    return Reading(
        float(value), float(err), unit="nats/token", how={"windows": len(losses), "context": losses.shape[1]}
    )


@observable(symbol="L(t)", of="snapshot", cost="1 forward", ref="arXiv:2001.08361")
def loss_by_position(snap: Snapshot) -> Reading:
    """Cross-entropy L(t) of the token after position t = 0 … T−1, in nats: an array (T,).

        L(t) = mean over windows b of −log p(x_{b,t+1} | x_{b,≤t})

    Args, Cost, Regime: as `token_loss`. Err: standard error over windows, position by position; the errors of
    neighbouring positions are correlated, for they share windows (use `in_context_score` for a difference).
    Ref: Kaplan et al., arXiv:2001.08361, section 4.5 (loss by position in the context).

    >>> import torch
    >>> net = torch.nn.Embedding.from_pretrained(torch.zeros(4, 4), freeze=False)
    >>> loss_by_position(Snapshot(net, loss=None, data=torch.randint(4, (8, 5)))).value.shape
    (4,)
    """
    losses = losses_of(snap)
    value, err = mean_err(losses)
    return Reading(value, err, unit="nats/token", how={"windows": len(losses), "context": losses.shape[1]})
