"""The training examples of a run by how they were learned, from the per-example losses its loop handed over."""

from typing import Any

import numpy as np

from strobe.runs.run import Run


def examples_of(run: Run, most: int) -> dict[str, Any]:
    """Every example's mean, first and last loss, when it was learned, how often forgotten; the most suspect first.

    Suspicion is the mean loss over all recorded visits: mislabelled examples are learned last. Learned: the first visit
    after which the loss never again passed the run's median; forgotten: how often it passed it after being below.
    Raises `NameNotFound` without per-example losses.
    """
    steps, ids, losses = run.examples()
    order = np.lexsort((steps, ids))
    steps, ids, losses = steps[order], ids[order], losses[order].astype(float)
    names, starts, counts = np.unique(ids, return_index=True, return_counts=True)
    ends = starts + counts - 1
    own = np.repeat(np.arange(len(names)), counts)
    mean = np.bincount(own, losses) / counts
    spread = np.sqrt(np.maximum(np.bincount(own, (losses - mean[own]) ** 2) / np.maximum(counts - 1, 1) / counts, 0))
    level = float(np.median(losses))
    above = losses > level
    last_above = np.full(len(names), -1)
    np.maximum.at(last_above, own[above], np.flatnonzero(above))
    learned = [
        None if last == end else int(steps[start if last < 0 else last + 1])
        for start, end, last in zip(starts, ends, last_above, strict=True)
    ]
    again = np.concatenate([[False], above[1:] & ~above[:-1] & (own[1:] == own[:-1])])
    forgotten = np.bincount(own, again, minlength=len(names)).astype(int)
    top = np.argsort(-np.where(np.isfinite(mean), mean, np.inf), kind="stable")[:most]
    return {
        "total": len(names), "level": level, "ids": names[top].tolist(), "suspicion": mean[top].tolist(),
        "mean": mean[top].tolist(), "err": spread[top].tolist(), "first": losses[starts][top].tolist(),
        "last": losses[ends][top].tolist(), "times": counts[top].tolist(),
        "learned": [learned[i] for i in top], "forgotten": forgotten[top].tolist(), "marked": _marked(run),
    }  # fmt: skip


def _marked(run: Run) -> list[int]:
    """What this branch drops or re-weights."""
    return sorted({int(i) for e in run.facts["edits"] if e["act"] == "examples" for i in e["weights"]})


def one_example(run: Run, example: int) -> dict[str, Any]:
    """The loss of one example at each visit; empty where the run never saw it (a branch that drops it)."""
    steps, ids, losses = run.examples()
    hit = ids == example
    return {"steps": steps[hit].tolist(), "losses": losses[hit].tolist()}
