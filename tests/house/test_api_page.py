"""docs/api.md names every route, parameter, body field, look and tool that there is, and none that there is not."""

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("fastapi")
from strobe.app.server import make_app

PAGE = (Path(__file__).resolve().parents[2] / "docs/api.md").read_text()
SECTIONS = dict(re.findall(r"^### (\S+ /api/\S+)\n(.*?)(?=^##)", PAGE, flags=re.S | re.M))


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return make_app(tmp_path_factory.mktemp("runs"), token="t" * 20, hosts={"h"}).openapi()


def test_every_route_has_a_section_that_names_its_parameters(schema: dict[str, Any]) -> None:
    routes = {f"{m.upper()} {path}": r for path, ms in schema["paths"].items() for m, r in ms.items()}
    assert set(SECTIONS) == set(routes)
    for route, r in routes.items():
        wanted = {p["name"] for p in r.get("parameters", []) if p["in"] == "query"}
        if "requestBody" in r:
            name = r["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
            wanted |= set(schema["components"]["schemas"][name]["properties"])
        assert {w for w in wanted if f"`{w}`" not in SECTIONS[route]} == set(), route


def test_every_look_is_named() -> None:
    from strobe.app.look import VIEWS

    assert set(re.findall(r"^\| `(\w+)` \|[^|]*\|[^|]*\|$", SECTIONS["POST /api/runs/{id}/look"], flags=re.M)) == set(
        VIEWS
    )


def test_every_tool_of_an_agent_is_named_and_the_levers_are_starred(tmp_path: Path) -> None:
    pytest.importorskip("mcp")
    from strobe.app.agent import make_server

    def tools(control: bool) -> set[str]:
        return {t.name for t in asyncio.run(make_server(tmp_path, allow_control=control).list_tools())}

    told = re.findall(r"^\| `(\w+)`( \*)? \|", PAGE[PAGE.index("## The agent interface") :], flags=re.M)
    assert {name for name, _ in told} == tools(True)
    assert {name for name, star in told if not star} == tools(False)
