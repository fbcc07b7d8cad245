import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import strobe
from strobe.app.report import report_of, verdicts, write_report
from strobe.app.strip import thin
from strobe.core.prediction import Prediction, judge
from strobe.core.reading import Reading
from strobe.runs.notes import Notes
from strobe.runs.run import open_run
from strobe.studies.first_stages import first_stages


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [
            v
            for k, v in attrs
            if k in ("src", "href", "xlink:href", "action") and v and not v.startswith(("#", "data:"))
        ]
        assert tag != "script"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    out = tmp_path_factory.mktemp("demo")
    return write_report(first_stages(out, scale="tiny", corpus=str(folder)), out / "report.html")


def test_the_page_asks_nobody_for_anything(page: Path) -> None:
    text = page.read_text()
    assert Page(text).links == []
    assert not re.search(r"url\((?!#)", text)
    assert "@import" not in text
    assert "default-src 'none'" in text


def test_the_page_shows_every_part(page: Path) -> None:
    text = page.read_text()
    for part in ("Predictions and verdicts", "The strip", "Stages", "Replay and branches", "bit-equal", "top Hessian eigenvalue",
                 "unigram entropy", "gradient noise scale", "trajectory of the outputs", "2/lr", "previous-token score"):  # fmt: skip
        assert part in text, part
    assert "nothing recorded" not in text
    for word in ("NaN", "Undefined", "None "):
        assert word not in re.sub(r"<svg.*?</svg>", "", text, flags=re.S)


def test_it_opens_in_a_browser_without_a_word_on_the_console(page: Path, tmp_path: Path) -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if not chromium:
        pytest.skip("no browser on this machine")
    shot = tmp_path / "page.png"
    done = subprocess.run(
        [chromium, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--v=0", "--window-size=1280,2400",
         f"--screenshot={shot}", f"file://{page}"], capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert shot.stat().st_size > 30_000
    assert "CONSOLE" not in done.stderr, [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_any_run_has_a_page(tmp_path: Path, toy: Any) -> None:
    toy().run(tmp_path / "<b>r", 12)
    out = write_report(report_of(tmp_path / "<b>r"), tmp_path / "page.html")
    assert "&lt;b&gt;r" in out.read_text()
    assert "<b>r" not in out.read_text()


def test_an_unsealed_or_altered_prediction_is_shown_as_none(tmp_path: Path, toy: Any) -> None:
    toy().run(tmp_path / "r", 5)
    with Notes(tmp_path / "r") as notes:
        real = notes.seal(Prediction("a", 1.0, 0.5))
        notes.verdict(judge(real, Reading(1.0)))
        forged = strobe.Prediction("b", 2.0, 0.5, seal="0" * 24)
        notes.event("verdict", **json.loads(json.dumps({
            "word": "holds", "why": "", "predicted": {f: getattr(forged, f) for f in forged.__slots__},
            "measured": {"value": 2.0, "err": 0.0, "unit": "", "how": {}},
        })))  # fmt: skip
    assert [v["sealed"] for v in verdicts(open_run(tmp_path / "r"))] == [True, False]
    text = write_report(report_of(tmp_path / "r"), tmp_path / "page.html").read_text()
    assert "this is no prediction" in text


def test_thinning_never_loses_a_spike() -> None:
    steps = np.arange(1, 200_001)
    values = np.sin(steps / 1e4)
    values[123_456], values[77] = 50.0, -9.0
    x, y = thin(steps, values)
    assert len(x) <= 1000
    assert y.max() == 50.0
    assert y.min() == -9.0
