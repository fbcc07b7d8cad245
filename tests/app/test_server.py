"""The server: every route refuses strangers, numbers are those of the run, and live control survives the server."""

import json
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.routing import BaseRoute, Route
from starlette.testclient import TestClient

import strobe
from strobe.app import feed as feed_module
from strobe.app.acts import safe_edit
from strobe.app.feed import Deltas, Feed, edit_text, thinned
from strobe.app.guard import BODY
from strobe.app.server import make_app
from strobe.app.worker import Looker, TookTooLong
from strobe.core.errors import StrobeError
from strobe.core.reading import Reading
from strobe.runs.control import send
from strobe.runs.directory import StrobeWarning
from strobe.runs.notes import Notes
from strobe.runs.replay import replay
from strobe.runs.run import open_run
from toys import letters_again, toy_again

TOKEN, HOST = "t" * 24, "127.0.0.1:9"
GOOD = {"authorization": f"Bearer {TOKEN}", "x-strobe": "1"}


def client(root: Path, **headers: str) -> TestClient:
    app = make_app(root, token=TOKEN, hosts={HOST, "localhost:9"}, cookie="strobe_9")
    return TestClient(app, base_url=f"http://{HOST}", headers=headers)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("runs")
    toy_again(out=str(root / "trunk"), steps=60)
    open_run(root / "trunk").fork(20, ["lr=1e-3"], out=root / "slower")
    return root


def every_route(app: Any) -> list[tuple[str, str]]:
    routes: list[BaseRoute] = list(app.routes)
    found = [
        (m, re.sub(r"{\w+(:\w+)?}", "0" * 32, r.path))
        for r in routes
        if isinstance(r, Route)
        for m in sorted(r.methods or ())
    ]
    assert len(found) >= 18
    return found


