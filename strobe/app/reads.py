"""What the pages read: runs, traces, events, stages, laws, examples, jobs."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query
from pydantic import Field

from strobe.app.boundaries import stages_of
from strobe.app.examples_table import examples_of, one_example
from strobe.app.feed import Feed, plain, series_of
from strobe.app.laws_table import laws_of
from strobe.app.report import panels_of
from strobe.app.worker import Jobs, Looker
from strobe.core.errors import Damaged, RunNotFound
from strobe.runs import directory
from strobe.runs.run import Run
from strobe.runs.trust import trusted

NAMES, POINTS = 64, 20_000  # series in one question; points of one series in one answer

Id = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Names = Annotated[list[str], Query(max_length=NAMES)]


def add_reads(app: FastAPI, feed: Feed, jobs: Jobs, looker: Looker) -> None:
    """Add the reading routes."""

    @app.get("/api/runs")
    def runs() -> dict[str, Any]:
        """Every run below the folder, newest first."""
        return {"root": str(feed.root), "runs": feed.rows()}

    @app.get("/api/runs/{id}")
    def run(id: Id) -> dict[str, Any]:
        """One run: its series, snapshots, controls, lineage, and what to draw."""
        looker.warm()  # who opens a run soon looks inside
        with feed.lock:
            return run_page(feed, feed.run(id))

    @app.get("/api/runs/{id}/series")
    def series(
        id: Id, name: Names, points: Annotated[int, Query(ge=2, le=POINTS)] = 800, lo: int | None = None, hi: int | None = None,
        log: bool = True, lineage: bool = False,
    ) -> dict[str, Any]:  # fmt: skip
        """Traces, thinned by least and largest, so that no spike is lost."""
        out: dict[str, Any] = {}
        with feed.lock:
            r = feed.run(id)
            for n in name:
                out |= series_of(r, n, points=points, lo=lo, hi=hi, log=log, lineage=lineage)
        return {"series": out}

    @app.get("/api/compare")
    def compare(
        id: Annotated[list[Id], Query(max_length=NAMES)], name: str, points: Annotated[int, Query(ge=2, le=POINTS)] = 400, log: bool = True,
    ) -> dict[str, Any]:  # fmt: skip
        """One trace of several runs, by run."""
        out = {}
        with feed.lock:
            for i in id:
                found = series_of(feed.run(i), name, points=points, lo=None, hi=None, log=log, lineage=True)
                if found:
                    out[i] = next(iter(found.values()))
        return {"series": out}

    @app.get("/api/runs/{id}/events")
    def events(id: Id, type: str | None = None) -> dict[str, Any]:
        """What happened, in the order it was written."""
        with feed.lock:
            return {"events": [plain(e) for e in feed.run(id).events(type)][-5000:]}

    @app.get("/api/runs/{id}/stages")
    def stages(id: Id) -> dict[str, Any] | None:
        """The last detected stage boundaries with their errors, and those of every method: which found them, how sure it is."""
        with feed.lock:
            found = stages_of(feed.run(id))
        if found is None:
            return None
        return {k: plain(found[k]) for k in ("value", "err", "how", "boundaries")}

    @app.get("/api/runs/{id}/laws")
    def laws(id: Id) -> dict[str, Any]:
        """Sealed predictions and their verdicts."""
        with feed.lock:
            return {"rows": plain(laws_of(feed.run(id)))}

    @app.get("/api/runs/{id}/reading")
    def reading(id: Id, name: str, step: int | None = None) -> dict[str, Any]:
        """Full readings: value, error, unit, and how each was measured."""
        with feed.lock:
            rows = feed.run(id).readings(name)
        keep = [r for r in rows if step is None or r["step"] == step][-500:]
        return {"readings": [plain({k: r.get(k) for k in ("step", "value", "err", "unit", "how")}) for r in keep]}

    @app.get("/api/runs/{id}/examples")
    def examples(id: Id, most: Annotated[int, Query(ge=1, le=2000)] = 500) -> dict[str, Any]:
        """The training examples by suspicion: their mean loss over the run."""
        with feed.lock:
            return plain(examples_of(feed.run(id), most))

    @app.get("/api/runs/{id}/examples/{example}")
    def example(id: Id, example: int) -> dict[str, Any]:
        """The loss of one training example along the run."""
        with feed.lock:
            return plain(one_example(feed.run(id), example))

    @app.get("/api/jobs/{job}")
    def job(job: str) -> dict[str, Any]:
        """How far a fork or a trace is."""
        found = jobs.get(job)
        if found is None:
            raise RunNotFound(
                "there is no such job; the server may have been started anew since: look at the list of runs"
            )
        out = found.pop("out")
        place = Path(out) if out else None
        found["run"] = directory.describe(place)["id"] if place and directory.exists(place) else None
        return found


def run_page(feed: Feed, run: Run) -> dict[str, Any]:
    """All that the page of one run starts from."""
    index = run.index
    counts = index.counts()
    try:
        ancestors = run.ancestors()
    except (RunNotFound, Damaged):
        ancestors = []  # what the row says of its parent stands; the rest cannot be found
    ends = [*(a.start for a in ancestors[1:]), run.start]
    lineage = [{"id": a.facts["id"], "name": a.name, "until": end} for a, end in zip(ancestors, ends, strict=False)]
    rows = [feed.row(id) for id in feed._places]
    branches = sorted(
        (r for r in rows if (r["parent"] or {}).get("id") == run.facts["id"]), key=lambda r: (r["created"], r["name"])
    )
    arrays = {e["name"] for e in index.events("reading", superseded=False) if np.ndim(e["value"])}
    cursor, entry = run.cursor, run.facts["entry"]
    ours = trusted(run.path, run.facts)
    why = "" if entry else "it was recorded from a notebook or a test; record with entry=(function, keyword arguments)"
    if entry and cursor == "none":
        why = "its loop draws its own batches, so it can only be replayed and forked from step 0"
    return {
        **feed.row(run.facts["id"]),
        "stored": run.stored(),
        "series": [
            {"name": k, "points": n, "last_step": hi, "scalar": scalar, "last": _last(run, k)}
            for k, (n, hi, scalar) in counts.items()
        ],
        "arrays": sorted(arrays), "controls": controls_of(run), "replayable": not why, "why_not": why, "trusted": ours,
        "examples": bool(index.ask("SELECT 1 FROM arrays WHERE kind = 'examples' LIMIT 1")),
        "lineage": lineage, "branches": [{k: b[k] for k in ("id", "name", "start", "last", "status", "edits")} for b in branches],
        "objects": run.facts["objects"], "surroundings": plain(run.facts["surroundings"]), "entry": plain(entry),
        "panels": plain([asdict(p) for p in panels_of(run)]),
    }  # fmt: skip


def _last(run: Run, name: str) -> Any:
    values = run.index.tail(name)[1]
    return plain(values[-1]) if len(values) else None


def controls_of(run: Run) -> list[dict[str, Any]]:
    """The controls of the newest writer, with the last value that was set."""
    known: dict[str, dict[str, Any]] = {}
    for e in run.events():
        if e["type"] == "controls":
            known = {k: {"name": k, "low": 0.0, "high": None, "unit": "", "value": v} for k, v in e["values"].items()}
        elif e["type"] == "control":
            known[e["name"]] = {
                "name": e["name"],
                "low": e["low"],
                "high": e["high"],
                "unit": e["unit"],
                "value": known.get(e["name"], {}).get("value"),
            }
        elif e["type"] in ("applied", "edit") and e.get("act") == "set" and e["name"] in known:
            known[e["name"]]["value"] = e["value"]
    return [plain(c) for c in known.values()]
