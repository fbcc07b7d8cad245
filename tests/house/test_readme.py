"""Every Python block of the README and the docs runs, in order, in one directory per page."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.S | re.M)


@pytest.mark.parametrize("page", [p for p in PAGES if blocks(p)], ids=lambda p: p.name)
def test_the_examples_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = "\n".join(blocks(page))
    (tmp_path / "page.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("runpy").run_path(str(tmp_path / "page.py"), run_name="page")


def test_commands_named_in_the_readme_exist() -> None:
    from typer.main import get_command

    from strobe.app.cli import app

    known = set(get_command(app).commands)  # type: ignore[attr-defined]
    named = set(re.findall(r"^strobe ([a-z-]+)", "\n".join(p.read_text() for p in PAGES), flags=re.M))
    assert named <= known
    assert "demo" in named
