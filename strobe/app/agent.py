"""`strobe mcp`: the same reads, and on request the same levers, for an agent over stdio (Model Context Protocol).

Reading tools only, unless `--allow-control`. What an agent does to a run is in the run's journal under its name, as
what a person does is. Never evaluates code, never opens a path that an agent names.
"""

import time
from functools import partial
from pathlib import Path
from typing import Any

from anyio import sleep, to_thread
from mcp.server.fastmcp import FastMCP
from mcp.server.fastmcp.exceptions import ToolError

from strobe.app.acts import safe_edit
from strobe.app.boundaries import stages_of
from strobe.app.feed import Feed, plain, series_of
from strobe.app.laws_table import laws_of
from strobe.app.reads import run_page
from strobe.app.worker import Jobs, Looker
from strobe.core.errors import StrobeError
from strobe.runs.control import send
from strobe.runs.run import Run
from strobe.runs.trust import check

AUTHOR = "agent (mcp)"
ABOUT = """Strobe records neural-network training so that any step can be reopened. Call list_runs first; a run is named by
its id. Every measured number comes with its error. A verdict is holds, fails, undecided or outside (its regime)."""


def make_server(root: Path, *, allow_control: bool) -> FastMCP:
    """The agent interface over the runs below `root`."""
    server, feed, looker = FastMCP("strobe", instructions=ABOUT), Feed(root), Looker()

    def found(run: str) -> Run:
        try:
            return feed.run(run)
        except StrobeError as e:
            raise ToolError(str(e)) from e

    @server.tool()
    def list_runs() -> list[dict[str, Any]]:
        """Every run and branch: id, name, status, last step and loss, parent, edits, verdict counts."""
        return feed.rows()

    @server.tool()
    def describe_run(run: str) -> dict[str, Any]:
        """One run: its series, stored steps, controls with ranges, lineage, and whether it can be replayed."""
        page = _said(run_page, feed, found(run))
        return {k: v for k, v in page.items() if k not in ("panels", "surroundings")}

    @server.tool()
    def read_trace(run: str, name: str, points: int = 200, lineage: bool = False) -> dict[str, Any]:
        """A series with errors, thinned to about `points` by least and largest. `name[i]`: element i of an array reading."""
        got = series_of(found(run), name, points=max(2, min(points, 5000)), lo=None, hi=None, log=True, lineage=lineage)
        if not got:
            raise ToolError(f"there is no series {name!r}; describe_run lists them")
        return got

    @server.tool()
    def read_events(run: str, type: str = "", last: int = 100) -> list[dict[str, Any]]:
        """What happened: commands and who gave them, edits, predictions, verdicts, errors. The last `last` of a type."""
        return [plain(e) for e in found(run).events(type or None)[-max(1, min(last, 1000)) :]]

    @server.tool()
    def read_laws(run: str) -> list[dict[str, Any]]:
        """Sealed predictions: formula, tolerance, regime, reading with error, verdict, what would refute it."""
        return [plain(r) for r in laws_of(found(run))]

    @server.tool()
    def read_stages(run: str) -> dict[str, Any]:
        """The developmental stages that were detected: boundaries with errors, method and how sure each is; what rises and falls."""
        stages = stages_of(found(run))
        if stages is None:
            raise ToolError("no stages were detected in this run")
        return {k: plain(stages[k]) for k in ("value", "err", "how", "boundaries")}

    @server.tool()
    async def look(run: str, step: int, view: str, args: dict[str, Any] | None = None) -> dict[str, Any]:
        """Inside the model at a step. view: modules, tokens, attention, lens, activation, parameter, examples, directions, dose.

        args by view: tokens/attention/lens {"text"} or {"example"}; activation {"site"}; parameter {"site": "path:param.weight"};
        directions {"site"}; dose {"site", "edit": "scale", "doses": [0, 0.5, 1]}, for a direction {"edit": "scale_direction",
        "direction", "mean"}. Start with modules: it lists the sites and heads.
        """
        r = found(run)
        _said(check, r.path, r.facts)
        at = _said(r.check_step, step)
        ask = partial(looker.ask, run=str(r.path.resolve()), view=view, step=at, args=args or {}, other=None)
        return await to_thread.run_sync(_said, ask)  # the session answers meanwhile

    if allow_control:
        _levers(server, feed, found)
    return server


def _levers(server: FastMCP, feed: Feed, found: Any) -> None:
    jobs = Jobs()

    @server.tool()
    async def command(
        run: str, act: str, name: str = "", value: float | None = None, step: int | None = None, expires_in: float = 300
    ) -> dict[str, Any]:
        """Ask a live run: act is pause, resume, stop, snapshot, set (name, value) or rewind (step). Waits for its answer."""
        r = found(run)
        if not r.live:
            raise ToolError(f"{r.name} is not running, so nobody would answer; fork it instead")
        args = {k: v for k, v in (("name", name or None), ("value", value), ("step", step)) if v is not None}
        sent = _said(send, r.path, act, author=AUTHOR, expires=time.time() + expires_in, **args)
        until = time.monotonic() + 20
        while time.monotonic() < until:
            for e in r.events("command"):
                if e["id"] == sent.id:
                    return dict(plain(e))
            await sleep(0.05)
        return {
            "id": sent.id,
            "outcome": "no answer yet",
            "hint": "read_events(run, 'command') has it when the loop gets there",
        }

    @server.tool()
    def fork(run: str, step: int, edits: list[str], until: int | None = None) -> dict[str, str]:
        """Make a branch from a step with edits such as "lr=1e-4", "ablate=SITE", "scale(factor=0.5)=SITE"."""
        r = found(run)
        _said(check, r.path, r.facts)
        controls = {c["name"] for c in run_page(feed, r)["controls"]}
        plain_edits = [_said(safe_edit, e, controls) for e in edits]
        at = _said(r.check_step, step)
        job = _said(
            jobs.fork,
            r.path.resolve(),
            step=at,
            edits=plain_edits,
            until=until,
            name=None,
            author=AUTHOR,
            cwd=str(Path.cwd()),
        )
        return {"job": job, "hint": "job_status says how far it is; then list_runs shows the branch"}

    @server.tool()
    def job_status(job: str) -> dict[str, Any]:
        """How far a fork is."""
        got = jobs.get(job)
        if got is None:
            raise ToolError("there is no such job in this session")
        return got


def _said(act: Any, *args: Any, **kwargs: Any) -> Any:
    """Our errors as the agent is to see them: one sentence."""
    try:
        return act(*args, **kwargs)
    except StrobeError as e:
        raise ToolError(str(e)) from e
