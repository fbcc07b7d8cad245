"""A concept in the model at one step, from texts with it and without it: what the page Concepts shows."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

from strobe.app.look_parts import Kit, num
from strobe.core.catalogue import load
from strobe.core.data import leaves
from strobe.core.errors import BadOption
from strobe.core.snapshot import Snapshot

MOST = 400  # texts of each kind that a look reads


def concept(
    snap: Snapshot, kit: Kit, *, positive: Sequence[str], negative: Sequence[str], whole: bool = True, seed: int = 0
) -> dict[str, Any]:
    """The bake-off of `strobe.features.fit_concept` on these texts, and a direction to steer by; or, not `whole`, two quick areas a block.

    Raises `BadOption` for a run that reads no text, for too few or too many texts, and for a concept that cannot be judged.
    """
    encode = encoder(kit)
    on, off = texts_of("positive", positive), texts_of("negative", negative)
    with snap.quiet() as model, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a leak is said in the answer
        reader = load("strobe.studies.concept:Reader")("", model, encode, longest(snap), "last")
        found: dict[str, Any] = load("strobe.studies.concept:seen")(reader, on, off, whole=whole, seed=seed)
    for text in found.get("texts", ()):
        text["tokens"] = [{"text": kit.word(i), "score": num(s)} for i, s in text["tokens"]]
        text["score"] = num(text["score"])
    for row in found.get("rows", ()):
        row |= {k: num(row[k]) for k in ("auroc", "low", "high", "stability")}
    return found


def encoder(kit: Kit) -> Callable[[str], list[int]]:
    """Text to tokens. Raises `BadOption` for a run that reads no text."""
    if kit.encode is None:
        raise BadOption(
            "this run has no tokenizer, so no text can be read; record it with strobe.record(..., tokenizer=...)"
        )
    return kit.encode


def texts_of(name: str, texts: Any) -> list[str]:
    """The texts that say something. Raises `BadOption` for what is no list of texts, and for too many."""
    if not isinstance(texts, list | tuple) or not all(isinstance(t, str) for t in texts) or len(texts) > MOST:
        raise BadOption(f"{name} is a list of at most {MOST} texts")
    return [t for t in texts if t.strip()]


def longest(snap: Snapshot) -> int | None:
    """As many tokens as the data give the model at once."""
    sizes = [t.shape[1] for t in leaves(snap.data) if t.ndim == 2 and not t.is_floating_point()]
    return max(sizes) - 1 if sizes else None