def test_every_route_refuses_strangers(runs: Path) -> None:
    """By enumeration, so that a new route can not forget."""
    c = client(runs)
    for method, path in every_route(c.app):
        refused = {
            "no token": (401, {"x-strobe": "1"}),
            "a wrong token": (401, {"authorization": "Bearer " + "u" * 24, "x-strobe": "1"}),
            "a wrong cookie": (401, {"cookie": "strobe_9=no", "x-strobe": "1"}),
            "a foreign host": (403, {**GOOD, "host": "evil.example"}),
            "a rebound name with our port": (403, {**GOOD, "host": "evil.example:9"}),
            "our name, another port": (403, {**GOOD, "host": "127.0.0.1:10"}),
            "a foreign origin": (403, {**GOOD, "origin": "http://evil.example"}),
            "a null origin": (403, {**GOOD, "origin": "null"}),
            "another port's origin": (403, {**GOOD, "origin": "http://127.0.0.1:8888"}),
            "another site": (403, {**GOOD, "sec-fetch-site": "cross-site"}),
            "another port of this machine": (403, {**GOOD, "sec-fetch-site": "same-site"}),
        }
        for who, (status, headers) in refused.items():
            answer = c.request(method, path, headers=headers)
            assert answer.status_code == status, (method, path, who, answer.status_code)
            assert method == "HEAD" or answer.json()["error"]
            assert "access-control-allow-origin" not in answer.headers
        if method not in ("GET", "HEAD"):
            assert c.request(method, path, headers={"authorization": GOOD["authorization"]}).status_code == 403
            long = c.request(method, path, headers=GOOD, content=b" " * (BODY + 1))
            assert long.status_code == 413
            chunks = c.request(method, path, headers=GOOD, content=(b" " * 100_000 for _ in range(BODY // 100_000 + 2)))
            assert chunks.status_code == 413
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
        assert c.request(method, "/api/runs", headers={**GOOD, "host": "evil.example"}).status_code == 403
        assert c.request(method, "/api/runs", headers={"x-strobe": "1"}).status_code == 401


def test_the_token_becomes_a_cookie_once(runs: Path) -> None:
    c = client(runs)
    entered = c.get(f"/?token={TOKEN}", follow_redirects=False)
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    said = entered.headers["set-cookie"]
    assert "HttpOnly" in said
    assert "SameSite=Strict" in said
    assert c.get("/api/runs").status_code == 200  # by the cookie
    assert client(runs).get(f"/?token={TOKEN[:-1]}").status_code == 401


def test_answers_are_hardened(runs: Path) -> None:
    c = client(runs, **GOOD)
    for path in ("/api/runs", "/api/nothing", "/assets/x.js", "/"):
        headers = c.get(path).headers
        assert "script-src 'self'" in headers["content-security-policy"]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"


def test_a_failure_of_ours_is_said_hardened_and_explained_in_the_terminal(
    runs: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Feed, "rows", lambda self: 1 / 0)
    answer = client(runs, **GOOD).get("/api/runs")
    assert (answer.status_code, "terminal" in answer.json()["error"]) == (500, True)
    assert "content-security-policy" in answer.headers
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_no_path_from_outside_is_opened(runs: Path) -> None:
    c = client(runs, **GOOD)
    (runs / "secret.txt").write_text("secret")
    ways = ("..%2f..%2fsecret.txt", "%2e%2e/secret.txt", "....//secret.txt", "/etc/passwd", "x\x00", "a" * 5000)
    for way in ways:
        for base in ("/assets/", "/api/runs/", "/api/jobs/"):
            answer = c.get(base + way.replace("\x00", "%00"))
            assert answer.status_code in (404, 422), (base + way, answer.status_code)
            assert "secret" not in answer.text.replace("secret.txt", "")


def direction(numbers: Any) -> dict[str, Any]:
    made = {"direction": numbers, "factor": 0}
    return {"act": "site", "site": "0", "edit": "strobe.edits.scale_direction:scale_direction", "kwargs": made}


def test_edits_from_outside_never_name_an_import_path() -> None:
    for bad in (
        "os:system(command='id')=net", "subprocess:call=x", "strobe.edits.ablate:ablate=0", "nothing=1", "", "lr", "lr=__import__('os')",
        {"act": "params", "edit": "os:system"}, {"act": "site", "site": "0", "edit": "os:system"}, {"act": "set", "name": "x", "value": 1},
        {"act": "site", "site": "0", "edit": "strobe.edits.ablate:ablate", "kwargs": "abc"}, {"act": "set", "name": ["lr"], "value": 1},
        {"act": "site", "site": "0", "edit": ["x"]}, {"act": "set", "name": "lr", "value": 10**400},
        {"act": "set", "name": "lr", "value": True},
        {"act": "examples", "weights": {"1": 10**400}}, {"act": "examples", "weights": {"1": 1e39}}, f"scale(factor={'-' * 400}1)=0",
        {"act": "examples", "weights": {"a": 1}}, {"act": "examples", "weights": {"1": -1}}, {},
        *map(direction, ([0.5] * 4097, [[0.5]], [0.5, None], ["0.5"], [True], [float("nan")], [float("inf")], [10**400], {"0": 0.5}, None)),
    ):  # fmt: skip
        with pytest.raises(StrobeError):
            safe_edit(bad, {"lr"})  # type: ignore[arg-type]
    assert safe_edit("lr=1e-4", {"lr"}) == {"act": "set", "name": "lr", "value": 1e-4}
    assert safe_edit("ablate=0.net", set())["edit"] == "strobe.edits.ablate:ablate"
    assert safe_edit(direction([0.5, -1] * 2048), set()) == direction([0.5, -1] * 2048)
    assert edit_text(direction([0.5] * 64)) == "scale_direction(direction=[64 numbers], factor=0)=0"
    assert safe_edit({"act": "examples", "weights": {"3": 0}}, set()) == {"act": "examples", "weights": {"3": 0.0}}


def test_a_fork_with_a_direction_from_outside_is_replayed(runs: Path, tmp_path: Path) -> None:
    edit = safe_edit(direction([1, 0, 0, -1] * 2), set())
    branch = open_run(runs / "trunk").fork(20, [edit], out=tmp_path / "turned")
    assert branch.facts["edits"] == [edit]
    assert branch.series("loss").values[-1] != open_run(runs / "trunk").series("loss").values[-1]
    assert replay(branch, branch.last, verify=True).ok


def test_a_direction_keeps_what_a_person_calls_it() -> None:
    edit = safe_edit({**direction([1, 0]), "label": "PC 2 × 0.5" + "x" * 500}, set())
    assert edit_text(edit).startswith("PC 2 × 0.5")
    assert edit_text(edit).endswith("x (scale_direction)")
    assert len(edit["label"]) == 120


def test_the_rows_and_traces_are_those_of_the_run(runs: Path) -> None:
    c = client(runs, **GOOD)
    rows = {r["name"]: r for r in c.get("/api/runs").json()["runs"]}
    trunk, branch = rows["trunk"], rows["slower"]
    assert (trunk["status"], trunk["last"], branch["start"], branch["edits"]) == ("finished", 60, 20, ["lr=0.001"])
    assert branch["parent"] == {"id": trunk["id"], "name": "trunk", "step": 20}
    run = open_run(runs / "slower")
    got = c.get(f"/api/runs/{branch['id']}/series", params={"name": "loss", "lineage": True}).json()["series"]["loss"]
    whole = run.series("loss", lineage=True)
    assert got["steps"] == whole.steps.tolist()
    assert got["values"] == whole.values.tolist()
    page = c.get(f"/api/runs/{trunk['id']}").json()
    assert page["replayable"]
    assert {x["name"] for x in page["controls"]} >= {"lr", "weight_decay"}
    assert page["branches"][0]["id"] == branch["id"]
    assert c.get(f"/api/runs/{'0' * 32}").status_code == 404
    assert c.get(f"/api/runs/{trunk['id']}/series", params={"name": "loss", "points": 10**9}).status_code == 422
    both = c.get("/api/compare", params={"id": [trunk["id"], branch["id"]], "name": "loss"}).json()["series"]
    assert set(both) == {trunk["id"], branch["id"]}


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.integers(0, 4999), st.booleans(), st.integers(2, 300), st.sampled_from([1e9, -1e9]))
def test_a_spike_is_never_lost(n: int, at: int, log: bool, most: int, spike: float) -> None:
    values = np.zeros(n)
    values[at % n] = spike
    got = thinned(np.arange(n) * 3, values, np.zeros(n), most, log)
    assert spike in got["values"]
    assert len(got["steps"]) <= max(most, 2) + 2 or not got["thinned"]
    assert got["steps"] == sorted(set(got["steps"]))
    assert (got["steps"][0], got["steps"][-1]) == (0, 3 * (n - 1))


def test_what_is_not_finite_is_said_and_no_nan_leaves_the_server(tmp_path: Path) -> None:
    model = strobe_model()
    with strobe.record(tmp_path / "r", model=model) as rec, pytest.warns(StrobeWarning):
        for i in range(6):
            rec.step(loss=float("nan") if i == 3 else 1.0, other=float("inf"))
    c = client(tmp_path, **GOOD)
    row = c.get("/api/runs").json()["runs"][0]
    got = c.get(f"/api/runs/{row['id']}/series", params={"name": ["loss", "other"]})
    assert "NaN" not in got.text
    assert "Infinity" not in got.text
    assert got.json()["series"]["loss"]["bad"] == [4]
    assert got.json()["series"]["other"]["values"] == [None] * 6


def strobe_model() -> Any:
    import torch

    return torch.nn.Linear(1, 1)


def test_hostile_names_stay_text_and_a_damaged_run_does_not_hide_the_others(tmp_path: Path) -> None:
    bad = "<img src=x onerror=alert(1)>"
    with strobe.record(tmp_path / bad, model=strobe_model(), about={bad: bad * 3}) as rec:
        rec.step(loss=1.0, **{bad: 2.0})
    with strobe.record(tmp_path / "hurt", model=strobe_model()) as rec:
        rec.step(loss=1.0)
    (tmp_path / "hurt/run.json").write_text("{")
    for journal in (tmp_path / "hurt/journal").iterdir():
        journal.write_bytes(b"")
    c = client(tmp_path, **GOOD)
    rows = c.get("/api/runs").json()["runs"]
    assert {r["name"]: bool(r["damaged"]) for r in rows} == {bad: False, "hurt": True}
    id = next(r["id"] for r in rows if r["name"] == bad)
    assert c.get(f"/api/runs/{id}").json()["series"][0]["name"] in (bad, "loss")
    with pytest.warns(StrobeWarning, match="left out"):
        page = c.post(f"/api/runs/{id}/report", json={})
    assert page.status_code == 200
    assert bad not in page.text
    assert "content-disposition" in page.headers


def test_a_report_carries_the_view_and_refuses_one_of_what_is_not_there(runs: Path) -> None:
    c = client(runs, **GOOD)
    rows = {r["name"]: r["id"] for r in c.get("/api/runs").json()["runs"]}
    at = f"/api/runs/{rows['trunk']}/report"
    view = {"log": False, "window": [10, 50], "playhead": 33, "panels": ["loss"], "flips": [0], "branches": []}
    text = c.post(at, json={"view": view}).text
    assert "steps 10 to 50, linear axis, playhead at 33, 1 branch left out" in text
    assert "At the playhead, step 33" in text
    assert "slower" not in text
    assert "slower" in c.post(at, json={}).text
    branch = c.post(f"/api/runs/{rows['slower']}/report", json={"view": {"window": [0, 10]}})
    assert "steps 0 to 10" in branch.text  # its ancestors' part, as the page draws it
    for wrong, status, words in (
        ({"window": [50, 10]}, 400, "the first below the second"),
        ({"window": [900, 1000]}, 400, "holds no step"),
        ({"window": [-1, 10]}, 422, "view.window"),
        ({"flips": [99]}, 400, "flips names panel 99"),
        ({"panels": ["lost"]}, 404, "no series 'lost'"),
        ({"zoom": [1, 2]}, 422, "view.zoom"),
        ({"branches": ["../.."]}, 422, "view.branches"),
    ):
        refused = c.post(at, json={"view": wrong})
        assert (refused.status_code, words in refused.json()["error"]) == (status, True), refused.text


def test_a_study_keeps_its_runs_in_a_folder_and_links_are_not_followed(tmp_path: Path, runs: Path) -> None:
    with strobe.record(tmp_path / "study/trunk", model=strobe_model()) as rec:
        rec.step(loss=1.0)
    (tmp_path / "elsewhere").symlink_to(runs)
    (tmp_path / "link").symlink_to(runs / "trunk")
    assert [r["name"] for r in client(tmp_path, **GOOD).get("/api/runs").json()["runs"]] == ["study/trunk"]


def test_news_are_only_what_is_new(tmp_path: Path) -> None:
    with strobe.record(tmp_path / "r", model=strobe_model(), every_seconds=None) as rec:
        rec.step(loss=1.0)
        feed = Feed(tmp_path)
        (row,) = feed.rows()
        deltas = Deltas(feed.run(row["id"]))
        rec.step(loss=2.0)
        rec.step(loss=3.0)
        series, _, again = deltas.news(feed.run(row["id"]))
        assert (series["loss"]["steps"], series["loss"]["values"], again) == ([2, 3], [2.0, 3.0], False)
        assert deltas.news(feed.run(row["id"]))[0] == {}
    assert [e["type"] for e in deltas.news(feed.run(row["id"]))[1]] == ["finished"]
    with Notes(tmp_path / "r") as notes:  # a reading written while a page listens is no event, and the page reads anew
        notes.reading("beside", Reading([1.0, 2.0], 0.1), step=2)
    assert deltas.news(feed.run(row["id"]))[1:] == ([], True)


def test_runs_are_listed_again_by_their_stats_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed_module, "OPEN", 3)
    for i in range(6):  # more than are kept open
        with strobe.record(tmp_path / f"r{i}", model=strobe_model(), snapshots=None) as rec:
            rec.step(loss=float(i))
    feed = Feed(tmp_path)
    first = feed.rows()
    assert len(first) == 6
    monkeypatch.setattr(feed, "run", lambda id: pytest.fail("a run that did not change was opened"))
    assert feed.rows() == first


# ------------------------------------------------------------------------------------- live control under fire

LOOP = """
import sys; sys.path.insert(0, {tests!r})
import torch, time, toys, strobe
torch.set_num_threads(1)
import strobe.runs.recorder as r
step = r.Recorder.step
def slow(self, *a, **k):
    step(self, *a, **k); time.sleep(0.004)
r.Recorder.step = slow
toys.toy_again(out={out!r}, steps=2500)
"""


@contextmanager
def served(root: Path) -> Iterator[tuple["subprocess.Popen[str]", httpx.Client]]:
    """`strobe serve` in a process of its own, and a client with its token; ended after the block."""
    command = [sys.executable, "-m", "strobe.app.cli", "serve", str(root), "--port", "0"]
    env = {**os.environ, "STROBE_TOKEN": TOKEN}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env) as server:
        try:
            assert server.stdout is not None
            address = next(line.strip().partition("/?token=")[0] for line in server.stdout if "http://" in line)
            with httpx.Client(base_url=address, headers=GOOD, timeout=30) as c:
                yield server, c
        finally:
            server.kill()


