"""Cards: literal metadata on a plain function, read by the catalogue without importing the file.

A card decorator attaches `fn.card` and returns the same function; it wraps and registers nothing. Its arguments
must be literals, so that `strobe list` can read them from the source alone.
"""

from collections.abc import Callable
from typing import Any, TypeVar

from strobe.core.errors import BadOption

F = TypeVar("F", bound=Callable[..., Any])

FIELDS: dict[str, frozenset[str]] = {
    "observable": frozenset({"symbol", "of", "cost", "ref"}),
    "law": frozenset({"predicts", "ref", "free_parameters"}),
    "edit": frozenset({"at", "ref"}),
    "study": frozenset({"question", "ref"}),
    "system": frozenset({"what", "ref"}),
}


def _tag(kind: str) -> Callable[..., Callable[[F], F]]:
    def attach(**card: Any) -> Callable[[F], F]:
        if unknown := set(card) - FIELDS[kind]:
            raise BadOption(f"a {kind} card has no field {sorted(unknown)[0]!r}; it has {sorted(FIELDS[kind])}")

        def keep(fn: F) -> F:
            fn.card = {"kind": kind, "name": fn.__name__, **card}  # type: ignore[attr-defined]
            return fn

        return keep

    attach.__name__ = attach.__qualname__ = kind
    attach.__doc__ = f"Attach a {kind} card ({', '.join(sorted(FIELDS[kind]))}) and return the same function."
    return attach


observable, law, edit, study, system = map(_tag, ("observable", "law", "edit", "study", "system"))
