"""What the pages do: commands to a live run, looks, forks, the report."""

import re
import tempfile
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field

from strobe.app.feed import Feed
from strobe.app.reads import Id, controls_of
from strobe.app.report import report_of, write_report
from strobe.app.traces import WHOLE, View
from strobe.app.worker import Jobs, Looker
from strobe.core.catalogue import Entry, catalogue
from strobe.core.errors import BadOption, near
from strobe.runs.control import ACTS, send
from strobe.runs.levers import parse_edit
from strobe.runs.trust import check

LABEL = 120  # characters of what a person calls an edit
TEXTS = 400  # of each kind, as many as the look `concept` reads
LONGEST = 4096  # numbers in an option of an edit: as many as the look `directions` gives
Step = Annotated[int, Field(ge=0, le=2**53)]
SEGMENT = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,80}$")


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
    edits: list[Annotated[str, Field(max_length=500)] | dict[str, Any]] = Field(default_factory=list, max_length=32)
    until: int | None = Field(None, ge=0, le=2**53)
    name: str | None = Field(None, max_length=81)


class TraceBody(Body):
    """A concept to follow along the run."""

    step: int = Field(ge=0, le=2**53)
    site: str = Field(max_length=500)
    positive: list[Annotated[str, Field(max_length=LONGEST)]] = Field(min_length=1, max_length=TEXTS)
    negative: list[Annotated[str, Field(max_length=LONGEST)]] = Field(min_length=1, max_length=TEXTS)
    name: str = Field("concept", min_length=1, max_length=LABEL)


class ViewBody(Body):
    """What is on a person's screen."""

    log: bool = True
    window: tuple[Step, Step] | None = None
    playhead: Step | None = None
    panels: list[Annotated[str, Field(max_length=500)]] = Field(default_factory=list, max_length=200)
    flips: list[Annotated[int, Field(ge=0, le=2000)]] = Field(default_factory=list, max_length=200)
    branches: list[Id] | None = Field(None, max_length=200)


class ReportBody(Body):
    """What the report is to show; all of the run's own panels by default."""

    question: str = Field("", max_length=300)
    series: list[str] | None = Field(None, max_length=2000)
    view: ViewBody | None = None


def add_acts(app: FastAPI, feed: Feed, jobs: Jobs, looker: Looker) -> None:
    """Add the routes that do something. Each is a POST, which the guard asks a header of."""

    @app.post("/api/runs/{id}/commands")
    def command(id: Id, body: CommandBody) -> dict[str, str]:
        """Ask the loop that writes this run for something; it answers in the journal, as an event `command`."""
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
        check(run.path, run.facts)
        run.check_step(body.step)
        other = args.pop("other", None)
        if other is not None:
            try:
                asked = Other.model_validate(other)
            except ValueError:
                raise BadOption("other is {run: id, step: n}") from None
            beside = feed.run(asked.run)
            check(beside.path, beside.facts)
            other = {"run": str(beside.path.resolve()), "step": beside.check_step(asked.step)}
        found: dict[str, Any] = looker.ask(
            run=str(run.path.resolve()), view=body.view, step=body.step, args=args, other=other
        )
        return found

    @app.post("/api/runs/{id}/fork")
    def fork(id: Id, body: ForkBody) -> dict[str, str]:
        """Make a branch from a step, with edits, in a process of its own."""
        run = feed.run(id)
        check(run.path, run.facts)
        step = run.check_step(body.step)
        edits = [safe_edit(e, {c["name"] for c in controls_of(run)}) for e in body.edits]
        if body.name is not None and (not SEGMENT.fullmatch(body.name) or (run.path.parent / body.name).exists()):
            raise BadOption("a branch's name is letters, digits, dots, dashes and underscores, and not taken")
        if body.until is not None and body.until < step:
            raise BadOption(f"until = {body.until} is before the fork step {step}")
        job = jobs.fork(
            run.path.resolve(),
            step=step,
            edits=edits,
            until=body.until,
            name=body.name,
            author="human (page)",
            cwd=str(Path.cwd()),
        )
        return {"job": job}

    @app.post("/api/runs/{id}/trace")
    def trace(id: Id, body: TraceBody) -> dict[str, str]:
        """Put a concept on the strip of a run: how well it can be read at its stored steps, in a process of its own."""
        run = feed.run(id)
        check(run.path, run.facts)
        asked = body.model_dump() | {"step": run.check_step(body.step), "cwd": str(Path.cwd())}
        return {"job": jobs.trace(run.path.resolve(), **asked)}

    @app.post("/api/runs/{id}/report")
    async def report(id: Id, body: ReportBody) -> Response:
        """One self-contained HTML page of the run and its branches."""
        run = feed.run(id)
        page = await run_in_threadpool(_report, run.path, body)
        return Response(
            page,
            media_type="text/html",
            headers={"content-disposition": f'attachment; filename="strobe-{id[:8]}.html"'},
        )


def _report(place: Path, body: ReportBody) -> str:
    report, only, view = report_of(place), None if body.series is None else set(body.series), WHOLE
    if (seen := body.view) is not None:
        shown = None if seen.branches is None else frozenset(seen.branches)
        view = View(
            seen.log, seen.window, seen.playhead, tuple(seen.panels), frozenset(seen.flips), shown, lineage=True
        )
    with tempfile.TemporaryDirectory() as folder:
        report = replace(report, question=body.question or report.question)
        return write_report(report, Path(folder) / "page.html", only=only, view=view).read_text("utf-8")


@cache
def _edits() -> dict[str, Entry]:
    return {e.name: e for e in catalogue() if e.kind == "edit"}


def _plain(option: Any) -> bool:
    """May an edit's option come from the outside: text, a number, or a flat list of numbers (a direction)?"""
    if isinstance(option, list):
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e300 for v in option)
        return len(option) <= LONGEST and numbers
    return isinstance(option, str | int | float)


def safe_edit(edit: str | dict[str, Any], controls: set[str]) -> dict[str, Any]:
    """An edit from the outside as plain data: a control, examples, or an edit of the catalogue; never an import path.

    Raises `BadOption`.
    """
    known = _edits()
    if isinstance(edit, str):
        name = re.match(r"^\s*([A-Za-z_]\w*)\s*(\(|=)", edit)
        if not name or (name[1] not in known and name[1] not in controls):
            raise BadOption(f"cannot read the edit {edit[:100]!r}; there are {', '.join([*known, *sorted(controls)])}")
    elif edit.get("act") == "site":
        kwargs = edit.get("kwargs") or {}
        plain = isinstance(kwargs, dict) and all(_plain(v) for v in kwargs.values())
        if (
            str(edit.get("edit")) not in {e.path for e in known.values()}
            or not isinstance(edit.get("site"), str)
            or not plain
        ):
            raise BadOption(
                f"an edit at a site names one of {', '.join(e.path for e in known.values())}; "
                f"its options are text, numbers, or lists of at most {LONGEST} finite numbers"
            )
        label = str(edit.get("label") or "")[:LABEL]
        edit = {
            "act": "site",
            "site": edit["site"],
            "edit": edit["edit"],
            "kwargs": dict(kwargs),
            **({"label": label} if label else {}),
        }
    elif edit.get("act") == "set":
        value = edit.get("value")
        number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300
        if str(edit.get("name")) not in controls or not number:
            raise BadOption(f"a set names one of {', '.join(sorted(controls))} and a number")
        edit = {"act": "set", "name": edit["name"], "value": float(edit["value"])}
    elif edit.get("act") != "examples":
        raise BadOption("an edit is text, or has act: set, site or examples")
    return parse_edit(edit, {})