def outcome(c: httpx.Client, id: str, command: str, seconds: float = 20) -> dict[str, Any]:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for e in c.get(f"/api/runs/{id}/events", params={"type": "command"}).json()["events"]:
            if e["id"] == command:
                return dict(e)
        time.sleep(0.05)
    raise AssertionError(f"no answer to {command}")


def test_a_live_run_outlives_the_server_and_its_branch_repeats_to_the_bit(tmp_path: Path) -> None:
    """Two pages with conflicting wishes, refusals, an expiry, the server killed and started again, and a replay."""
    out, tests = tmp_path / "runs/live", str(Path(__file__).parents[1])
    out.parent.mkdir()
    loop = subprocess.Popen([sys.executable, "-c", LOOP.format(out=str(out), tests=tests)])
    try:
        with served(out.parent) as (_, c):
            until = time.monotonic() + 60
            while time.monotonic() < until and not (rows := c.get("/api/runs").json()["runs"]):
                time.sleep(0.1)
            id = rows[0]["id"]

            def command(c: httpx.Client, **body: Any) -> dict[str, Any]:
                sent = c.post(f"/api/runs/{id}/commands", json=body)
                assert sent.status_code == 200, sent.text
                return outcome(c, id, sent.json()["id"])

            with c.stream("GET", "/api/stream", params={"run": id}) as news:
                said = (
                    json.loads(line[6:])
                    for line in news.iter_lines()
                    if line.startswith("data: {") and "series" in line
                )
                seen = next(said)
            assert seen["run"] == id
            assert seen["series"]["loss"]["steps"]
            assert command(c, act="pause")["outcome"] == "applied"
            assert c.get(f"/api/runs/{id}").json()["status"] == "paused"
            first, second = command(c, act="set", name="lr", value=5e-3), command(c, act="set", name="lr", value=2e-3)
            assert (first["outcome"], second["outcome"]) == ("applied", "applied")
            assert {first["author"], second["author"]} == {"human (page)"}
            refused = command(c, act="set", name="lr", value=-1.0)
            assert refused["outcome"] == "refused"
            assert "outside its range" in refused["reason"]
            assert c.post(f"/api/runs/{id}/commands", json={"act": "dance"}).status_code == 400
            assert command(c, act="pause")["outcome"] == "refused"  # it is paused already
        assert loop.poll() is None  # the server was killed, and nothing of it reached the training
        with served(out.parent) as (_, c):
            assert c.get(f"/api/runs/{id}").json()["status"] == "paused"
            assert command(c, act="resume")["outcome"] == "applied"
            late = {"act": "set", "name": "lr", "value": 0.5, "not_before": 10**7, "expires_in": 0.2}
            sent = c.post(f"/api/runs/{id}/commands", json=late).json()["id"]
            assert outcome(c, id, sent)["outcome"] == "refused"
            assert command(c, act="stop")["outcome"] == "applied"
        loop.wait(timeout=30)
    finally:
        loop.kill()
        loop.wait()
    run = open_run(out)
    applied = [(e["author"], e["value"]) for e in run.events("applied")]
    assert applied == [("human (page)", 5e-3), ("human (page)", 2e-3)]
    assert replay(run, run.last, verify=True).ok


