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
from strobe.app.report import panels_in, report_of, verdicts, write_report
from strobe.app.traces import Panel, View, at_playhead, drawn, kept, traces
from strobe.core.errors import BadOption, NameNotFound
from strobe.core.prediction import Prediction, judge
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.runs.loop import train
from strobe.runs.notes import Notes
from strobe.runs.run import Run, open_run
from strobe.studies.first_stages import first_stages
from strobe.systems.deep_linear import deep_linear
from toys import toy_again


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
    keep = kept(steps, values, 900)
    assert len(keep) <= 1000
    assert values[keep].max() == 50.0
    assert values[keep].min() == -9.0


@pytest.fixture
def family(tmp_path: Path) -> Run:
    """A run of 40 steps with a reading of two numbers, and two branches of it."""
    toy_again(out=str(tmp_path / "trunk"), steps=40)
    run = open_run(tmp_path / "trunk")
    for name, rate in (("slower", "lr=1e-3"), ("faster", "lr=1e-1")):
        run.fork(20, [rate], out=tmp_path / name)
    with Notes(run.path) as notes:
        for step in (5, 30):
            notes.reading("pair", Reading([step, -step], [0.5, 0.25]), step=step)
    return run


def test_a_view_draws_its_window_and_says_so(family: Run, tmp_path: Path) -> None:
    view = View(log=False, window=(10, 30), playhead=17, panels=("loss",))
    text = write_report(report_of(family.path), tmp_path / "p.html", view=view).read_text()
    assert "steps 10 to 30, linear axis, playhead at 17" in text
    assert "training step (linear scale)" in text
    assert ">pair<" not in text
    steps = [t.within(10, 30).steps for t in drawn(Panel("", ["loss"]), family, [], view)]
    assert [(s[0], s[-1]) for s in steps] == [(9, 31)]  # one beyond each end, so that the line reaches the edge
    whole = write_report(report_of(family.path), tmp_path / "w.html").read_text()
    assert "as it was looked at" not in whole
    assert "At the playhead" not in whole
    assert "training step (log scale)" in whole


def test_the_values_at_the_playhead_are_the_recorded_ones(family: Run, tmp_path: Path) -> None:
    view, slower = View(playhead=29), open_run(tmp_path / "slower")
    found = at_playhead([Panel("both", ["loss", "pair"])], family, [slower], view)
    got = {t.title: None if i is None else (t.steps[i], t.values[i], t.errs[i]) for _, t, i in found}
    for run, title in ((family, "loss"), (slower, "slower: loss")):
        s = run.series("loss")
        assert got[title] == (29, s.values[s.steps == 29][0], 0.0)
    assert (got["pair 0"], got["pair 1"]) == ((5, 5.0, 0.5), (5, -5.0, 0.25))
    early = at_playhead([Panel("both", ["loss"])], family, [slower], View(playhead=7))
    assert [(t.title, i) for _, t, i in early] == [("loss", 6), ("slower: loss", None)]
    text = write_report(report_of(family.path), tmp_path / "p.html", view=View(playhead=7)).read_text()
    assert f"{family.series('loss').values[6]:.4g}" in text
    assert "not recorded yet" in text
    assert "mathdefault" not in text


def test_a_hidden_branch_is_absent_and_a_flipped_axis_is_another(family: Run, tmp_path: Path) -> None:
    slower = open_run(tmp_path / "slower")
    view = View(branches=frozenset({slower.facts["id"]}))
    text = write_report(report_of(family.path), tmp_path / "p.html", view=view).read_text()
    assert "slower: loss" in text
    assert "faster" not in text
    assert "1 branch left out" in text
    whole = write_report(report_of(family.path), tmp_path / "w.html").read_text()
    assert "faster: loss" in whole
    assert [p.log for p in panels_in(family, View())] == [False, False]
    assert [(p.title, p.log) for p in panels_in(family, View(panels=("pair", "loss"), flips=frozenset({1})))] == [
        ("pair", False),
        ("loss", True),
    ]


