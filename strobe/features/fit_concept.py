"""Is it there, where, by which method, and is it linear: every method at every site on the same held-out examples."""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strobe.core.capture import Activations
from strobe.core.errors import BadOption, near
from strobe.features.concept_table import ConceptTable, Row, judged
from strobe.features.methods import METHODS, ROUGH, Shelf
from strobe.numerics.bake_off import areas, bake_off, dealt_areas, folds_of
from strobe.numerics.probes import closed_forms
from strobe.numerics.rfm import Span

FEWEST = 10  # examples of each kind: below it five folds hold one or none


def fit_concept(
    acts: Activations, labels: Sequence[Any] | Tensor | np.ndarray, *, methods: Sequence[str] = tuple(METHODS),
    sites: Sequence[str] | None = None, groups: Sequence[Hashable] | None = None, folds: int = 5, permutations: int = 200,
    resamples: int = 1000, halves: int = 4, seed: int = 0, progress: Callable[[float], None] | None = None,
) -> ConceptTable:  # fmt: skip
    """Compare methods x sites on held-out examples, and say whether the concept is there, where, and whether a line is enough.

    Each of `folds` folds is held out once; settings (penalty, bandwidth, iterations) are chosen on another, by the method's own score
    there, and the method fitted again on all but the held-out one. Areas, intervals and the correction for choosing: `bake_off`.
    Null: labels dealt anew `permutations` times; the largest area of means, ridge and the kernel, at fixed settings, over all sites,
    against the same of the true labels: p = (1 + times as large) / (1 + deals). Stability: |cos| of directions from random halves.

    Args: acts, one row an input, or a token (then those of an input stay together); labels, one a row, two values, the larger is "on";
    groups, what belongs together (a template, a document) and never stands on both sides of a split: rows that are equal at all sites
    are put together anyway, and said. methods: of "means", "ridge", "logistic", "lda", "pca", "kernel", "rfm".
    Err: over the draw of the examples (groups). It leaves out that other prompts of the concept may look different.
    Raises `BadOption` for one class only, fewer than 10 of a kind, labels of another number, a NaN, or groups that no split keeps whole.
    Ref: the concept probes of arXiv:2502.03708; the choice by held-out score instead of a linear read-out is ours.
    """
    names, y = _checked(acts, labels, methods, sites)
    n = len(y)
    rng = np.random.default_rng(seed)
    held, leaks = _groups(acts, names, groups)
    try:
        fold = folds_of(y, held, folds, rng)
    except ValueError as e:
        raise BadOption(f"the examples cannot be split: {e}; give more, or fewer folds") from e
    signs = torch.where(torch.from_numpy(y), 1.0, -1.0)
    deals = np.concatenate([y[None], _deals(y, held, permutations, rng)])
    scores, settings, stable = [], [], []
    most = np.zeros(len(deals))  # the first deal is the true one
    parts = [torch.from_numpy(np.flatnonzero(rng.permutation(n) < n // 2)) for _ in range(halves)]
    shelves: dict[str, Shelf] = {}
    for at, site in enumerate(names):
        span = Span.of(acts[site])
        shelf = shelves[site] = Shelf(span, signs, seed)
        got, chosen = _held_out(shelf, fold, methods)
        scores += [got[m] for m in methods]
        settings += [chosen[m] for m in methods]
        stable += _stability(shelf, chosen, methods, parts)
        dealt = np.stack([dealt_areas(s, deals, fold) for s in closed_forms(span, fold, deals)]).max(0)
        most = np.maximum(most, dealt)
        if progress is not None:
            progress((at + 1) / len(names))
    compared = bake_off(np.stack(scores), y, fold, held, resamples=resamples, rng=rng)
    pairs = [(s, m) for s in names for m in methods]
    rows = tuple(
        Row(s, m, float(compared.value[i]), float(compared.low[i]), float(compared.high[i]), stable[i], settings[i])
        for i, (s, m) in enumerate(pairs)
    )
    return judged(rows, compared, shelves, most[1:], float(most[0]), leaks)


def _checked(
    acts: Activations, labels: Any, methods: Sequence[str], sites: Sequence[str] | None
) -> tuple[list[str], np.ndarray]:
    if wrong := [m for m in methods if m not in METHODS]:
        raise BadOption(f"there is no method {wrong[0]!r}; {near(wrong[0], METHODS)}")
    if not methods:
        raise BadOption("name at least one method")
    names = list(acts.sites if sites is None else sites)
    n = len(acts[names[0]])
    given = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    if given.shape != (n,):
        raise BadOption(f"there are {n} rows of activations and labels of shape {given.shape}: one for each row")
    kinds = np.unique(given)
    if len(kinds) != 2 or (given.dtype.kind == "f" and not np.isfinite(given).all()):
        shown = ", ".join(map(str, kinds[:5]))
        raise BadOption(
            f"labels are of two kinds, these of {len(kinds)} ({shown}): a concept is what tells the two apart"
        )
    y = given == kinds[1]
    few = int(min(y.sum(), (~y).sum()))
    if few < FEWEST:
        raise BadOption(
            f"there are {few} examples of one kind; below {FEWEST} of each no held-out figure means anything: give more"
        )
    for site in names:
        x = acts[site]
        if not x.isfinite().all():
            raise BadOption(
                f"the activations at {site} are not finite for row {int((~x.isfinite().all(1)).int().argmax())}"
            )
        if float((x - x[0]).abs().max()) <= 1e-6 * float(x[0].abs().max()):
            raise BadOption(f"what {site} carries is the same for all examples: there is nothing to tell them by")
    return names, y


def _groups(
    acts: Activations, names: list[str], groups: Sequence[Hashable] | None
) -> tuple[np.ndarray, tuple[str, ...]]:
    """A group number for each row: those given, joined where rows are equal at every site, or are tokens of one input."""
    n = len(acts[names[0]])
    if groups is not None and len(groups) != n:
        raise BadOption(f"there are {n} rows of activations and {len(groups)} groups")
    given: list[Any] = list(acts.example.tolist()) if groups is None else list(groups)
    root: dict[Any, Any] = {g: g for g in given}

    def find(g: Any) -> Any:
        while root[g] != g:
            root[g] = root[root[g]]
            g = root[g]
        return g

    first: dict[bytes, int] = {}
    twins = 0
    rows = [acts[s].numpy() for s in names]
    for i in range(n):
        key = b"".join(x[i].tobytes() for x in rows)
        if key in first:
            a, b = find(given[first[key]]), find(given[i])
            if a != b:
                root[a] = b
                twins += 1
        else:
            first[key] = i
    _, out = np.unique([str(find(g)) for g in given], return_inverse=True)
    leak = f"Leak alarm: {twins} rows are the same as another and would have stood on both sides of the split; they are kept together."
    return out, (leak,) if twins else ()


def _deals(y: np.ndarray, held: np.ndarray, permutations: int, rng: np.random.Generator) -> np.ndarray:
    """Labels dealt anew: whole groups where a group is of one kind, else examples."""
    names, first, inverse = np.unique(held, return_index=True, return_inverse=True)
    if len(names) < len(y) and all((y[held == g] == y[first[i]]).all() for i, g in enumerate(names)):
        return (
            np.stack([rng.permutation(y[first])[inverse] for _ in range(permutations)])
            if permutations
            else np.zeros((0, len(y)), bool)
        )
    return np.stack([rng.permutation(y) for _ in range(permutations)]) if permutations else np.zeros((0, len(y)), bool)


def _held_out(
    shelf: Shelf, fold: np.ndarray, methods: Sequence[str]
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, float]]]:
    """Held-out scores of each method, and the setting that did best over the folds."""
    out = {m: np.zeros(len(fold)) for m in methods}
    tally: dict[str, list[tuple[list[dict[str, float]], np.ndarray]]] = {m: [] for m in methods}
    names = np.unique(fold)
    for f, other in zip(names, np.roll(names, -1), strict=True):
        test, inner = fold == f, (fold == other) | (fold == f)
        ask = torch.from_numpy(np.flatnonzero(fold == other))
        train, rest = (torch.from_numpy(np.flatnonzero(~m)) for m in (inner, test))
        hold = torch.from_numpy(np.flatnonzero(test))
        y = shelf.y[ask].numpy() > 0
        for m in methods:
            tried = list(METHODS[m].tried(shelf, train, ask))
            marks = np.array([areas(s, y, np.zeros(len(y))) for _, s in tried]) if len(tried) > 1 else np.zeros(1)
            tally[m].append(([k for k, _ in tried], marks))
            fitted = METHODS[m].fitted(shelf, rest, tried[int(marks.argmax())][0])
            s = fitted.score(hold)
            out[m][hold.numpy()] = (s - s.mean()) / (s.std() or 1.0)
    best = {m: t[0][0][int(np.sum([a for _, a in t], axis=0).argmax())] for m, t in tally.items()}
    return out, best


def _stability(
    shelf: Shelf, chosen: dict[str, dict[str, float]], methods: Sequence[str], parts: list[Tensor]
) -> list[float]:
    found = []
    everything = torch.arange(len(shelf.y))
    for m in methods:
        cosines = []
        for part in parts:
            other = everything[~torch.isin(everything, part)]
            if any(len(torch.unique(shelf.y[p])) < 2 for p in (part, other)):
                continue
            a, b = (METHODS[m].fitted(shelf, p, chosen[m], ROUGH).directions[0] for p in (part, other))
            cosines.append(float(abs(a @ b) / (a.norm() * b.norm())))
        found.append(float(np.mean(cosines)) if cosines else math.nan)
    return found