def test_another_address_needs_a_token_and_a_taken_port_is_said(tmp_path: Path) -> None:
    def said(*args: str) -> str:
        got = subprocess.run(
            [sys.executable, "-m", "strobe.app.cli", "serve", *args], capture_output=True, text=True, timeout=60
        )
        assert got.returncode == 2
        return " ".join(got.stderr.split())

    assert "give a --token of your own" in said(str(tmp_path), "--host", "0.0.0.0")
    assert "at least 16 letters" in said(str(tmp_path), "--token", "short")
    assert "there is no folder" in said(str(tmp_path / "nowhere"))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert "cannot listen on" in said(str(tmp_path), "--port", str(taken.getsockname()[1]))


def test_a_hundred_listeners_do_not_stop_the_others(runs: Path) -> None:
    with served(runs) as (_, c):
        port = int(str(c.base_url).rpartition(":")[2].strip("/"))
        ask = f"GET /api/stream HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n".encode()
        listeners = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
        words = []
        for s in listeners:
            s.settimeout(30)
            s.sendall(ask)
            words.append(s.recv(12).split()[1])
        assert words.count(b"200") == 64
        assert words.count(b"503") == 36
        assert c.get("/api/runs").status_code == 200
        for s in listeners:
            s.close()
        until, status = time.monotonic() + 30, 503
        while time.monotonic() < until and status != 200:
            time.sleep(0.2)
            with c.stream("GET", "/api/stream") as again:
                status = again.status_code
        assert status == 200


