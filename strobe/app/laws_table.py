"""The table of a run's sealed predictions: what was said, how it is judged, what would refute it."""

import ast
import importlib.util
from functools import cache
from typing import Any

import numpy as np

from strobe.runs.notes import content, seal_of
from strobe.runs.run import Run

PROMPT = ">" * 3  # of an example in a docstring


def number(x: Any, digits: int = 4) -> str:
    """A number as a person writes it; a curve by its size and range; words as they are."""
    if x is None:
        return "not measured"
    if isinstance(x, bool) or not isinstance(x, int | float | list):
        return str(x)
    if isinstance(x, list) and any(isinstance(a, str) for a in x):
        return "; ".join(map(str, x))
    if np.ndim(x):
        v = np.asarray(x, float)
        return (
            f"{v.size} values, {v.min():.{digits}g} to {v.max():.{digits}g}"
            if v.size > 4
            else ", ".join(f"{a:.{digits}g}" for a in v.ravel())
        )
    return str(x) if isinstance(x, int) else f"{x:.{digits}g}"


def verdicts(run: Run) -> list[dict[str, Any]]:
    """The verdicts of a run, each checked against its seal: same content, hashed, written before the verdict."""
    sealed = {e["seal"]: e for e in run.events("prediction")}
    ends = [(e["file"], e["at"]) for e in run.events("finished")]
    out = []
    for v in run.events("verdict"):
        p = v["predicted"]
        e = sealed.get(p["seal"])
        good = (
            e is not None
            and (e["file"], e["at"]) < (v["file"], v["at"])
            and seal_of(e["prediction"], e["step"]) == p["seal"]
            and content(p) == e["prediction"]
            and not run.index.recorded_before(v["measured"]["value"], e["time"])
        )
        late = e is not None and bool(ends) and (e["file"], e["at"]) > ends[0]
        sign = {"both": "", "below": "at most ", "above": "at least "}[p["side"]]
        out.append({**v, "sealed": good, "late": late, "sealed_at": e["step"] if e else None, "sealed_time": e["time"] if e else 0,
                    "said": sign + number(p["value"]), "tol": number(float(np.max(p["tol"]))), "run": run.name})  # fmt: skip
    return out


def laws_of(run: Run) -> list[dict[str, Any]]:
    """One row a sealed prediction, in the order they were sealed, with its verdict where there is one."""
    judged = {v["predicted"]["seal"]: v for v in verdicts(run)}
    known = set(run.index.counts())
    return [_row(e, judged.get(e["seal"]), known) for e in run.events("prediction")]


def _row(e: dict[str, Any], v: dict[str, Any] | None, known: set[str]) -> dict[str, Any]:
    p = e["prediction"]
    series = str(p.get("series") or "") or (
        p["of"] if p["of"] in known else ""
    )  # an older run says it only where they are the same
    sign = {"both": "", "below": "at most ", "above": "at least "}[p["side"]]
    verdict = None
    if v is not None:
        measured = {k: v["measured"][k] for k in ("value", "err", "unit", "how")}
        verdict = {"word": v["word"], "why": v["why"], "step": v["step"], **measured}
    return {
        **{k: p[k] for k in ("of", "law", "knobs", "side", "when", "ref", "fitted", "tol")},
        "series": series, "steps": _steps(p.get("steps")), "formula": _formula(p["law"]),
        "predicted": p["value"], "said": sign + number(p["value"]),
        "sealed_step": e["step"], "sealed_time": e["time"], "seal": e["seal"], "sealed": v is None or v["sealed"],
        "late": bool(v and v["late"]), "falsified_by": _refuted(p),
        "verdict": verdict,
    }  # fmt: skip


def _steps(said: Any) -> list[int]:
    """A journal may hold anything."""
    return said if isinstance(said, list) and all(isinstance(s, int) for s in said) else []


def _refuted(p: dict[str, Any]) -> str:
    """In words: which measurement would make `judge` say "fails"."""
    value, tol = np.asarray(p["value"], float), np.asarray(p["tol"], float)
    if value.ndim:
        worst = number(float(np.max(tol)))
        return f"any point of the curve farther than its tolerance (at most {worst}) from it, two errors allowed"
    low, high = number(float(value - tol)), number(float(value + tol))
    beyond = {"both": f"below {low} or above {high}", "below": f"above {high}", "above": f"below {low}"}[p["side"]]
    return f"a measurement {beyond}, with twice its error to spare" + (f", while {p['when']}" if p["when"] else "")


@cache
def _formula(law: str) -> str:
    """The indented formula in the docstring of a law of this package, read without importing it."""
    module, _, name = law.partition(":")
    if not module.startswith("strobe.laws."):
        return ""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return ""
    with open(spec.origin, encoding="utf-8") as f:
        tree = ast.parse(f.read())
    doc = next((ast.get_docstring(n) or "" for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name), "")
    block: list[str] = []
    for line in doc.splitlines():
        if line.startswith("    ") and line.strip() and not line.strip().startswith(PROMPT):
            block.append(line.strip())
        elif block:
            break
    return "\n".join(block)
