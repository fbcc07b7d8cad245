"""What studies of stages share: times of behaviours as boundaries, how near the methods come, and tables."""

from typing import Any

import numpy as np

from strobe.core.reading import Reading
from strobe.core.system import System
from strobe.observables.stages import boundaries


def behaviour(times: dict[str, tuple[float, float]], last: int) -> Reading:
    """Times of behaviours, name -> (log10 t, err), as boundaries between the first step and the last."""
    at, err = np.array(list(times.values())).T
    rows = boundaries("behaviour", 10**at, err, np.ones(len(at)), what=list(times))
    how = {"boundaries": rows, "low": 1.0, "high": float(last), "method": "behaviour"}
    return Reading(np.array([r["step"] for r in rows]), np.array([r["err"] for r in rows]), "steps", how)


def valued(steps: np.ndarray, values: np.ndarray, errs: np.ndarray, when: tuple[float, float]) -> Reading:
    """A series at a time that has an error itself: interpolated in log t, with its slope there."""
    x = np.log10(np.maximum(steps, 0.5))
    value, before, after = np.interp([when[0], when[0] - when[1], when[0] + when[1]], x, values)
    err = np.hypot(np.interp(when[0], x, errs), (after - before) / 2)
    return Reading(float(value), float(err), "attention", {"step": 10 ** when[0]})


def rise(steps: np.ndarray, values: np.ndarray, errs: np.ndarray, when: float, apart: float = 0.2) -> Reading:
    """A series 0.2 decades after a time less that before it, interpolated in log t; errors of the readings on both sides."""
    x = np.log10(np.maximum(steps, 0.5))
    low, high = np.interp([when - apart, when + apart], x, values)
    err = np.hypot(*np.interp([when - apart, when + apart], x, errs))
    return Reading(
        float(high - low),
        float(err),
        "",
        {"steps": [10 ** (when - apart), 10 ** (when + apart)], "values": [float(low), float(high)]},
    )


def worst_gap(found: Reading, times: list[tuple[float, float]], last: float) -> Reading:
    """max over times of the least |ln t / ln t' − 1|; where nothing was found that is 1.

    `how["chance"]`: how often as many boundaries thrown uniformly in log t meet 20%.
    """
    rows = found.how["boundaries"]
    if not rows:
        return Reading(1.0, 0.0, "ln t / ln t'", {"found": 0})
    worst, err, pairs = -1.0, 0.0, []
    for t, e in times:
        near = min(rows, key=lambda r: abs(np.log10(r["step"]) - t))
        gap = abs(np.log10(near["step"]) / t - 1)
        pairs.append([10**t, near["step"], gap])
        if gap > worst:
            worst, err = gap, float(np.hypot(near["decades"], e) / t)
    thrown = np.random.default_rng(0).uniform(0, last, (4000, len(rows)))
    at = np.array([t for t, _ in times])
    chance = float((np.abs(thrown[:, :, None] / at - 1).min(1).max(1) <= 0.2).mean())
    return Reading(float(worst), err, "ln t / ln t'", {"pairs": pairs, "found": len(rows), "chance": chance})


def boundary_table(found: dict[str, Reading]) -> list[dict[str, Any]]:
    """All boundaries of these readings, by step."""
    rows = [r for f in found.values() for r in f.how.get("boundaries", [])]
    return [
        {
            "step": r["step"],
            "err": r["err"],
            "method": r["method"],
            "sure": r["sure"],
            "what": r.get("what") or r.get("kind") or "",
        }
        for r in sorted(rows, key=lambda r: r["step"])
    ]


def agreement_table(agree: Reading) -> list[dict[str, Any]]:
    """A row for each pair of methods of `boundary_agreement`."""
    return [
        {"of": " and ".join(r["of"]), "share": r["share"], "err": r["err"], "by chance": r["chance"], "p": r["p"],
         "matching steps": "; ".join(f"{a:.0f} ~ {b:.0f}" for a, b in (m["steps"] for m in r["matches"]))}
        for r in agree.how["pairs"]
    ]  # fmt: skip


def summary(
    stages: list[dict[str, Any]], found: dict[str, Reading], agree: Reading, chances: dict[str, Any], world: System
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """Tables and facts of a study of stages: its own table of them, the boundaries by method, and how far these agree."""
    tables = {
        "stages": stages,
        "boundaries": boundary_table(found),
        "agreement between methods": agreement_table(agree),
    }
    facts = {
        "chance that random boundaries meet 20%": chances,
        "explained by PC 1, 2, 3": found["essential_dynamics"].how["explained"],
        "parameters": sum(p.numel() for p in world.build(0).parameters()),
    }
    return tables, facts
