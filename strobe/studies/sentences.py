"""Real sentences of the Python standard library, in kinds that can be told apart: its docstrings, comments, manual and code."""

import ast
import io
import random
import re
import sysconfig
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from strobe.core.errors import BadOption

_NOT = {
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idle_test",
    "lib2to3",
    "__pycache__",
    "turtledemo",
    "ensurepip",
}
_PLAIN = re.compile(r"[`>|{}\\=\[\]<@#]|::|https?:")
_PAST, _NOW = re.compile(r"\b(was|were|had|did)\b"), re.compile(r"\b(is|are|will|shall|would|could|should|may)\b")
_FUTURE = re.compile(r"\b(will|shall)\b")
KINDS = ("code", "question", "past", "past xor long")


def sentences(kind: str, *, each: int = 150, seed: int = 0) -> tuple[list[str], list[str]]:
    """(with, without), at most `each` of both, and as many of one as of the other.

    "code": a line of code against a sentence of prose; "question": a comment that asks against one that states, both without their last
    mark; "past": was, were, had, did against will, shall; "past xor long": past and long or future and short, against the others.
    Raises `BadOption` for another kind.
    """
    prose, code, comments = _all()
    past = [s for s in prose if _PAST.search(s) and not _NOW.search(s)]
    future = [s for s in prose if _FUTURE.search(s) and not _PAST.search(s)]
    if kind == "code":
        on, off = list(code), list(prose)
    elif kind == "question":
        on = [s[:-1].strip() for s in comments if s.endswith("?")]
        off = [s[:-1].strip() for s in comments if s.endswith(".")]
    elif kind == "past":
        on, off = past, future
    elif kind == "past xor long":
        cells = [
            [s for s in group if (len(s.split()) > 13) == long] for group in (past, future) for long in (True, False)
        ]
        some = min(*map(len, cells), (each + 1) // 2)
        picked = [random.Random(f"{seed}/{i}").sample(sorted(c), some) for i, c in enumerate(cells)]
        return picked[0] + picked[3], picked[1] + picked[2]
    else:
        raise BadOption(f"kind is one of {', '.join(KINDS)}, got {kind!r}")
    some = min(each, len(on), len(off))
    return random.Random(seed).sample(sorted(on), some), random.Random(seed + 1).sample(sorted(off), some)


@cache
def _all() -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """Sentences of docstrings and the manual, lines of code, sentences of comments."""
    prose: set[str] = set()
    code: set[str] = set()
    comments: set[str] = set()
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        if _NOT & set(path.relative_to(root).parts):
            continue
        source = path.read_text(encoding="utf-8", errors="ignore")
        try:
            tree = ast.parse(source)
            comments.update(_comments(source))
        except (SyntaxError, tokenize.TokenError, ValueError):
            continue
        lines = source.split("\n")
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                prose.update(_split(ast.get_docstring(node) or ""))
            elif isinstance(node, ast.Assign | ast.Return | ast.Expr | ast.Raise) and not _is_text(node):
                line = lines[node.lineno - 1].strip()
                if node.end_lineno == node.lineno and 25 < len(line) < 110 and "#" not in line:
                    code.add(line)
    from pydoc_data.topics import topics

    for text in topics.values():
        prose.update(_split(text))
    return frozenset(prose), frozenset(code), frozenset(comments)


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _split(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", text):
        for s in re.split(r"(?<=[.?!])\s+(?=[A-Z])", " ".join(paragraph.split())):
            if 5 <= len(s.split()) <= 30 and s[0].isupper() and s[-1] in ".?!" and not _PLAIN.search(s):
                yield s


def _comments(source: str) -> Iterator[str]:
    block: list[str] = []
    last = -2
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type != tokenize.COMMENT:
            continue
        if token.start[0] != last + 1:
            yield from _split(" ".join(block))
            block = []
        block.append(token.string.lstrip("#! ").strip())
        last = token.start[0]
    yield from _split(" ".join(block))
