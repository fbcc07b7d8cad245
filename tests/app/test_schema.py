"""Random requests made from the server's own OpenAPI schema: refused or answered, never a 5xx."""

from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from starlette.testclient import TestClient

from strobe.app.server import make_app
from toys import toy_again

TOKEN = "s" * 24
HEADERS = {"authorization": f"Bearer {TOKEN}", "x-strobe": "1", "host": "127.0.0.1"}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("runs")
    toy_again(out=str(root / "trunk"), steps=12)
    app = make_app(root, token=TOKEN, hosts={"127.0.0.1"})
    id = TestClient(app, base_url="http://127.0.0.1", headers=HEADERS).get("/api/runs").json()["runs"][0]["id"]
    schema = schemathesis.openapi.from_asgi("/api/openapi.json", app, headers=HEADERS)

    @schema.hook("map_path_parameters")
    def real_run(context: Any, path_parameters: dict[str, Any] | None) -> dict[str, Any] | None:
        if path_parameters and "id" in path_parameters and len(str(path_parameters)) % 2:
            path_parameters["id"] = id  # half of all requests are about the run that is there
        return path_parameters

    return schema


def test_no_request_breaks_the_server(api: Any) -> None:
    tried = 0
    for found in api.get_all_operations():
        operation = found.ok()
        if operation.path == "/api/stream":  # which never ends
            continue
        tried += 1

        @settings(max_examples=15, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy())
        def asked(case: Any) -> None:
            case.call_and_validate(headers=HEADERS, checks=[not_a_server_error])

        asked()
    assert tried >= 15


def test_the_schema_names_every_route(api: Any, tmp_path: Path) -> None:
    paths = set(api.raw_schema["paths"])
    assert {"/api/runs", "/api/runs/{id}/look", "/api/runs/{id}/fork", "/api/stream"} <= paths
    for path, verbs in api.raw_schema["paths"].items():
        for verb, operation in verbs.items():
            assert operation.get("description"), (path, verb)
