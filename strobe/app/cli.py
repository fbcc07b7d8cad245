"""The command `strobe`. Imports science only when a command runs it; --help, list and find never import torch.

Exit codes: 0 done, 1 done and the answer is no (not bit-equal, damage found, a claim failed to compute), 2 bad input.
"""

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from strobe.core.errors import BadOption, StrobeError

app = typer.Typer(
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich",
    help="Strobe: a time-travel debugger for neural-network training.",
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip

Threads = Annotated[int, typer.Option(help="Torch threads; for small models one is fastest, also on many cores.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]
Wait = Annotated[float, typer.Option(help="Seconds to wait for the loop's answer.")]
LOOK, LIVE, START = "Look", "Live control", "Start here"


def main() -> None:
    """Run the command line; every error of ours is one clear line."""
    sys.path.append(str(Path.cwd()))  # last: pkg.mod:fn of the user's own, shadowing nothing
    try:
        app()
    except StrobeError as e:
        fail(str(e))
    except ModuleNotFoundError as e:
        if e.name not in ("torch", "matplotlib", "tokenizers", "scipy", "safetensors", "fastapi", "uvicorn", "mcp"):
            raise
        extra = {"matplotlib": "report", "fastapi": "serve", "uvicorn": "serve", "mcp": "mcp"}.get(e.name, "demo")
        fail(str(e) if len(str(e)) > 60 else f"this command needs {e.name}: pip install 'strobe[{extra}]'")


def fail(text: str) -> NoReturn:
    """Say what is wrong and leave with code 2."""
    if "--json" in sys.argv:
        print(json.dumps({"error": text}))
    else:
        from rich.console import Console

        Console(stderr=True, soft_wrap=True).print("[bold red]error:[/] ", end="")
        print(text, file=sys.stderr)
    raise SystemExit(2)


def show(as_json: bool, data: Any, text: str | Callable[[], None]) -> None:
    """Print data as JSON, or text (a string, or a function that prints a table)."""
    if as_json:
        from strobe.runs.journal import dumps

        print(dumps(data).decode())
    elif callable(text):
        text()
    else:
        print(text)


def table(title: str, columns: list[str], rows: list[list[Any]]) -> Callable[[], None]:
    """A function that prints a table."""

    def draw() -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        console = Console(soft_wrap=not sys.stdout.isatty())
        t = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        for c in columns:
            t.add_column(c, overflow="fold")
        for row in rows:
            t.add_row(*(Text(str(x)) for x in row))
        console.print(t, width=None if sys.stdout.isatty() else 200)

    return draw


@app.command(rich_help_panel=START)
def demo(
    out: Annotated[Path, typer.Option(help="Where the runs and the report go.")] = Path("runs/demo"),
    scale: Annotated[str, typer.Option(help="tiny, small or full.")] = "small",
    seed: int = 0,
    threads: Threads = 1,
    pages: Annotated[
        bool | None, typer.Option("--serve/--no-serve", help="Show the run live; by default in a terminal.")
    ] = None,
    as_json: Json = False,
) -> None:
    """A small transformer learns real text while Strobe records, predicts, measures, replays and forks it."""
    show_pages = (sys.stdout.isatty() and not as_json) if pages is None else pages
    _study("first_stages", out, scale, seed, threads, as_json, pages=show_pages)


@app.command(rich_help_panel=START)
def serve(
    runs: Annotated[Path, typer.Argument(metavar="RUNS_DIR", help="A folder of runs, or one run.")] = Path("runs"),
    host: Annotated[str, typer.Option(help="The address to listen on; any but loopback needs --token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes any that is free.")] = 8642,
    token: Annotated[
        str | None, typer.Option(help="The session's secret; a random one by default.", envvar="STROBE_TOKEN")
    ] = None,
    name: Annotated[list[str] | None, typer.Option(help="Another name that browsers may call this machine by.")] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = False,
) -> None:
    """Open the pages: watch runs live, stop them, go back, look inside, change them, go on."""
    if not runs.is_dir():
        raise BadOption(f"there is no folder {runs}; record a run into it first, or make it: mkdir -p {runs}")
    if token is not None and not re.fullmatch(r"[A-Za-z0-9_-]{16,200}", token):
        raise BadOption("a token has at least 16 letters, digits, - and _; leave --token out for a random one")
    if host not in ("127.0.0.1", "localhost", "::1"):
        if token is None:
            raise BadOption(
                f"--host {host} opens the pages to other machines: give a --token of your own (or STROBE_TOKEN)"
            )
        print(f"warning: anyone who can reach {host} and has the token may read these runs and steer them; the connection "
              "is not encrypted. An SSH tunnel to 127.0.0.1 is safer.", file=sys.stderr)  # fmt: skip
    from strobe.app.server import serve as start

    def ready(address: str) -> None:
        print(f"Strobe shows {runs} at\n\n    {address}\n\nCtrl-C ends it; training runs go on.", flush=True)
        if browser:
            import webbrowser

            webbrowser.open(address)

    start(runs, host=host, port=port, token=token, names=name or [], ready=ready)


@app.command(rich_help_panel=LOOK)
def trust(run: RunPath) -> None:
    """Say that the code this run names may run when a page or an agent looks inside it, or forks it."""
    from strobe.runs.directory import describe
    from strobe.runs.trust import trust as mark

    facts = describe(run)
    entry = facts["entry"] or {}
    if not mark(run, facts):
        raise StrobeError(f"the mark could not be written into {run}, or there is no home directory to keep a key in")
    print(
        f"{run.name} is marked as yours: looking inside and forking it will run {entry.get('function') or entry.get('script')}"
    )


@app.command(rich_help_panel=START)
def mcp(
    runs: Annotated[Path, typer.Argument(metavar="RUNS_DIR", help="A folder of runs, or one run.")] = Path("runs"),
    allow_control: Annotated[bool, typer.Option(help="Let the agent pause, set, rewind, stop and fork.")] = False,
) -> None:
    """The agent interface (Model Context Protocol over stdio): reading tools, and levers if you allow them."""
    if not runs.is_dir():
        raise BadOption(f"there is no folder {runs}; record a run into it first, or make it: mkdir -p {runs}")
    from strobe.app.agent import make_server

    make_server(runs, allow_control=allow_control).run("stdio")


@app.command(rich_help_panel=START)
def run(
    study: Annotated[str, typer.Argument(help="A study of the catalogue, or pkg.mod:fn.")],
    scale: Annotated[str, typer.Option(help="tiny (seconds), small (minutes) or full.")] = "small",
    out: Annotated[Path | None, typer.Option(help="Where the runs and the report go; runs/STUDY by default.")] = None,
    seed: int = 0,
    threads: Threads = 1,
    as_json: Json = False,
) -> None:
    """Run a study: sealed predictions, measurements, verdicts, a report."""
    _study(study, out or Path("runs") / study.rpartition(":")[2], scale, seed, threads, as_json)


def _study(name: str, out: Path, scale: str, seed: int, threads: int, as_json: bool, *, pages: bool = False) -> None:
    from strobe.core.catalogue import lookup
    from strobe.runs.directory import free_name

    if scale not in ("tiny", "small", "full"):
        raise BadOption(f"--scale is tiny, small or full, got {scale!r}")
    function = lookup(name, "study")
    if out.exists() and any(out.iterdir()):
        taken, out = out, free_name(out)
        print(f"{taken} holds an earlier result; writing to {out}", file=sys.stderr)
    with _beside(out) if pages else nullcontext() as server:
        _run_study(function, out, scale, seed, threads, as_json)
        if server is not None:
            print("\nThe pages stay open; Ctrl-C ends them.", file=sys.stderr)
            with suppress(KeyboardInterrupt):
                server.wait()


@contextmanager
def _beside(runs: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """`strobe serve` in a process of its own, so that the training does not notice it."""
    runs.mkdir(parents=True, exist_ok=True)
    server = subprocess.Popen([sys.executable, "-m", "strobe.app.cli", "serve", str(runs), "--port", "0"])
    try:
        yield server
    finally:
        server.terminate()
        server.wait()


def _run_study(function: Any, out: Path, scale: str, seed: int, threads: int, as_json: bool) -> None:
    import torch

    from strobe.app.progress import Bars
    from strobe.app.report import write_report

    torch.set_num_threads(threads)  # two were up to 129 times slower than one while the other core was busy
    began = time.monotonic()
    with Bars(quiet=as_json or not sys.stderr.isatty(), plain=not as_json) as bars:
        report = function(out, scale=scale, seed=seed, progress=bars.step)
        bars.say("drawing the report")
        page = write_report(report, out / "report.html")
    data = {
        "question": report.question, "report": str(page.resolve()), "seconds": round(time.monotonic() - began, 1),
        "verdicts": [{"word": v.word, "of": v.predicted.of, "predicted": v.predicted.value, "tol": v.predicted.tol,
                      "side": v.predicted.side, "measured": v.measured.value, "err": v.measured.err, "unit": v.measured.unit,
                      "seal": v.predicted.seal, "why": v.why} for v in report.verdicts],
        "facts": report.facts, "tables": report.tables, "runs": [str(r) for r in report.runs],
    }  # fmt: skip
    show(as_json, data, lambda: _print_report(report, page, began))
    if report.facts.get("not_computed"):
        raise typer.Exit(1)


def _print_report(report: Any, page: Path, began: float) -> None:
    from rich.console import Console

    from strobe.core.report import columns

    colours = {"holds": "green", "fails": "red", "undecided": "yellow", "outside": "dim"}
    console = Console(soft_wrap=True, highlight=False)
    console.print(f"\n[bold]{report.question}[/]")
    for v in report.verdicts:
        console.print(f"  [{colours[v.word]}]{v.word:9s}[/] ", end="")
        print(str(v)[10:] + (f"  ({v.why})" if v.why else ""))
    for name, rows in report.tables.items():
        if rows:
            table(f"\n{name}", cols := columns(rows), [[_brief(r[k]) if k in r else "" for k in cols] for r in rows])()
    for text in report.facts.get("not_computed", []):
        console.print(f"[bold red]not computed:[/] {text}")
    console.print(f"\n{time.monotonic() - began:.0f} s. The report: [bold]{page.resolve()}[/]")


def _brief(x: Any) -> str:
    if isinstance(x, list):
        return f"a curve of {len(x)} points"
    return f"{x:.4g}" if isinstance(x, float) else str(x)


@app.command("list", rich_help_panel=LOOK)
def list_(kind: Annotated[str, typer.Argument(help="observable, law, edit, study or system; all by default.")] = "",
          as_json: Json = False) -> None:  # fmt: skip
    """What there is: observables, laws, edits, studies, systems (does not import torch)."""
    from strobe.core.cards import FIELDS
    from strobe.core.catalogue import catalogue

    kind = kind.rstrip("s") if kind != "studies" else "study"
    if kind and kind not in FIELDS:
        raise BadOption(f"there is no kind {kind!r}; there are {', '.join(FIELDS)}")
    _entries([e for e in catalogue() if kind in ("", e.kind)], as_json)


@app.command(rich_help_panel=LOOK)
def find(word: str, as_json: Json = False) -> None:
    """Search the catalogue by word (does not import torch)."""
    from strobe.core.catalogue import catalogue
    from strobe.core.catalogue import find as search
    from strobe.core.errors import near

    entries = search(word)
    if not entries and not as_json:
        raise BadOption(f"nothing in the catalogue mentions {word!r}; {near(word, [e.name for e in catalogue()])}")
    _entries(entries, as_json)


def _entries(entries: list[Any], as_json: bool) -> None:
    rows = [[e.kind, e.name, e.summary] for e in entries]
    data = [
        {"kind": e.kind, "name": e.name, "path": e.path, "summary": e.summary, "options": e.options, "card": e.card}
        for e in entries
    ]
    show(as_json, data, table("", ["kind", "name", "what"], rows))


@app.command(rich_help_panel=LOOK)
def report(
    run: RunPath,
    out: Annotated[Path | None, typer.Option(help="The HTML file; RUN/report.html by default.")] = None,
    as_json: Json = False,
) -> None:
    """Draw a run (or a directory of runs and branches) as one self-contained HTML page."""
    from strobe.app.report import report_of, write_report
    from strobe.runs.directory import describe, exists
    from strobe.runs.run import runs_below

    if not exists(run) and not runs_below(run):
        describe(run)
    page = write_report(report_of(run), out or run / "report.html")
    show(as_json, {"report": str(page.resolve())}, str(page.resolve()))


@app.command(rich_help_panel=LOOK)
def runs(
    root: Annotated[Path, typer.Argument(help="A directory that holds runs.")] = Path("runs"), as_json: Json = False
) -> None:
    """The runs in a directory."""
    from strobe.runs.run import runs_below

    found = (
        [r for place in [root, *(p for p in sorted(root.glob("*")) if p.is_dir())] for r in runs_below(place)]
        if root.is_dir()
        else []
    )
    found = list({r.path.resolve(): r for r in found}.values())
    rows = [[str(r.path), r.status, r.start, r.last, len(r.stored()), _parent(r)] for r in found]
    if not rows and not as_json:
        raise BadOption(
            f"there are no runs in {root}; record one with strobe.record({str(root / 'mine')!r}, model=...) or `strobe demo`"
        )
    keys = ["run", "status", "from", "to", "snapshots", "forked from"]
    show(as_json, [dict(zip(keys, r, strict=True)) for r in rows], table("", keys, rows))


def _parent(r: Any) -> str:
    p = r.facts["parent"]
    return f"{Path(p['run']).name}@{p['step']}" if p else ""


@app.command("show", rich_help_panel=LOOK)
def show_(run: RunPath, as_json: Json = False) -> None:
    """One run: what it is, what it holds, what happened."""
    from strobe.runs.run import open_run
    from strobe.runs.snapshots import brief

    r = open_run(run)
    events = [e for e in r.events() if e["type"] not in ("snapshot", "cursor", "page")]
    facts = {
        "run": str(r.path), "status": r.status, "steps": [r.start, r.last], "forked from": _parent(r), "stored": r.stored(),
        "series": r.names(), "about": r.facts["about"], "entry": r.facts["entry"], "surroundings": r.facts["surroundings"],
    }  # fmt: skip

    def draw() -> None:
        print(
            f"{r.path}: {r.status}, steps {r.start} to {r.last}" + (f", forked from {_parent(r)}" if _parent(r) else "")
        )
        print(f"stored states: {brief(r.stored())}")
        latest = [
            [n, int(s.steps[-1]), f"{s.values[-1]:.6g}", f"{s.errs[-1]:.2g}" if s.errs[-1] else ""]
            for n in r.names()
            for s in [r.series(n)]
        ]
        table("\nseries", ["name", "last step", "value", "err"], latest)()
        shown = [[e["step"], e["type"], _event(e)] for e in events[-25:]]
        if shown:
            table("\nevents", ["step", "event", "what"], shown)()

    show(as_json, {**facts, "events": events}, draw)


def _event(e: dict[str, Any]) -> str:
    hidden = ("kind", "type", "step", "time", "file", "at")
    if e["type"] == "prediction":
        p = e["prediction"]
        return f"{p['of']}: {_brief(p['value'])} ± {_brief(p['tol'])} (sealed {e['seal'][:10]})"
    if e["type"] == "replay":
        return str(e["text"])
    if e["type"] == "verdict":
        return f"{e['word']}: {e['predicted']['of']}"
    return ", ".join(f"{k}={v}" for k, v in e.items() if k not in hidden)[:160]


@app.command(rich_help_panel=LOOK)
def follow(
    run: RunPath,
    observable: Annotated[str, typer.Argument(help="An observable of the catalogue, or pkg.mod:fn.")],
    every: Annotated[
        int | None, typer.Option(help="Measure every N steps (replaying); every stored step by default.")
    ] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--option", "-o", help='An option of the observable: -o nbeta=100 -o \'parts={"a": "0.*"}\'.'),
    ] = None,
    note: Annotated[bool, typer.Option(help="Draw the trace on the strip of the run.")] = True,
    as_json: Json = False,
) -> None:
    """Measure an observable on a recorded run, as if it had been watched."""
    from strobe.app.progress import Bars
    from strobe.core.catalogue import lookup
    from strobe.runs.run import open_run
    from strobe.runs.watch import follow as measure

    fn = lookup(observable, "observable")
    with Bars(quiet=as_json or not sys.stderr.isatty()) as bars:
        found = measure(
            open_run(run), fn, every=every, note=observable.rpartition(":")[2] if note else "",
            progress=lambda i, n: bars.step(f"measuring {observable}", i, n), **_options(options or []),
        )  # fmt: skip
    rows = [[s, str(r)] for s, r in found.items()]
    data = [{"step": s, "value": r.value, "err": r.err, "unit": r.unit, "how": r.how} for s, r in found.items()]
    show(as_json, data, table("", ["step", observable], rows))


@app.command(rich_help_panel=LOOK)
def advise(run: RunPath, threads: Threads = 1, as_json: Json = False) -> None:
    """Which laws apply to a run, which it breaks, and what that means for its settings. Writes nothing."""
    from dataclasses import asdict

    from strobe.app.progress import Bars
    from strobe.core.catalogue import load
    from strobe.runs.run import open_run

    opened = open_run(run)
    import torch

    torch.set_num_threads(threads)
    with Bars(quiet=as_json or not sys.stderr.isatty()) as bars:
        found = load("strobe.studies.advice:advise")(opened, progress=bars.step)
    show(as_json, [asdict(f) for f in found], lambda: _print_advice(opened, found))


@app.command("verify-laws", rich_help_panel=LOOK)
def verify_laws(
    out: Annotated[Path | None, typer.Option(help="Keep the runs here; otherwise they are not kept.")] = None,
    as_json: Json = False,
) -> None:
    """Check the fast laws on this machine, in about a minute: each must hold, and each null must fail."""
    import tempfile

    import torch

    from strobe.app.progress import Bars
    from strobe.core.catalogue import load

    torch.set_num_threads(1)
    began = time.process_time()
    with tempfile.TemporaryDirectory() as spare, Bars(quiet=as_json or not sys.stderr.isatty()) as bars:
        study = load("strobe.studies.learning_mechanics:learning_mechanics")
        report = study(out or Path(spare), scale="tiny", progress=bars.step)
    seconds = time.process_time() - began
    odd = [*report.facts["unexpected"], *report.facts.get("not_computed", [])]
    rows = report.tables["predictions"]
    data = {"ok": not odd, "seconds": round(seconds, 1), "unexpected": odd, "predictions": rows}

    def text() -> None:
        table("", ["study", "prediction", "verdict"], [[r["study"], r["prediction"], r["verdict"]] for r in rows])()
        words = [r["verdict"] for r in rows if "must fail" not in r["prediction"]]
        nulls = [r["verdict"] for r in rows if "must fail" in r["prediction"]]
        counts = ", ".join(f"{words.count(w)} {w}" for w in ("holds", "fails", "undecided", "outside") if w in words)
        said = f"{counts}; {nulls.count('fails')} of {len(nulls)} nulls fail" + (
            ". Not as it must be:" if odd else ", as they must."
        )
        print(f"\n{len(rows)} predictions, {seconds:.0f} CPU seconds: {said}")
        for line in odd:
            print(f"  {line}")

    show(as_json, data, text)
    if odd:
        raise typer.Exit(1)


@app.command(rich_help_panel=LOOK)
def concept(
    source: Annotated[Path, typer.Argument(metavar="RUN", help="A run, or a Hugging Face model directory.", show_default=False)],
    positive: Annotated[Path | None, typer.Option(help="Examples with the concept, one a line.")] = None,
    negative: Annotated[Path | None, typer.Option(help="Examples without it, one a line.")] = None,
    labelled: Annotated[Path | None, typer.Option(help="Instead: a CSV, JSONL or Parquet file with two labels.")] = None,
    text: Annotated[str, typer.Option(help="Its column of texts.")] = "text",
    label: Annotated[str, typer.Option(help="Its column of labels; the larger is the concept.")] = "label",
    step: Annotated[int | None, typer.Option(help="Of the run; by default the last.")] = None,
    site: Annotated[list[str] | None, typer.Option(help="Where to look; by default after each block.")] = None,
    positions: Annotated[str | None, typer.Option(help="last, mean or a number; by default last, of an encoder mean.")] = None,
    out: Annotated[Path | None, typer.Option(help="Save the concept here; of a run by default RUN/concepts.")] = None,
    seed: int = 0,
    threads: Threads = 1,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Is a concept in the network: where, by which method, and is it a line? From texts with it and without it."""
    import torch

    from strobe.app import concept_text
    from strobe.app.progress import Bars
    from strobe.core.catalogue import load

    torch.set_num_threads(threads)
    at = int(positions) if positions is not None and positions.lstrip("-").isdigit() else positions
    with Bars(quiet=as_json or not sys.stderr.isatty()) as bars:
        found = load("strobe.studies.concept:concept")(
            source, positive, negative, labelled=labelled, text=text, label=label, step=step, sites=site or None, positions=at,
            out=out, seed=seed, progress=lambda what, part: bars.step(what, round(100 * part), 100),
        )  # fmt: skip
    show(as_json, concept_text.plain(found), lambda: concept_text.draw(found))


HEADS = {"wrong": ("red", "Look at this first"), "obeyed": ("green", "Obeyed"), "note": ("cyan", "Worth knowing"),
         "outside": ("dim", "Laws that do not apply here")}  # fmt: skip


def _print_advice(run: Any, found: list[Any]) -> None:
    from rich.console import Console

    console = Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
    if all(f.kind == "outside" for f in found):
        console.print(f"[bold]No law of the catalogue applies to {run.name}[/], for these reasons:")
    elif not any(f.kind == "wrong" for f in found):
        console.print(f"[bold]Nothing to complain about in {run.name}.[/]")
    for kind, (colour, title) in HEADS.items():
        if mine := [f for f in found if f.kind == kind]:
            console.print(f"\n[bold {colour}]{title}[/]")
        for f in mine:
            console.print(f"  [bold]{f.law}[/]", end="")
            console.print(f" [dim]({f.ref})[/]" if f.ref else "")
            for text in (f"law: {f.said}", f"run: {f.measured}") if f.said else ():
                console.print(f"    {text}", markup=False)
            console.print(f"    {f.means}", markup=False)


def _options(given: list[str]) -> dict[str, Any]:
    """name=value pairs, the values as Python literals or else text."""
    import ast

    out: dict[str, Any] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals or not name.strip().isidentifier():
            raise BadOption(f"an option is written name=value, such as -o nbeta=100; got {text!r}")
        try:
            out[name.strip()] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            out[name.strip()] = value
    return out


@app.command(rich_help_panel=START)
def replay(
    run: RunPath,
    to: Annotated[int, typer.Option(help="The step to arrive at.")],
    verify: Annotated[bool, typer.Option("--verify", help="Compare every recorded bit on the way.")] = False,
    as_json: Json = False,
) -> None:
    """Run the recorded loop again to a step; --verify proves bit equality or names the first difference."""
    from strobe.runs.replay import replay as again
    from strobe.runs.run import open_run

    r = again(open_run(run), to, verify=verify)
    data = {"ok": r.ok, "start": r.start, "to": r.to, "checked": r.checked, "first": r.first,
            "differences": r.differences[:100], "surroundings": r.surroundings, "verified": verify}  # fmt: skip
    text = (
        str(r) if verify else f"{r.run.name}: replayed steps {r.start} to {r.to} (nothing compared; --verify compares)"
    )
    show(as_json, data, text)
    if verify and not r.ok:
        raise typer.Exit(1)


@app.command(rich_help_panel=START)
def fork(
    where: Annotated[str, typer.Argument(metavar="RUN@STEP", help="The run and the step to start from.")],
    edits: Annotated[list[str] | None, typer.Argument(help="lr=1e-4, ablate=blocks.1.attn.z@1[3], ...")] = None,
    until: Annotated[int | None, typer.Option(help="Stop after this step.")] = None,
    out: Annotated[Path | None, typer.Option(help="The branch's directory.")] = None,
    as_json: Json = False,
) -> None:
    """Start a branch of a run at any step, with edits; the run itself is not touched."""
    from strobe.app.progress import Bars
    from strobe.runs.run import open_run

    name, _, step = where.rpartition("@")
    if not name or not step.isdigit():
        raise BadOption(f"write RUN@STEP, for example runs/mine@400; got {where!r}")
    parent = open_run(name)
    goal = until or parent.facts["about"].get("steps", parent.last)
    with Bars(quiet=as_json or not sys.stderr.isatty()) as bars:
        advance = lambda n: bars.step("training the branch", n - int(step), max(goal - int(step), 1))  # noqa: E731
        r = parent.fork(int(step), edits or [], until=until, out=out, progress=advance)
    data = {"branch": str(r.path), "from": int(step), "to": r.last}
    show(as_json, data, f"{r.path}: steps {step} to {r.last}")


@app.command(rich_help_panel=LOOK)
def doctor(
    run: RunPath,
    repair: Annotated[bool, typer.Option("--repair", help="Move damage to RUN/aside; deletes nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Read every byte of a run; name each damaged file and the step it touches."""
    from strobe.runs import directory
    from strobe.runs.doctor import examine
    from strobe.runs.doctor import repair as mend

    if not directory.exists(run):
        directory.describe(run)
    found = examine(run)
    moved = mend(run) if repair else []
    data = {
        "findings": [{"file": f.file, "step": f.step, "what": f.what, "lost": f.lost} for f in found],
        "moved": moved,
    }
    lines = [*(f"step {f.step if f.step is not None else '-'}  {f}" for f in found), *(f"moved {m}" for m in moved)]
    show(as_json, data, "\n".join(lines) or f"{run}: every byte is as it was written")
    if found and not repair:
        raise typer.Exit(1)


# ------------------------------------------------------------------------------------------- live control


def _command(run: Path, act: str, wait: float, as_json: bool, **args: Any) -> None:
    from strobe.runs import directory
    from strobe.runs.control import send
    from strobe.runs.run import open_run

    r = open_run(run)
    if not directory.live(run):
        hint = f"`strobe fork {run}@{r.last} ...` starts a branch of it"
        raise BadOption(f"no process is writing {run}, so nothing listens to commands; {hint}")
    command = send(run, act, **args)
    until = time.monotonic() + wait
    while True:
        gone = not directory.live(run)  # asked first: a loop that stops answers, and then ends
        answers = [e for e in r.events("command") if e["id"] == command.id]
        if answers:
            a = answers[-1]
            text = f"{act}: {a['outcome']} at step {a['step']}" + (f" ({a['reason']})" if "reason" in a else "")
            show(as_json, {k: a[k] for k in ("id", "act", "outcome", "step", "reason", "author") if k in a}, text)
            raise typer.Exit(0 if a["outcome"] == "applied" else 1)
        if gone or time.monotonic() > until:
            break
        time.sleep(0.05)
    show(as_json, {"id": command.id, "act": act, "outcome": "waiting"},
         f"{act}: written, not answered within {wait:g} s; the loop answers at its next step (strobe show {run})")  # fmt: skip


@app.command(rich_help_panel=LIVE)
def pause(run: RunPath, wait: Wait = 30.0, as_json: Json = False) -> None:
    """Pause a live run at its next step."""
    _command(run, "pause", wait, as_json)


@app.command(rich_help_panel=LIVE)
def resume(run: RunPath, wait: Wait = 30.0, as_json: Json = False) -> None:
    """Let a paused run go on."""
    _command(run, "resume", wait, as_json)


@app.command(rich_help_panel=LIVE)
def stop(run: RunPath, wait: Wait = 30.0, as_json: Json = False) -> None:
    """Stop a live run at its next step, with a last snapshot."""
    _command(run, "stop", wait, as_json)


@app.command(rich_help_panel=LIVE)
def snapshot(run: RunPath, wait: Wait = 30.0, as_json: Json = False) -> None:
    """Store the full state of a live run at its next step."""
    _command(run, "snapshot", wait, as_json)


@app.command("set", rich_help_panel=LIVE)
def set_(run: RunPath, change: Annotated[str, typer.Argument(metavar="NAME=VALUE", help="For example lr=1e-4.")],
         wait: Wait = 30.0, as_json: Json = False) -> None:  # fmt: skip
    """Set a declared control of a live run (lr, weight_decay, ... and what the loop declares)."""
    name, _, value = change.partition("=")
    try:
        number = float(value)
    except ValueError:
        raise BadOption(f"write NAME=VALUE with a number, for example lr=1e-4; got {change!r}") from None
    _command(run, "set", wait, as_json, name=name, value=number)


@app.command(rich_help_panel=LIVE)
def rewind(
    run: RunPath, to: Annotated[int, typer.Option(help="A stored step.")], wait: Wait = 30.0, as_json: Json = False
) -> None:
    """Take a live run back to a stored step; it goes on as a branch, what was recorded stays."""
    _command(run, "rewind", wait, as_json, step=to)


def _version(value: bool) -> None:
    if value:
        import strobe

        print(strobe.__version__)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Strobe: record a training run, reopen any step, replay, fork, predict, judge."""


if __name__ == "__main__":
    main()