def test_a_look_that_is_late_or_crashes_is_said_and_the_next_one_works(runs: Path) -> None:
    looker = Looker(seconds=30)
    place = str((runs / "trunk").resolve())
    ask = {"run": place, "view": "modules", "step": 60, "args": {}, "other": None}
    assert looker.ask(**ask)["total"] == 65
    looker.seconds = 1e-6
    with pytest.raises(TookTooLong, match=r"took more than .* and was ended"):
        looker.ask(**ask)
    looker.seconds = 30
    assert looker.ask(**ask)["total"] == 65  # in a new process
    assert looker._child is not None
    looker._child.kill()
    looker._child.wait()
    assert looker.ask(**ask)["total"] == 65
    with pytest.raises(StrobeError, match="there is no look 'mdules'"):
        looker.ask(**{**ask, "view": "mdules"})
    looker.close()


def test_a_look_beyond_its_memory_is_said(runs: Path) -> None:
    looker = Looker(seconds=60, memory=1 << 20)
    with pytest.raises(StrobeError):
        looker.ask(run=str((runs / "trunk").resolve()), view="modules", step=60, args={}, other=None)
    looker.close()


def test_a_concept_is_traced_in_a_process_of_its_own_and_joins_the_series(tmp_path: Path) -> None:
    letters_again(out=str(tmp_path / "r"))
    c = client(tmp_path, **GOOD)
    (row,) = c.get("/api/runs").json()["runs"]
    on = [f"{a} {b} is red" for a in ("the", "a", "this") for b in ("house", "car", "door", "wall", "ball", "hat")]
    body = {
        "step": 3,
        "site": "blocks.1",
        "positive": on,
        "negative": [t.replace("red", "blue") for t in on],
        "name": "red",
    }

    def done(asked: dict[str, Any]) -> dict[str, Any]:
        job = c.post(f"/api/runs/{row['id']}/trace", json=asked).json()["job"]
        until = time.monotonic() + 60
        while (now := c.get(f"/api/jobs/{job}").json())["state"] == "running" and time.monotonic() < until:
            time.sleep(0.1)
        return dict(now)

    first = done(body)
    assert (first["state"], first["error"], first["run"]) == ("done", "", None)
    assert first["step"] == len(c.get(f"/api/runs/{row['id']}").json()["stored"])
    series = c.get(f"/api/runs/{row['id']}/series", params={"name": "red"}).json()["series"]
    assert [series[f"red[{i}]"]["label"] for i in range(3)] == ["line", "kernel", "direction (cosine)"]
    again = done(body)
    assert again["state"] == "failed"
    assert "another name" in again["error"]
    assert c.post(f"/api/runs/{row['id']}/trace", json=body | {"positive": []}).status_code == 422
    assert c.post(f"/api/runs/{row['id']}/trace", json=body | {"step": 99}).status_code >= 400


