"""How a run's network reads text: the tokenizer its loop or its system has."""

import json
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from strobe.core.catalogue import load

if TYPE_CHECKING:
    from strobe.runs.recorder import Recorder
    from strobe.runs.run import Run


def tokenizer_of(run: "Run", recorder: "Recorder | None" = None) -> Any:
    """What has `encode(text)` and `decode(ids)`: as given to `record`, or as the run's system holds it; None where there is none."""
    if (own := getattr(recorder, "tokenizer", None)) is not None:
        return own
    facts = facts_of(run)
    return _read(facts["tokenizer"]) if "tokenizer" in facts else None


def facts_of(run: "Run") -> dict[str, Any]:
    """What the run's system knows of itself; empty where the run is not a system's."""
    kwargs = (run.facts.get("entry") or {}).get("kwargs") or {}
    return _facts(kwargs["system"], json.dumps(kwargs["knobs"])) if {"system", "knobs"} <= set(kwargs) else {}


def encode(tokenizer: Any, text: str) -> list[int]:
    """The numbers of a text's tokens."""
    got = tokenizer.encode(text)
    return [int(i) for i in getattr(got, "ids", got)]


@lru_cache(maxsize=8)
def _facts(path: str, knobs: str) -> dict[str, Any]:
    facts: dict[str, Any] = load(path)(**json.loads(knobs)).facts
    return facts


@lru_cache(maxsize=8)
def _read(text: str) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(text)
