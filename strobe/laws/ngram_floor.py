"""What the statistics of a text say about the loss of a language model, before any model exists."""

from math import isfinite
from typing import Literal

from strobe.core.cards import law
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction

_KL_AT_PLATEAU = 0.25  # nats; a two-layer model passes the unigram table at 0.1 to 0.2, the bigram table only at 0.6


@law(predicts="token_loss", ref="arXiv:2402.02364", free_parameters=0)
def ngram_floor(
    *,
    order: Literal[1, 2],
    entropy: float,
    err: float,
    excess: float = 0.0,
    claim: Literal["floor", "passed", "plateau"] = "floor",
) -> Prediction:
    """Where the loss per token of a language model stands to the cross-entropy H_n of an n-gram predictor, in nats.

        floor    L >= H_n − 2 err − excess     for every model that sees only the last n − 1 tokens, trained or not
        passed   L <= H_n                      for a trained model that uses more of its context
        plateau  |L − H_n| <= 2 err + excess + 0.02 H_n     at the step where the model is most like the n-gram

    The floor is the definition of conditional entropy: no function of the last n − 1 tokens can do better than the
    best one. The fitted table stands for the best one, at a distance `excess`. "passed" is strict: it asks for a loss
    below H_n by more than the measurement's own error, and gets no slack from `err`.

    Args: `order` n: 1 unigram, 2 bigram; `entropy` H_n: the table's cross-entropy on held-out tokens; `err` its
    standard error as an estimate for what the model is measured on (0 where these are the very same tokens);
    `excess` >= 0: how far below the table the best predictor of this order may lie (bounded by `unigram_excess` and
    `bigram_excess` in the facts of `attention_language`).
    Regime: stated by `when`, and checked without the loss: "floor" by the model's construction, or by logits that do
    not change when older tokens do; "passed" by logits that do; "plateau" by KL(n-gram ‖ model) at its least along
    the run, and below 0.25 nats there.
    Where it fails: the floor of order 2 is refuted by any model with induction heads, or with trigrams.
    Fitted: none to a run; the tables are counts of the training text.
    Ref: Shannon 1951; the stages in Hoogland et al., arXiv:2402.02364. The plateau's 2% is ours, measured.

    >>> p = ngram_floor(order=2, entropy=3.63, err=0.03)
    >>> p.side, round(p.tol, 3)
    ('above', 0.06)
    """
    if order not in (1, 2):
        raise BadOption(f"order is 1 (unigram) or 2 (bigram), got {order!r}")
    if not (isfinite(entropy) and entropy > 0):
        raise BadOption(f"entropy is a positive number of nats per token, got {entropy}")
    if not (isfinite(err) and err >= 0 and isfinite(excess) and excess >= 0):
        raise BadOption(f"err and excess are numbers of nats >= 0, got {err} and {excess}")
    if claim not in ("floor", "passed", "plateau"):
        raise BadOption(f"claim is 'floor', 'passed' or 'plateau', got {claim!r}")
    slack = 2 * err + excess
    seen = "nothing" if order == 1 else "only the last token"
    name = "unigram" if order == 1 else "bigram"
    side, tol, when = {
        "floor": ("above", slack, f"the model sees {seen} of its context"),
        "passed": ("below", 0.0, f"the model is trained, and its logits depend on more than {seen} of its context"),
        "plateau": (
            "both",
            slack + 0.02 * entropy,
            f"KL({name} ‖ model) is at its least along the run, and below {_KL_AT_PLATEAU} nats",
        ),
    }[claim]
    return Prediction(
        of="token_loss",
        value=entropy,
        tol=tol,
        when=when,
        side=side,  # type: ignore[arg-type]
        law="strobe.laws.ngram_floor:ngram_floor",
        knobs={"order": order, "entropy": entropy, "err": err, "excess": excess, "claim": claim},
        ref="arXiv:2402.02364",
    )