def test_a_strangers_run_is_listed_and_read_but_its_code_is_not_run(tmp_path: Path) -> None:
    toy_again(out=str(tmp_path / "r"), steps=6)
    facts = json.loads((tmp_path / "r/run.json").read_text())
    c = client(tmp_path, **GOOD)
    (row,) = c.get("/api/runs").json()["runs"]
    page = c.get(f"/api/runs/{row['id']}").json()
    assert page["trusted"]
    (tmp_path / "r/mark").write_text("0" * 64)  # as from another machine
    for path, body in (
        ("look", {"view": "modules", "step": 6}),
        ("fork", {"step": 1, "edits": []}),
        ("trace", {"step": 1, "site": "0", "positive": ["a"], "negative": ["b"]}),
    ):
        refused = c.post(f"/api/runs/{row['id']}/{path}", json=body)
        assert refused.status_code == 403
        assert "toys:toy_again" in refused.json()["error"]
        assert "strobe trust" in refused.json()["error"]
    assert c.get(f"/api/runs/{row['id']}/series", params={"name": "loss"}).json()["series"]["loss"]["n"] == 6
    assert not c.get(f"/api/runs/{row['id']}").json()["trusted"]
    done = subprocess.run(
        [sys.executable, "-m", "strobe.app.cli", "trust", str(tmp_path / "r")], capture_output=True, text=True
    )
    assert "will run toys:toy_again" in done.stdout
    assert c.get(f"/api/runs/{row['id']}").json()["trusted"]
    assert facts["entry" if "entry" in facts else next(iter(facts))]


