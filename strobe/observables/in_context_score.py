"""How much more a language model knows late in its context than early in it."""

from strobe.core.cards import observable
from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot
from strobe.observables.tokens import losses_of, mean_err

Band = tuple[int, int]


@observable(symbol="ICL", of="snapshot", cost="1 forward", ref="arXiv:2209.11895")
def in_context_score(snap: Snapshot, *, early: Band | None = None, late: Band | None = None) -> Reading:
    """In-context learning score: the loss late in the context minus the loss early in it, in nats (negative is better).

        ICL = mean over windows b of [ mean_{t in late} L_b(t) − mean_{t in early} L_b(t) ]

    Args: `early`, `late` half-open ranges of positions, t = 0 the prediction after the first token. Olsson et al. take
    single tokens, early=(49, 50) and late=(499, 500) of a context of 512; a band has less noise. Defaults, w = max(1,
    T // 16): early = w positions from T // 10, late = the last w.
    Err: standard error of the paired difference over windows.
    Cost: one forward pass. Regime: T >= 4; a model without memory has ICL = 0 only if the text has the same
    statistics everywhere in a window (windows cut at random places).
    Ref: Olsson et al. 2022, arXiv:2209.11895, "in-context learning score".

    >>> import torch
    >>> net = torch.nn.Embedding.from_pretrained(torch.zeros(4, 4), freeze=False)  # no memory at all
    >>> abs(in_context_score(Snapshot(net, loss=None, data=torch.randint(4, (8, 33)))).value) < 1e-6
    True
    """
    losses = losses_of(snap)
    length = losses.shape[1]
    width = max(1, length // 16)
    early = early or (length // 10, length // 10 + width)
    late = late or (length - width, length)
    for name, (a, b) in (("early", early), ("late", late)):
        if not 0 <= a < b <= length:
            raise BadOption(f"{name} is a range inside 0 … {length} (the context measured on), got ({a}, {b})")
    if early[1] > late[0]:
        raise BadOption(
            f"early {tuple(early)} must end before late {tuple(late)} begins; windows of {length} may be too short"
        )
    value, err = mean_err(losses[:, slice(*late)].mean(1) - losses[:, slice(*early)].mean(1))
    how = {"early": list(early), "late": list(late), "windows": len(losses)}
    return Reading(float(value), float(err), unit="nats/token", how=how)
