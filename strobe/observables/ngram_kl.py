"""How far a language model is from a table of n-gram statistics."""

from typing import Any

import torch

from strobe.core.cards import observable
from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot
from strobe.observables.tokens import log_probs_of, mean_err, over


@observable(symbol="KL(n-gram ‖ p)", of="snapshot", cost="1 forward", ref="arXiv:2402.02364")
def ngram_kl(snap: Snapshot, *, log_probs: Any) -> Reading:
    """Kullback-Leibler divergence KL(q ‖ p) from an n-gram table q to the model p, per token, in nats.

        KL = mean over windows b, positions t of Σ_v q(v | x_{b,t}) [log q(v | x_{b,t}) − log p(v | x_{b,≤t})]

    It is zero only where the model is that table; as training goes on it falls, has its least value while the model
    is most like an n-gram, and rises when the model uses more of the context.

    Args: `log_probs` natural log-probabilities, (V,) for a unigram or (V, V) for a bigram with the earlier token in
    rows; rows must sum to one. `snap.data` as in `token_loss`.
    Err: standard error over windows; the table is taken as exact.
    Cost: one forward pass, and a B·T·V table in memory. Regime: the table's token ids are the model's.
    Ref: Hoogland et al., arXiv:2402.02364, section 4 (bigram score; there a cross-entropy, which differs from this by
    the table's own entropy, a constant in training).

    >>> net = torch.nn.Embedding.from_pretrained(torch.zeros(2, 2), freeze=False)  # uniform over 2 tokens
    >>> table = torch.tensor([0.5, 0.5]).log()
    >>> ngram_kl(Snapshot(net, loss=None, data=torch.randint(2, (8, 5))), log_probs=table).value
    0.0
    """
    table = torch.as_tensor(log_probs).float()
    tokens, said = log_probs_of(snap)
    vocab = said.shape[-1]
    if table.shape not in ((vocab,), (vocab, vocab)):
        raise BadOption(
            f"log_probs is (V,) or (V, V) with V = {vocab}, the model's vocabulary; got {tuple(table.shape)}"
        )
    if not bool((table.exp().sum(-1) - 1).abs().max() < 1e-3):
        raise BadOption("log_probs must be natural logarithms of probabilities that sum to one in every row")
    table = table.to(said.device)
    q = table if table.ndim == 1 else table[tokens[:, :-1]]
    # xlogx, so that a zero probability (log −inf) costs nothing instead of NaN
    kl = over(torch.where(q.exp() > 0, q.exp() * (q - said), 0.0).sum(-1).mean(1))
    value, err = mean_err(kl)
    return Reading(float(value), float(err), unit="nats/token", how={"windows": len(kl), "order": table.ndim})
