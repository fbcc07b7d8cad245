"""The scoreboard: every law of the mechanics of learning on its own setting, with what it predicted, what was measured, and the verdict."""

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from strobe.core.cards import study
from strobe.core.catalogue import lookup
from strobe.core.errors import BadOption, near
from strobe.core.prediction import Verdict
from strobe.core.report import Report
from strobe.studies.docket import Progress, sized

QUESTION = "Which laws of the mechanics of learning hold here, which fail, and where?"
STRANDS = {
    "solvable settings": (
        "deep_linear",
        "conserved",
        "implicit_bias",
        "kernel_curves",
        "kernel_scaling",
        "closed_forms",
        "collapse",
    ),
    "tractable limits": ("limits", "depth", "residual_depth"),
    "empirical laws": ("edge", "catapult", "central_flow", "features", "scaling", "data_scaling"),
    "hyperparameters": ("width_transfer", "transformer_transfer", "batch_scaling"),
    "universality": ("universality", "width_spectra", "diffusion"),
}
FAST = (
    "deep_linear",
    "conserved",
    "catapult",
    "collapse",
    "edge",
)  # the studies of `strobe verify-laws`, and of "tiny"
AT_ONCE = 2  # processes at "small" and "full", of one thread each


@study(question="Which laws of the mechanics of learning hold, which fail, and where?", ref="arXiv:2604.21691")
def learning_mechanics(
    out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None, only: Sequence[str] = ()
) -> Report:
    """Run every study of the five strands of learning mechanics and draw up one table of their laws.

    Each study seals its predictions before it measures; what is marked "must fail" is a null or a rival, whose failing shows that the
    measurement can tell. A study that stops with an error is named under "not computed" and the others go on.
    Args: only, names of some of the studies; by default those of `FAST` at "tiny", all at "small" and "full".
    Cost: under a minute at "tiny", up to half an hour at "small" on two cores.
    Raises `BadOption` for an unknown study or scale.
    """
    sized(scale, {"tiny": 0, "small": 0, "full": 0})
    every = {name: strand for strand, names in STRANDS.items() for name in names}
    chosen = list(only) or list(FAST if scale == "tiny" else every)
    if odd := [n for n in chosen if n not in every]:
        raise BadOption(f"learning_mechanics has no study {odd[0]!r}; {near(odd[0], list(every))}")
    reports: dict[str, Report] = {}
    failed: list[str] = []
    took: dict[str, float] = {}
    jobs = [(name, out / name, scale, seed) for name in chosen]
    for name, found, seconds in _together(jobs, 1 if scale == "tiny" else AT_ONCE):
        took[name] = seconds
        if isinstance(found, Report):
            reports[name] = found
            failed += [f"{name}: {text}" for text in found.facts.get("not_computed", [])]
        else:
            failed.append(f"{name}: {found}")
        if progress:
            progress("studies", len(took), len(jobs))
    rows, laws, costs = [], dict[str, dict[str, Any]](), []
    for name in chosen:
        if name not in reports:
            continue
        for v in reports[name].verdicts:
            rows.append({"study": name, **_row(v)})
            law = v.predicted.law.rpartition(":")[2]
            if not law or must_fail(v):
                continue
            mine = laws.setdefault(law, {"law": law, "strand": every[name], "holds": 0, "fails": 0, "undecided": 0, "outside": 0,
                                         "fitted": v.predicted.fitted, "ref": v.predicted.ref})  # fmt: skip
            mine[v.word] += 1
        costs.append({"study": name, "seconds": round(took[name], 1)})
    verdicts = [v for name in chosen if name in reports for v in reports[name].verdicts]
    runs = [p for name in chosen if name in reports for p in reports[name].runs]
    cited = list(dict.fromkeys(c for name in chosen if name in reports for c in reports[name].citations))
    facts: dict[str, Any] = {"laws": len(laws), "unexpected": [str(v) for v in unexpected(verdicts)]}
    if failed:
        facts["not_computed"] = failed
    return Report(
        QUESTION, verdicts, runs, {"laws": list(laws.values()), "predictions": rows, "cost": costs}, cited, facts
    )


def must_fail(v: Verdict) -> bool:
    """Is it a null or a rival, that a measurement worth its name refutes?"""
    return "must fail" in v.predicted.of


def unexpected(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Laws that fail, and nulls that do not."""
    return [v for v in verdicts if (v.word != "fails" if must_fail(v) else v.word == "fails") and v.word != "outside"]


def _row(v: Verdict) -> dict[str, Any]:
    p, m = v.predicted, v.measured
    sign = {"both": "", "below": "<= ", "above": ">= "}[p.side]
    value = f"{np.size(p.value)} numbers, tol" if np.ndim(p.value) else f"{p.value:.4g} ±"
    said = f"{sign}{value} {np.max(p.tol):.2g}"
    return {
        "prediction": p.of,
        "predicted": said,
        "measured": str(m),
        "verdict": v.word,
        "fitted": p.fitted,
        "regime": p.when,
    }


def _together(jobs: list[tuple[str, Path, str, int]], workers: int) -> Iterator[tuple[str, Report | str, float]]:
    """(name, its report or what went wrong, seconds) as each ends."""
    workers = min(workers, os.cpu_count() or 1, len(jobs))
    if workers < 2:
        yield from map(_one, jobs)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done in as_completed([pool.submit(_one, job) for job in jobs]):
            yield done.result()


def _one(job: tuple[str, Path, str, int]) -> tuple[str, Report | str, float]:
    name, out, scale, seed = job
    torch.set_num_threads(1)
    began = time.process_time()
    try:
        found: Report | str = lookup(name, "study")(out, scale=scale, seed=seed)
    except Exception as e:  # one study's end is not the others'
        found = f"{type(e).__name__}: {e}"
    return name, found, time.process_time() - began