def rewrite(run: Path, **changes: Any) -> None:
    """A run.json that says something else, with a good checksum."""
    from strobe.runs.directory import describe
    from strobe.runs.snapshots import write_manifest

    (run / "run.json").rename(run / "old.json") if not (run / "old.json").exists() else None
    write_manifest(run / "run.json", {**changes.pop("base"), **changes})
    assert describe(run)


def test_whatever_a_run_holds_the_others_are_listed(tmp_path: Path) -> None:
    """What broke the list, or hung it, when somebody tried."""
    from strobe.runs.directory import describe

    for name in ("good", "bad"):
        with strobe.record(tmp_path / name, model=strobe_model()) as rec:
            rec.step(loss=1.0)
    base = describe(tmp_path / "bad")
    journal = next((tmp_path / "bad/journal").iterdir())
    whole = journal.read_bytes()
    me = {"run": str(tmp_path / "bad"), "id": base["id"], "step": 0}
    cases: list[dict[str, Any]] = [
        {"id": [1]}, {"id": "short"}, {"created": "yesterday"}, {"start": "x"}, {"edits": [{}]}, {"parent": me},
        {"about": None}, {"entry": 7},
    ]  # fmt: skip
    for case in cases:
        rewrite(tmp_path / "bad", base=base, **case)
        c = client(tmp_path, **GOOD)
        rows = c.get("/api/runs")
        assert rows.status_code == 200, case
        assert {r["name"] for r in rows.json()["runs"]} == {"good", "bad"}, case
        for r in rows.json()["runs"]:
            if r["id"] == base["id"]:
                c.get(f"/api/runs/{r['id']}/series", params={"name": "loss", "lineage": True})
                c.get(f"/api/runs/{r['id']}")  # answered, whatever it says
    rewrite(tmp_path / "bad", base=base)
    from zlib import crc32

    frames = [
        bytes([1]) + text
        for text in (b"[1, 2]", b'{"kind": "event"}', b"[" * 20_000, b'{"kind": "event", "type": "x", "step": 1e400}')
    ]
    for payload in [*frames, bytes([2]) + b"\xff" * 30]:
        import struct

        journal.write_bytes(whole + struct.pack("<II", len(payload), crc32(payload)) + payload)
        (tmp_path / "bad/index.sqlite").unlink(missing_ok=True)
        assert client(tmp_path, **GOOD).get("/api/runs").status_code == 200, payload[:30]
    began = time.monotonic()
    journal.write_bytes(whole + b"\x01" * 30_000_000)  # a length and a kind at every byte
    assert client(tmp_path, **GOOD).get("/api/runs").status_code == 200
    assert time.monotonic() - began < 20
    journal.write_bytes(whole)
    shutil.copytree(tmp_path / "bad", tmp_path / "copy")
    rows = client(tmp_path, **GOOD).get("/api/runs").json()["runs"]
    assert next(r for r in rows if r["name"] == "copy")["damaged"].startswith("a copy of bad")


