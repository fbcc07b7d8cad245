"""One self-contained HTML page of a run: the strip, the verdicts, the branches, what ran. Opens from disk, offline."""

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from strobe.app.boundaries import stages_of
from strobe.app.laws_table import laws_of, number, verdicts
from strobe.app.strip import draw, draw_path
from strobe.app.traces import WHOLE, Panel, View, at_playhead
from strobe.core.errors import BadOption, NameNotFound, NotARun, near
from strobe.core.report import Report, columns
from strobe.runs import directory
from strobe.runs.run import Run, open_run, runs_below


def report_of(path: Path) -> Report:
    """The report of a run, or of a directory of runs, from what their journals hold."""
    found = [open_run(path)] if directory.exists(path) else sorted(runs_below(path), key=lambda r: r.facts["created"])
    if not found:
        raise NotARun(f"{path} holds no run")
    family = [r for run in found for r in ([run, *run.branches()] if directory.exists(path) else [run])]
    return Report(_question(found[0]) or f"What happened in {found[0].name}?", [], [r.path for r in family])


def write_report(report: Report, out: Path, *, only: set[str] | None = None, view: View = WHOLE) -> Path:
    """Write the page of a report; returns its path. Every number on it is read back from the runs' journals.

    `only`: draw these series and leave out panels that then are empty; all by default. `view`: how to look at each run.
    Raises `BadOption` and `NameNotFound` for a view of what is not there.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

    runs = [open_run(p) for p in report.runs]
    known = {r.facts["id"] for r in runs}
    trunks = [r for r in runs if (r.facts["parent"] or {}).get("id") not in known]
    env = Environment(
        loader=PackageLoader("strobe.app"), autoescape=select_autoescape(["html"]), undefined=StrictUndefined
    )
    env.filters["num"], env.filters["err"] = number, lambda x: number(x, digits=2)
    env.globals["pm"] = plus_minus
    page = env.get_template("report.html").render(
        question=report.question,
        parts=[_part(t, [r for r in runs if _below(r, t, runs)], only, view) for t in trunks],
        tables={name: (columns(rows), rows) for name, rows in report.tables.items() if rows},
        facts={k: v for k, v in report.facts.items() if k != "not_computed"},
        missing=report.facts.get("not_computed", []),
        citations=report.citations,
        made=time.strftime("%Y-%m-%d %H:%M"),
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    beside = out.with_name(f".{out.name}.{os.getpid()}")
    beside.write_text(page, encoding="utf-8")
    os.replace(beside, out)
    return out


def plus_minus(value: float, err: float) -> str:
    """A number with its error, to the second digit of the error."""
    if not (err > 0 and np.isfinite(err) and 1e-4 <= max(abs(value), err) < 1e6):
        return number(value) + (f" ± {number(err, digits=2)}" if err else "")
    places = min(max(1 - int(np.floor(np.log10(err))), 0), 9)
    return f"{value:.{places}f} ± {err:.{places}f}"


def _below(r: Run, trunk: Run, runs: Sequence[Run]) -> bool:
    by_id = {x.facts["id"]: x for x in runs}
    parent = (r.facts["parent"] or {}).get("id")
    while parent:
        if parent == trunk.facts["id"]:
            return True
        parent = (by_id[parent].facts["parent"] or {}).get("id") if parent in by_id else None
    return False


def _part(run: Run, family: list[Run], only: set[str] | None, view: View) -> dict[str, Any]:
    stages = stages_of(run)
    page: dict[str, Any] = next((e for e in reversed(run.events("page"))), {})
    branches = [b for b in family if view.branches is None or b.facts["id"] in view.branches]
    panels = panels_in(run, view, only)
    return {
        "run": run, "branches": branches, "about": run.facts["about"], "surroundings": run.facts["surroundings"],
        "strip": draw(run, panels, branches, stages, view, laws_of(run)), 
        "path": draw_path(run, ("trajectory_pca", "essential_dynamics"), stages),
        "view": _in_words(view, len(family) - len(branches)) if view != WHOLE else "", "playhead": view.playhead,
        "points": [] if view.playhead is None else at_playhead(panels, run, branches, view),
        "caption": page.get("caption", ""), "verdicts": [v for r in (run, *branches) for v in verdicts(r)],
        "open": [e for e in run.events("prediction") if e["seal"] not in {v["predicted"]["seal"] for v in run.events("verdict")}],
        "stages": stages["how"].get("stages", []) if stages else [], "boundaries": stages["boundaries"] if stages else [],
        "edges": stages["err"] if stages else [],
        "replays": run.events("replay"), "edits": {b.name: b.facts["edits"] for b in branches},
        "errors": [e for e in run.events() if e["type"] in ("error", "nonfinite")],
    }  # fmt: skip


def _in_words(view: View, left_out: int) -> str:
    """What of the run is drawn."""
    said = [
        f"steps {view.window[0]} to {view.window[1]}" if view.window else "all steps",
        f"{'logarithmic' if view.log else 'linear'} axis",
        *([f"playhead at {view.playhead}"] if view.playhead is not None else []),
        *([f"{left_out} {'branch' if left_out == 1 else 'branches'} left out"] if left_out else []),
    ]
    return ", ".join(said)


def panels_of(run: Run, asked: Sequence[str] | None = None) -> list[Panel]:
    """What to draw of a run: as its study said, or a panel for each series; or what is `asked` for.

    `asked` names titles of panels or series, in the order wanted. Raises `NameNotFound`.
    """
    page = next((e for e in reversed(run.events("page"))), None)
    declared = [Panel(**p) for p in page["panels"]] if page else _default_panels(run)
    if asked is None:
        return declared
    known = {p.series[0]: p for p in reversed(declared) if len(p.series) == 1} | {
        p.title: p for p in reversed(declared)
    }
    readings = {e["name"] for e in run.index.events("reading")}
    older = [n for a in run.ancestors() for n in a.names()]
    every = list(dict.fromkeys([*known, *(n for p in declared for n in p.series), *run.names(), *readings, *older]))
    for name in asked:
        if name not in every and name.partition("[")[0] not in readings:
            raise NameNotFound(f"{run.name} has no series {name!r}; {near(name, every)}")
    return [known.get(n, Panel(n, [n])) for n in asked]


def panels_in(run: Run, view: View, only: set[str] | None = None) -> list[Panel]:
    """The panels of a view, without series that are not asked for. Raises `BadOption` and `NameNotFound`."""
    panels = panels_of(run, view.panels or None)
    if wrong := [i for i in view.flips if i >= len(panels)]:
        raise BadOption(f"flips names panel {wrong[0]}, and the panels are 0 to {len(panels) - 1}")
    panels = [replace(p, log=not p.log) if i in view.flips else p for i, p in enumerate(panels)]
    if only is not None:
        kept = [replace(p, series=[n for n in p.series if n in only]) for p in panels]
        panels = [p for p in kept if p.series]
    return panels


def _default_panels(run: Run) -> list[Panel]:
    """One panel per series; array readings one each. Names before a slash share a panel."""
    readings = list(run.index.events("reading"))
    names = list(dict.fromkeys([*run.names(), *(e["name"] for e in readings)]))
    apart = {"stages", "trajectory_pca", "essential_dynamics", "boundary_agreement"} | {
        e["name"] for e in readings if "boundaries" in e["how"]
    }
    groups: dict[str, list[str]] = {}
    for n in names:
        if n not in apart:
            groups.setdefault(n.partition("/")[0], []).append(n)
    return [Panel(title=g, series=s) for g, s in groups.items()][:24]


def _question(run: Run) -> str:
    return next((e["question"] for e in reversed(run.events("page")) if e.get("question")), "")
