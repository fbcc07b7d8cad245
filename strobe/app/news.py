"""Changes as they come, over server-sent events: only what is new, resumed from where the browser stood."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response
from sse_starlette import EventSourceResponse

from strobe.app.feed import Deltas, Feed
from strobe.app.reads import Id
from strobe.core.errors import StrobeError

STREAMS, PACE = 64, 0.25  # listeners at once; seconds between looks for news


def add_news(app: FastAPI, feed: Feed) -> None:
    """Add the stream of changes."""
    listening = [0]

    @app.get("/api/stream")
    async def stream(request: Request, run: Annotated[list[Id] | None, Query(max_length=16)] = None) -> Response:
        """Changes as they come: `points`, `event` and `again` of the runs asked for, `row` of every run."""
        if listening[0] >= STREAMS:
            return JSONResponse({"error": f"{STREAMS} pages are listening already; close some"}, 503)
        return EventSourceResponse(_changes(listening, feed, request, run or []), ping=15, send_timeout=10)


async def _changes(listening: list[int], feed: Feed, request: Request, ids: list[str]) -> AsyncIterator[dict[str, str]]:
    listening[0] += 1
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
        listening[0] -= 1


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
        now = {r["id"]: r for r in feed.rows(fresh=False) if not r["damaged"]}
        if not first:
            out += [("row", r) for id, r in now.items() if rows.get(id) is not r]
    return out, now