def test_a_view_of_what_is_not_there_is_refused(family: Run, tmp_path: Path) -> None:
    out = tmp_path / "p.html"
    with pytest.raises(BadOption, match="the first below the second"):
        View(window=(30, 10))
    for view, error, words in (
        (View(window=(500, 600)), BadOption, "holds no step of trunk: it goes from 0 to 40"),
        (View(flips=frozenset({7})), BadOption, "flips names panel 7"),
        (View(panels=("los",)), NameNotFound, "no series 'los'.*loss"),
    ):
        with pytest.raises(error, match=words):
            write_report(report_of(family.path), out, view=view)
    assert not out.exists()


def test_what_was_sealed_stands_on_the_panel_that_holds_it(tmp_path: Path, toy: Any) -> None:
    toy().run(tmp_path / "r", 20)
    with Notes(tmp_path / "r", step=3) as notes:
        said = notes.seal(Prediction("<the last loss>", 1.0, 0.5, series="loss", steps=[20, 20], side="below"))
        notes.seal(Prediction("far off", 1e9, 0.5, series="loss"))
        notes.seal(Prediction("two points", [1.0, 2.0], 0.5, series="loss", steps=[1, 20]))
        notes.seal(Prediction("on nothing", 1.0, 0.5))
    with Notes(tmp_path / "r") as notes:
        notes.verdict(judge(said, Reading(9.0, 0.1)))
    text = write_report(report_of(tmp_path / "r"), tmp_path / "p.html").read_text()
    svg = text[text.index("<svg") : text.index("</svg>")]
    for words in ("≤ &lt;the last loss&gt;  ✗ fails", "↑ far off  ◷ sealed", "two points  ◷ sealed"):
        assert words in svg, words
    assert "<title>&lt;the last loss&gt;: predicted at most 1, sealed at step 3; fails" in svg.replace("1.0,", "1,")
    assert "on nothing" not in svg
    early = write_report(report_of(tmp_path / "r"), tmp_path / "e.html", view=View(window=(0, 2))).read_text()
    assert "✗ fails" not in early  # it was not said yet


def test_numbers_of_a_matrix_are_called_by_their_row_and_column(tmp_path: Path) -> None:
    run = open_run(train(deep_linear(dim=3, width=3, singular_values=(2.0, 1.0)), tmp_path / "r", steps=4))
    value = np.arange(6.0).reshape(2, 3)
    with Notes(run.path) as notes:
        for step in (2, 4):
            named = {"labels": ["0.0", "0.1"], "probes": ["code", "prose", "both"]}
            notes.reading("chi", Reading(step * value, value / 10, "", named), step=step)
            notes.reading("heads", Reading(value, value / 10, "", {"labels": list("abcdef")}), step=step)
            notes.reading("bare", Reading(value, value / 10, "", {"labels": ["no", "use"]}), step=step)
    run = open_run(run.path)
    found = {t.label: t for t in traces(run, "chi", "")}
    assert list(found) == ["0.0, code", "0.0, prose", "0.0, both", "0.1, code", "0.1, prose", "0.1, both"]
    assert found["0.1, prose"].values.tolist() == [8.0, 16.0]
    assert [t.label for t in traces(run, "heads", "")] == list("abcdef")
    assert [t.label for t in traces(run, "bare", "")] == ["0.0", "0.1", "0.2", "1.0", "1.1", "1.2"]


def test_a_row_that_lacks_a_column_leaves_it_empty(tmp_path: Path) -> None:
    report = Report("Which?", [], [], {"made": [{"name": "one", "b": 2.0}, {"name": "two", "a": 1.0, "b": 3.0}]})
    text = write_report(report, tmp_path / "r.html").read_text()
    table = text[text.index("<h2>made</h2>") :]
    assert re.findall(r"<th>(\w+)</th>", table)[:3] == ["name", "b", "a"]
    cells = re.findall(r'<td class="n">([^<]*)</td>', table)
    assert cells[2] == ""
    assert [cells[0], cells[3]] == ["one", "two"]
    assert float(cells[5]) == 1.0
