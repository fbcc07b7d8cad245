"""The boundaries of a run's stages as the pages show them: where, found by which method, how sure, and who agrees."""

from collections.abc import Mapping
from math import hypot, log
from typing import Any

from strobe.runs.run import Run

OLD = "bends of the traces"  # the one method of runs that do not say theirs
FACTS = ("kind", "what", "turned")


def stages_of(run: Run) -> dict[str, Any] | None:
    """The last reading of the stages (or of the first method that found any), with `boundaries` of all methods; None without.

    Its `value` and `err`, a number for each boundary, cut the strip into stages.
    """
    sets = _sets(run)
    if not sets:
        return None
    main = sets["stages"] if "stages" in sets else next(iter(sets.values()))
    values = list(main["value"])
    errs = list(main["err"]) if isinstance(main["err"], list | tuple) else [main["err"]] * len(values)
    return {**main, "value": values, "err": errs, "boundaries": boundaries_of(sets)}


def boundaries_of(sets: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each boundary in these readings, by step: `step`, `err`, `method`, `sure` (None where it is not recorded),
    `of` the reading's name, `facts` in words, and `agrees`: methods with a boundary within two joint errors, and its step."""
    rows = [row for name, e in sets.items() for row in _rows(name, e)]
    for row in rows:
        row["agrees"] = [
            {"method": r["method"], "step": r["step"], "err": r["err"]}
            for r in rows
            if r["of"] != row["of"] and _agree(row, r)
        ]
    return sorted(rows, key=lambda r: float(r["step"]))


def _sets(run: Run) -> dict[str, Any]:
    """The last reading of each name that holds boundaries."""
    found: dict[str, Any] = {}
    for e in run.index.events("reading", superseded=False):
        if e["name"] == "stages" or "boundaries" in e["how"]:
            found[e["name"]] = e
    return found


def _rows(name: str, e: Mapping[str, Any]) -> list[dict[str, Any]]:
    how = e["how"]
    if "boundaries" in how:
        return [
            {
                "step": b["step"], "err": b["err"], "method": b["method"], "sure": b.get("sure"), "of": name,
                "facts": [_words(k, b[k]) for k in FACTS if k in b],
            }
            for b in how["boundaries"]
        ]  # fmt: skip
    values = list(e["value"])
    errs = e["err"] if isinstance(e["err"], list | tuple) else [e["err"]] * len(values)
    return [
        {"step": v, "err": s, "method": OLD, "sure": None, "of": name, "facts": []}
        for v, s in zip(values, errs, strict=True)
    ]


def _words(key: str, value: Any) -> str:
    return f"turns by {57.3 * value:.0f}°" if key == "turned" else str(value)


def _agree(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Within two joint errors of log t; an error below 2% is taken as 2%."""
    x, y = max(a["step"], 1e-9), max(b["step"], 1e-9)
    return abs(log(y / x)) <= 2 * hypot(max(a["err"] / x, 0.02), max(b["err"] / y, 0.02))
