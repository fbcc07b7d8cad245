"""The catalogue: what the package holds, read from its source with `ast`, so that no science is imported."""

import ast
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from strobe.core.cards import FIELDS
from strobe.core.errors import BadOption, NameNotFound, near

PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Entry:
    """One card: what kind of thing it is, its import path, its literal metadata, its options and first doc line."""

    kind: str
    name: str
    path: str
    summary: str
    options: tuple[str, ...]
    card: dict[str, Any] = field(default_factory=dict)


def catalogue(root: Path = PACKAGE, package: str = "strobe") -> list[Entry]:
    """Every decorated function below `root`, sorted by kind and name. Imports nothing; milliseconds.

    Raises `BadOption` for a card whose arguments are not literals.
    """
    found = [e for f in sorted(root.rglob("*.py")) for e in _entries(f, root, package)]
    return sorted(found, key=lambda e: (e.kind, e.name))


def find(word: str) -> list[Entry]:
    """Entries whose name, summary or card mention `word` (any case), names first."""
    low = word.lower()
    hits = [e for e in catalogue() if low in f"{e.name} {e.summary} {e.card}".lower()]
    return sorted(hits, key=lambda e: (low not in e.name.lower(), e.kind, e.name))


def lookup(name: str, kind: str | None = None) -> Callable[..., Any]:
    """The function called `name` (a catalogue name, `pkg.mod:fn` or `kind:name`). This one imports.

    Raises `NameNotFound` with near misses.
    """
    if ":" in name:
        return load(name)
    entries = [e for e in catalogue() if kind in (None, e.kind)]
    for e in entries:
        if e.name == name:
            return load(e.path)
    raise NameNotFound(
        f"no {kind or 'entry'} called {name!r} in the catalogue; {near(name, [e.name for e in entries])}"
    )


def load(path: str) -> Callable[..., Any]:
    """Import `pkg.mod:fn`. Raises `NameNotFound` when the module or the function is not there."""
    module, _, attr = path.partition(":")
    if not attr:
        raise BadOption(f"an import path is written pkg.mod:function, got {path!r}")
    try:
        obj: Any = importlib.import_module(module)
        for part in attr.split("."):
            obj = getattr(obj, part)
    except ModuleNotFoundError as e:
        missing = e.name or module
        ours = module == missing or module.startswith(f"{missing}.")
        hint = f"is {module!r} on the Python path?" if ours else f"it needs {missing!r}: pip install it"
        raise NameNotFound(f"cannot import {path!r}: no module named {missing!r}; {hint}") from e
    except AttributeError as e:
        raise NameNotFound(f"{module} has no {attr!r}; {near(attr, [n for n in dir(obj) if n[0] != '_'])}") from e
    return obj


def path_of(fn: Callable[..., Any]) -> str:
    """`pkg.mod:fn` of a function, as `load` reads it."""
    return f"{fn.__module__}:{fn.__qualname__}"


def _entries(file: Path, root: Path, package: str) -> Iterator[Entry]:
    source = file.read_text(encoding="utf-8")
    if not any(f"{kind}(" in source for kind in FIELDS):
        return
    module = ".".join([package, *file.relative_to(root).with_suffix("").parts])
    for node in ast.parse(source).body:
        if not isinstance(node, ast.FunctionDef):
            continue
        for deco in node.decorator_list:
            if isinstance(deco, ast.Call) and (kind := _kind(deco)):
                try:
                    card = {k.arg: ast.literal_eval(k.value) for k in deco.keywords if k.arg}
                except ValueError as e:
                    raise BadOption(f"{file}:{deco.lineno}: the card of {node.name} must hold literals only") from e
                doc = (ast.get_docstring(node) or "").strip().split("\n")[0]
                options = tuple(a.arg for a in node.args.kwonlyargs)
                yield Entry(kind, node.name, f"{module}:{node.name}", doc, options, card)


def _kind(deco: ast.Call) -> str | None:
    name = deco.func.attr if isinstance(deco.func, ast.Attribute) else getattr(deco.func, "id", "")
    return name if name in FIELDS else None