def test_a_false_index_and_links_are_not_followed(tmp_path: Path) -> None:
    with strobe.record(tmp_path / "r", model=strobe_model()) as rec:
        rec.step(loss=1.0)
        other = tmp_path / "other.txt"
        other.write_bytes(b"mine")
        commands = tmp_path / "r/control/commands.journal"
        commands.unlink()
        commands.symlink_to(other)
        with pytest.raises(StrobeError, match="could not be written"):
            send(tmp_path / "r", "pause")
        assert other.read_bytes() == b"mine"
    (tmp_path / "r/index.sqlite").unlink(missing_ok=True)
    with sqlite3.connect(tmp_path / "r/index.sqlite") as db:
        db.executescript(
            "PRAGMA user_version = 2; CREATE VIEW chunks AS WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n FROM t) SELECT * FROM t"
        )
    db.close()
    assert open_run(tmp_path / "r").series("loss").values.tolist() == [1.0]


def test_a_gigabyte_of_text_is_refused_or_cut_and_a_million_points_keep_their_spike(tmp_path: Path) -> None:
    with strobe.record(tmp_path / "r", model=strobe_model(), about={"note": "x" * 3_000_000}, snapshots=None) as rec:
        rec.event("note", text="y" * 50_000_000)
        for i in range(1_000_000):
            rec.step(loss=1e9 if i == 543_210 else 0.5)
    c = client(tmp_path, **GOOD)
    listed = c.get("/api/runs")
    (row,) = listed.json()["runs"]
    assert len(listed.content) < 100_000
    assert "characters more" in row["about"]["note"]
    said = c.get(f"/api/runs/{row['id']}/events", params={"type": "note"})
    assert len(said.content) < 100_000
    assert said.json()["events"][0]["text"].endswith("and 49980000 characters more")
    got = c.get(f"/api/runs/{row['id']}/series", params={"name": "loss", "points": 800})
    trace = got.json()["series"]["loss"]
    assert (trace["n"], max(trace["values"]), trace["steps"][trace["values"].index(1e9)]) == (1_000_000, 1e9, 543_211)
    assert len(got.content) < 100_000
    page = c.post(f"/api/runs/{row['id']}/report", json={})
    assert page.status_code == 200
    port = HOST.rpartition(":")[2]
    huge = {**GOOD, "content-length": str(1 << 30), "content-type": "application/json", "host": f"127.0.0.1:{port}"}
    assert (
        c.post(f"/api/runs/{row['id']}/look", headers=huge, content=b"{").status_code == 413
    )  # before a byte of it is read


def test_threads_may_read_one_live_run_at_once(tmp_path: Path) -> None:
    with strobe.record(tmp_path / "r", model=strobe_model(), snapshots=None) as rec:
        rec.step(loss=1.0)
        run, wrong = open_run(tmp_path / "r"), list[BaseException]()

        def read() -> None:
            try:
                for _ in range(150):
                    assert run.last >= 1
            except BaseException as e:
                wrong.append(e)

        threads = [threading.Thread(target=read) for _ in range(4)]
        for t in threads:
            t.start()
        while any(t.is_alive() for t in threads):
            rec.step(loss=1.0)
        for t in threads:
            t.join()
    assert wrong == []
