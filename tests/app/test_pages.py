"""The pages in a real browser: the whole story on a live run, every page without a console line, light and dark."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strobe.app import server
from strobe.core.prediction import Prediction, judge
from strobe.core.reading import Reading
from strobe.runs.notes import Notes
from strobe.runs.replay import replay
from strobe.runs.run import open_run
from toys import Toy, letters_again, toy_again

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"
TOKEN = "p" * 24
LOOP = """
import sys, time, torch
torch.set_num_threads(1)
from strobe.runs.loop import train
from strobe.systems.attention_language import attention_language
knobs = dict(vocab=280, context=16, d_model=16, heads=2, batch=4, held_fraction=0.3, probe_size=6)
world = attention_language(corpus={corpus!r}, cache={cache!r}, **knobs)
train(world, {out!r}, steps=4000, examples=True, after=lambda rec, loss: time.sleep(0.01), snapshots=20)
"""


@contextmanager
def pages(root: Path) -> Iterator[str]:
    """`strobe serve`; the address with its token."""
    command = [sys.executable, "-m", "strobe.app.cli", "serve", str(root), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "STROBE_TOKEN": TOKEN}
    ) as child:
        try:
            assert child.stdout is not None
            yield next(line.strip() for line in child.stdout if "http://" in line)
        finally:
            child.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    missing = "" if CHROMIUM else "no chromium on this machine (Debian: apt-get install chromium)"
    if not (server.STATIC / "index.html").exists():
        missing = "the pages are not built (make pages)"
    if missing and os.environ.get("CI"):
        pytest.fail(f"in CI the pages are tested: {missing}")
    if missing:
        pytest.skip(missing)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        chromium = p.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield chromium
        chromium.close()


def opened(browser: Any, said: list[str], **options: Any) -> Any:
    """A new page; what it writes to the console, and every error, goes to `said`."""
    page = browser.new_context(viewport={"width": 1280, "height": 720}, **options).new_page()
    page.on("console", lambda m: said.append(f"{m.type}: {m.text}") if m.type in ("error", "warning") else None)
    page.on("pageerror", lambda e: said.append(f"page: {e}"))
    page.set_default_timeout(30_000)
    return page


def wait(what: str, check: Any, seconds: float = 60) -> Any:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if got := check():
            return got
        time.sleep(0.1)
    raise AssertionError(f"waited {seconds} s in vain: {what}")


def picture(page: Any) -> str:
    """The enlarged attention pattern, as drawn."""
    return str(page.locator('canvas[aria-label^="attention of layer"]').first.evaluate("c => c.toDataURL()"))


def test_the_whole_story(browser: Any, tmp_path: Path, folder: Path) -> None:
    """Open, drag the playhead, see attention change, pause, halve the rate, resume, fork ablated, compare, report."""
    out, said = tmp_path / "runs/live", list[str]()
    out.parent.mkdir()
    script = LOOP.format(corpus=str(folder), cache=str(tmp_path / "cache"), out=str(out))
    loop = subprocess.Popen([sys.executable, "-c", script])
    try:
        wait("the run", lambda: (out / "steps/100/manifest.json").exists())
        with pages(out.parent) as address:
            page = opened(browser, said, accept_downloads=True)
            page.goto(address)
            assert "token" not in page.url
            page.get_by_role("link", name="live", exact=True).click()
            head = page.get_by_role("slider", name="playhead")
            now = int(head.get_attribute("aria-valuenow"))
            wait("live news move the playhead", lambda: int(head.get_attribute("aria-valuenow")) > now)

            box = head.bounding_box()  # drag it to the left
            page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 40)
            page.mouse.down()
            page.mouse.move(box["x"] - 300, box["y"] + 40, steps=8)
            page.mouse.up()
            dragged = int(head.get_attribute("aria-valuenow"))
            assert dragged < now
            wait("the view is a URL", lambda: f"step={dragged}" in page.evaluate("location.href"))

            page.get_by_role("link", name="Look", exact=True).click()
            page.get_by_role("button", name="Attention").click()
            wait("a pattern", lambda: page.locator('canvas[aria-label^="attention of layer"]').count())
            spin = page.get_by_label("step", exact=True)
            shots = {}
            for step in (20, 100):
                spin.fill(str(step))
                spin.press("Enter")
                wait(f"step {step}", lambda s=step: f"step={s}" in page.evaluate("location.href"))
                page.wait_for_timeout(1500)
                shots[step] = picture(page)
            assert shots[20] != shots[100]

            page.get_by_role("link", name="Levers", exact=True).click()
            run = open_run(out)
            page.get_by_role("button", name="Pause").click()
            wait("paused", lambda: run.status == "paused")
            at = run.last
            page.get_by_role("button", name="÷ 2").first.click()
            (half,) = wait("the rate is halved", lambda: run.events("applied"))
            assert (half["name"], half["value"], half["step"]) == ("lr", half["before"] / 2, at)
            assert half["author"] == "human (page)"
            page.get_by_role("button", name="Resume").click()
            wait("it goes on", lambda: run.last > at + 10)

            part = page.get_by_label("part")
            site = wait(
                "the sites",
                lambda: [v for v in part.locator("option").evaluate_all("o => o.map(x => x.value)") if "z@1[1]" in v],
            )[0]
            part.select_option(site)
            wait("the dose-response", lambda: page.get_by_text("random control").count())
            page.get_by_role("button", name="Add to the fork").click()
            page.get_by_label("until step").fill("160")
            page.get_by_role("button", name="Fork here with").click()
            branch = wait("the branch", lambda: [b for b in run.branches() if b.last >= 160], 90)[0]
            assert (branch.start, branch.facts["edits"][0]["site"]) == (100, site)
            assert [e["author"] for e in branch.events("edit")] == ["human (page)"]

            page.get_by_role("link", name="Runs", exact=True).click()
            for name in ("live", branch.name):
                page.get_by_role("row").filter(has=page.get_by_role("link", name=name, exact=True)).get_by_role(
                    "checkbox"
                ).check()
            wait("both are compared", lambda: page.locator("canvas").count())
            page.get_by_role("link", name="live", exact=True).first.click()
            page.get_by_role("link", name="Levers", exact=True).click()
            page.get_by_role("button", name="Stop", exact=False).first.click()
            wait("stopped", lambda: run.status == "finished")
            page.get_by_role("link", name="Report", exact=True).click()
            page.get_by_text(f"branches: {branch.name}").wait_for(timeout=10_000)
            with page.expect_download() as download:
                page.get_by_role("button", name="Make and download the report").click()
            download.value.save_as(tmp_path / "report.html")
            loop.wait(timeout=30)
            page.close()  # a page that is open when its server is killed says so in the console
        away = opened(browser, said, offline=True)
        asked: list[str] = []
        away.on("request", lambda r: asked.append(r.url))
        away.goto((tmp_path / "report.html").as_uri())
        assert "live" in away.inner_text("body")
        assert branch.name in away.inner_text("body")
        assert asked == [(tmp_path / "report.html").as_uri()]
        assert said == []
        assert replay(run, at + 5, verify=True).ok  # what was asked for on the page is done again to the bit
    finally:
        loop.kill()
        loop.wait()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_page_is_quiet_and_accessible(browser: Any, page_runs: Path, scheme: str) -> None:
    """No console line, and no serious or critical finding of axe-core, on any page."""
    from axe_playwright_python.sync_playwright import Axe

    said, found = list[str](), list[str]()
    with pages(page_runs) as address:
        page = opened(browser, said, color_scheme=scheme, bypass_csp=True)  # axe brings its own script
        page.goto(address)

        def check(where: str) -> None:
            assert page.get_by_role("main").inner_text().strip(), where
            for v in Axe().run(page).response["violations"]:
                if v["impact"] in ("serious", "critical"):
                    found.append(f"{where}: {v['id']}: {[n['html'][:120] for n in v['nodes'][:3]]}")

        page.get_by_role("link", name="trunk", exact=True).wait_for()
        check("Runs")
        page.get_by_role("link", name="trunk", exact=True).click()
        for tab in ("Look", "Levers", "Laws", "Data", "Report", "About", "Strip"):
            page.get_by_role("link", name=tab, exact=True).click()
            page.wait_for_timeout(1500)
            check(tab)
    assert found == []
    assert said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_concept_is_found_steered_by_and_traced_on_the_strip(browser: Any, tmp_path: Path, scheme: str) -> None:
    """Two lists of texts to a table, a slider and a panel of the strip; quiet and accessible all along, and with the keyboard."""
    from axe_playwright_python.sync_playwright import Axe

    on = [
        f"{a} {b} is red" for a in ("the", "a", "this", "one") for b in ("house", "car", "door", "wall", "ball", "hat")
    ]
    letters_again(out=str(tmp_path / "letters"))
    said, found = list[str](), list[str]()
    with pages(tmp_path) as address:
        page = opened(browser, said, color_scheme=scheme, bypass_csp=True)
        page.goto(address)

        def check(where: str) -> None:
            for v in Axe().run(page).response["violations"]:
                if v["impact"] in ("serious", "critical"):
                    found.append(f"{where}: {v['id']}: {[n['html'][:120] for n in v['nodes'][:3]]}")

        page.get_by_role("link", name="letters", exact=True).click()
        page.get_by_role("link", name="Look", exact=True).click()
        page.get_by_role("button", name="Concepts").click()
        find = page.get_by_role("button", name="Is it in there?")
        assert find.is_disabled()
        check("nothing asked")
        page.get_by_label("texts with the concept").fill("\n".join(on[:9]))
        page.get_by_label("texts without it").fill("\n".join(t.replace("red", "blue") for t in on))
        find.click()
        page.get_by_text("9 examples of one kind").wait_for()
        check("too few")
        assert all("400" in s for s in said)  # what a browser writes of an answer that is refused
        said.clear()
        page.get_by_label("texts with the concept").fill("\n".join(on))
        find.focus()
        page.keyboard.press("Enter")
        page.get_by_text("There:").wait_for(timeout=60_000)
        assert page.get_by_role("row").filter(has_text="blocks.1").count() == 1
        page.get_by_label("area of a line, sites by steps").wait_for()
        unsteered = page.get_by_text("unsteered")
        unsteered.wait_for()
        check("found")
        dose = page.get_by_label("dose", exact=False).first
        dose.focus()
        for _ in range(5):
            page.keyboard.press("ArrowRight")
        wait("the dose is 1.5", lambda: page.get_by_text("dose 1.5").count())
        page.get_by_role("button", name="Measure the branches").click()
        page.get_by_label("trait against loss, 0 branches and 9 doses").wait_for(timeout=60_000)
        assert page.get_by_role("row").filter(has_text="letters, as it is").count() == 1
        assert page.get_by_text("○ yes").count() >= 1
        check("front")
        page.get_by_label("name", exact=True).fill("red")
        page.keyboard.press("Enter")
        link = page.get_by_role("link", name="red is on the strip")
        link.wait_for(timeout=60_000)
        check("traced")
        page.get_by_role("button", name="Trace on the strip").click()
        page.get_by_text("give the trace another name").wait_for()
        assert open_run(tmp_path / "letters").readings("red")
        page.get_by_label("name", exact=True).fill("red again")
        page.get_by_role("button", name="Trace on the strip").click()
        page.get_by_role("link", name="red again is on the strip").click()
        panel = page.get_by_role("region", name="red again")
        wait("its three lines", lambda: all(w in panel.inner_text() for w in ("line", "kernel", "direction")))
        check("strip")
    assert found == []
    assert said == []


def test_a_direction_survives_a_reload_and_a_fork_takes_it(browser: Any, page_runs: Path, tmp_path: Path) -> None:
    shutil.copytree(page_runs, tmp_path / "runs")
    run, said = open_run(tmp_path / "runs/trunk"), list[str]()
    with pages(tmp_path / "runs") as address:
        page = opened(browser, said)
        page.goto(address)
        page.get_by_role("link", name="trunk", exact=True).click()
        page.get_by_role("link", name="Levers", exact=True).click()
        page.get_by_label("part").select_option("blocks.0")
        direction, edits = page.get_by_label("direction", exact=True), page.get_by_label("edits of the fork")
        page.get_by_role("button", name="scale", exact=True).click()
        for choice, fill in (
            ("pc:2", {}), ("unit", {"unit": "3"}), ("texts", {"the first text": "def f(x): 5%", "the second text": "a; b@c"}),
        ):  # fmt: skip
            direction.select_option(choice)
            for field, text in fill.items():
                page.get_by_label(field, exact=True).fill(text)
                page.keyboard.press("Tab")
            page.get_by_text("of the variance").wait_for()
            page.get_by_role("button", name="Add to the fork").click()
        names = ["PC 2 × 0.5 at blocks.0", "unit 3 × 0.5 at blocks.0", "“def f(x): 5%” − “a; b@c” × 0.5 at blocks.0"]
        assert edits.locator("code").all_inner_texts() == names
        wait("three directions in the address", lambda: page.evaluate("location.href").count("%40blocks.0%40") == 3)

        page.reload()
        wait("the same after a reload", lambda: edits.locator("code").all_inner_texts() == names)
        assert page.get_by_label("the first text").input_value() == "def f(x): 5%"
        page.get_by_label("until step").fill(str(run.last + 5))
        page.get_by_label("name", exact=True).fill("turned")
        page.get_by_role("button", name="Fork here with these edits").click()  # enabled once the directions are found
        branch = wait("the branch", lambda: [b for b in run.branches() if b.name == "turned"], 90)[0]
        assert [e["site"] for e in branch.facts["edits"]] == ["blocks.0"] * 3
        kwargs = [e["kwargs"] for e in branch.facts["edits"]]
        assert [k["factor"] for k in kwargs] == [0.5] * 3
        assert [i for i, v in enumerate(kwargs[1]["direction"]) if v] == [3]
        page.get_by_role("link", name="Strip", exact=True).click()
        page.get_by_text("Branches (2)").click()
        page.get_by_role(
            "checkbox", name="PC 2 × 0.5 at blocks.0"
        ).wait_for()  # named in the list of branches as it was made

        href = page.evaluate("location.href").replace("unit%3A3", "unit%3A999")
        page.goto(href.replace("?", "/levers?", 1))
        page.reload()
        assert said == []
        wait("an edit that cannot be found says so", lambda: "not 999" in edits.inner_text())
        assert page.get_by_role("button", name="Fork here").is_disabled()


def test_which_branches_are_drawn_is_chosen_with_the_keyboard(browser: Any, tmp_path: Path) -> None:
    from axe_playwright_python.sync_playwright import Axe

    toy_again(out=str(tmp_path / "trunk"), steps=12)
    for i in range(8):
        open_run(tmp_path / "trunk").fork(10, [f"lr={i + 1}e-3"], out=tmp_path / f"b{i}")
    said = list[str]()
    with pages(tmp_path) as address:
        page = opened(browser, said, bypass_csp=True)
        page.goto(address)
        page.get_by_role("link", name="trunk", exact=True).click()
        page.get_by_text("6 of 8 branches drawn").focus()
        page.keyboard.press("Enter")
        boxes = page.get_by_role("group", name="branches that are drawn").get_by_role("checkbox")
        assert [boxes.nth(i).is_checked() for i in range(8)] == [True] * 6 + [False] * 2
        assert page.get_by_role("checkbox", name="lr=0.003").is_checked()
        page.get_by_role("checkbox", name="lr=0.001").focus()
        page.keyboard.press("Space")
        wait("seven are drawn", lambda: page.get_by_text("7 of 8 branches drawn").count())
        wait("with their traces", lambda: page.get_by_label("values at the playhead").get_by_text("b0").count())
        found = [v["id"] for v in Axe().run(page).response["violations"] if v["impact"] in ("serious", "critical")]
        assert found == []
        page.keyboard.press("Escape")
        assert not boxes.first.is_visible()
        page.reload()
        page.get_by_text("7 of 8 branches drawn").click()
        page.get_by_role("button", name="None").click()
        wait("none", lambda: page.get_by_text("0 of 8 branches drawn").count())
        page.reload()
        page.get_by_text("0 of 8 branches drawn").click()
        page.get_by_role("button", name="Newest 6").click()
        page.get_by_text("6 of 8 branches drawn").wait_for()
        assert "branches" not in page.url
    assert said == []


def test_an_empty_folder_says_what_to_do_and_a_stranger_what_is_missing(browser: Any, tmp_path: Path) -> None:
    said: list[str] = []
    with pages(tmp_path) as address:
        page = opened(browser, said)
        page.goto(address)
        wait("the start page", lambda: "strobe.record" in page.inner_text("body"))
        assert said == []
        stranger = opened(browser, [])
        stranger.goto(address.partition("?")[0])
        assert "strobe serve" in stranger.inner_text("body")


def test_hostile_names_are_text_on_every_page(browser: Any, tmp_path: Path) -> None:
    import torch

    import strobe

    bad, said = "<img src=x onerror=alert(1)>", list[str]()
    with strobe.record(tmp_path / bad, model=torch.nn.Linear(1, 1), about={bad: bad}) as rec:
        for _ in range(3):
            rec.step(loss=1.0, **{bad: 2.0})
        rec.event(bad, text=bad)
    with pages(tmp_path) as address:
        page = opened(browser, said)
        page.on("dialog", lambda d: said.append(f"dialog: {d.message}"))
        page.goto(address)
        page.get_by_role("link", name=bad, exact=True).click()
        for tab in ("Look", "Levers", "Laws", "Data", "Report", "About", "Strip"):
            page.get_by_role("link", name=tab, exact=True).click()
            page.wait_for_timeout(300)
            assert page.locator("img[src=x]").count() == 0
    assert [s for s in said if "dialog" in s or "Refused" in s] == []


@pytest.fixture(scope="module")
def page_runs(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Path:
    from strobe.studies.first_stages import first_stages

    out = tmp_path_factory.mktemp("demo")
    first_stages(out, scale="tiny", corpus=str(folder))
    return out


def test_what_was_sealed_is_on_the_strip_and_its_verdict_comes_to_it(browser: Any, tmp_path: Path) -> None:
    said = list[str]()
    Toy().run(tmp_path / "r", 40)
    with Notes(tmp_path / "r", step=3) as notes:
        for _ in "ab":  # the same thing said twice has one seal and one line
            law = notes.seal(Prediction("the last loss", 1.0, 0.5, series="loss", steps=[40, 40]))
    with pages(tmp_path) as address:
        page = opened(browser, said)
        page.goto(address)
        page.get_by_role("link", name="r", exact=True).click()
        panel = page.get_by_role("region", name="loss")
        label = panel.locator(".said")
        wait("the label of the line", lambda: label.count() == 1)
        assert "the last loss" in label.inner_text()
        assert "sealed" in label.inner_text()
        canvas = panel.locator("canvas").first
        before = canvas.evaluate("c => c.toDataURL()")
        with Notes(tmp_path / "r") as notes:
            notes.verdict(judge(law, Reading(9.0, 0.1)))
        page.reload()
        wait("the verdict on the line", lambda: label.count() == 1 and "fails" in label.inner_text())
        assert "measured 9.00 ± 0.10" in label.locator(".chip").first.get_attribute("title")
        assert canvas.evaluate("c => c.toDataURL()") != before  # the line has the verdict's colour
        page.get_by_role("link", name="Laws", exact=True).click()
        page.get_by_role("link", name="on the strip").first.click()
        wait("the panel alone, at the verdict", lambda: label.count() == 1 and "series=loss" in page.url)
    assert said == []


def test_a_clicked_boundary_says_which_method_found_it_and_how_sure_it_is(browser: Any, tmp_path: Path) -> None:
    from strobe.observables.stages import boundaries

    said = list[str]()
    Toy().run(tmp_path / "r", 40)
    with Notes(tmp_path / "r") as notes:
        for name, method, at, sure in (
            ("stages", "bends of the traces", [4.0, 20.0], 0.9),
            ("vertices", "turns of the trajectory", [21.0], 0.6),
        ):
            x = np.array(at)
            how = {"boundaries": boundaries(method, x, 0 * x + 0.04, 0 * x + sure), "low": 1.0, "high": 40.0}
            notes.reading(name, Reading(x, 0.1 * x, "steps", how))
    with pages(tmp_path) as address:
        page = opened(browser, said)
        page.goto(address)
        page.get_by_role("link", name="r", exact=True).click()
        note = page.get_by_role("status", name="stage boundary")
        lane = page.locator(".lane canvas")
        wait("the lane", lambda: lane.count() == 1 and (lane.bounding_box() or {"width": 0})["width"] > 200)
        page.get_by_role("slider").focus()
        page.keyboard.press("Shift+ArrowLeft")
        wait("the note, by keys", lambda: note.count() == 1)
        assert "Boundary at step 21.0" in note.inner_text()
        assert "turns of the trajectory" in note.inner_text()
        assert "60 % of resampled data have it" in note.inner_text()
        assert "bends of the traces at 20.0" in note.inner_text()
        page.keyboard.press("Escape")
        wait("it closes", lambda: note.count() == 0)
        left = page.get_by_role("slider").bounding_box()["x"] + 5.5
        page.keyboard.press("Shift+ArrowLeft")  # step 20: its place is where the playhead is now
        at = page.get_by_role("slider").bounding_box()["x"] + 5.5
        assert at < left
        page.keyboard.press("End")
        wait("it closes with the playhead gone", lambda: note.count() == 0)
        page.mouse.click(at, lane.bounding_box()["y"] + 8)
        wait("the note, by the click", lambda: note.count() == 1)
        assert "bends of the traces" in note.inner_text()
        assert "90 % of resampled data have it" in note.inner_text()
        assert page.get_by_role("slider").get_attribute("aria-valuenow") == "20"
    assert said == []
