"""What is left of a trait and what it costs: a model at one step, as it is and steered after training at several doses."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from strobe.app.look_concept import encoder, longest, texts_of
from strobe.app.look_dose import doses_of
from strobe.app.look_examples import PerExample
from strobe.app.look_language import shown
from strobe.app.look_parts import Kit, mean_err, num, nums
from strobe.core.capture import capture
from strobe.core.catalogue import load
from strobe.core.errors import BadOption, StrobeError
from strobe.core.snapshot import Snapshot
from strobe.core.tap import Edit, patch

EXAMPLES = 48  # of the held-out set
READ = 32  # texts of each kind


def front(
    snap: Snapshot, kit: Kit, *, positive: Sequence[str], negative: Sequence[str], site: str | None = None,
    direction: Sequence[float] | None = None, by: float | None = None, doses: Sequence[float] = (0.0,), seed: int = 0,
) -> dict[str, Any]:  # fmt: skip
    """The trait and the loss, at each dose d of steering x ← x + d·by·direction, and of a random direction as long.

        trait = mean over texts with it of (mean over tokens of log p) − the same of texts without it, nats a token
        loss  = the run's own, mean over the first 48 held-out examples

    Read: the first 32 texts of each kind. Without a direction: the model as it is (dose 0). Err: standard errors over texts and over
    examples; `on`, `off` (of each text) and `each` (example) are there for paired differences of two models.
    Regime: language models; the texts are those that the direction was fitted on. Raises `BadOption`.
    """
    encode = encoder(kit)
    if (direction is None) != (site is None) or (direction is None) != (by is None):
        raise BadOption("to steer, give site, direction and by; none of them for the model as it is")
    levels = doses_of(doses)
    if direction is None and any(levels):
        raise BadOption("a dose needs its site, direction and by")
    kinds = [texts_of("positive", positive)[:READ], texts_of("negative", negative)[:READ]]
    if not all(kinds):
        raise BadOption("the trait needs a text of each kind")
    wild = torch.randn(len(direction or ()), generator=torch.Generator().manual_seed(0x57B0BE + seed)).tolist()
    with snap.quiet():
        with shown(snap, kit, kinds[0][0]) as seen:
            seen.language()
        losses = PerExample(snap, EXAMPLES)
        ids = [[encode(t)[: longest(snap)] for t in kind] for kind in kinds]
        if any(len(t) < 2 for kind in ids for t in kind):
            raise BadOption("a text of one token has no likelihood: give longer ones")

        said = _said(snap, ids[0][0])

        def at(edit: Edit | None) -> dict[str, Any]:
            with patch(snap.model, {} if edit is None or site is None else {site: edit}):
                on, off = (_likelihood(snap, kind, said) for kind in ids)
                each = losses() if edit is not None else losses.first
            trait = {"trait": num(on.mean() - off.mean()), "trait_err": _apart(on, off)}
            loss = mean_err(each)
            return trait | {
                "loss": loss["value"],
                "loss_err": loss["err"],
                "on": nums(on),
                "off": nums(off),
                "each": nums(each),
            }

        plain, make = at(None), load("strobe.edits.steer:steer")

        def arm(way: Sequence[float] | None) -> dict[str, Any]:
            found = [plain if not d or way is None else at(make(direction=way, by=d * float(by or 0))) for d in levels]
            return {k: [f[k] for f in found] for k in plain}

        return {"doses": levels, **arm(direction), "control": arm(wild) if direction is not None else None}


def _likelihood(snap: Snapshot, texts: list[list[int]], said: str) -> Tensor:
    """Mean log p of the tokens after the first of each text, (texts,), in nats; eight texts' logits at a time."""
    means = []
    for k in range(0, len(texts), 8):
        part = texts[k : k + 8]
        acts = capture(snap.model, part, [said], positions="all")
        for i, ids in enumerate(part):
            log_p = acts[said][acts.example == i][: len(ids) - 1].float().log_softmax(-1)
            means.append(log_p.gather(-1, torch.tensor(ids[1:], device=log_p.device)[:, None]).double().mean())
    return torch.stack(means)


def _said(snap: Snapshot, text: list[int]) -> str:
    """The site of the logits: what the model returns, or an item of it. Raises `BadOption`."""
    last: StrobeError | None = None
    for site in (":out.logits", ":out", ":out.0"):
        try:
            return capture(snap.model, [text], [site], positions="all").sites[0]
        except StrobeError as e:
            last = last or e
    raise BadOption(f"the logits of this model cannot be read on texts alone: {last}")


def _apart(a: Tensor, b: Tensor) -> float | None:
    if min(len(a), len(b)) < 2:
        return None
    return num(math.hypot(float(a.std() / len(a) ** 0.5), float(b.std() / len(b) ** 0.5)))
