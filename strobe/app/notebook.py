"""A run in a notebook: its strip as a widget, and as a picture where no kernel runs any more. No server, no network."""

import base64
import html
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from strobe.app.boundaries import stages_of
from strobe.app.feed import edit_text, plain, series_of
from strobe.app.laws_table import laws_of
from strobe.app.report import panels_of
from strobe.app.strip import draw
from strobe.runs.run import Run

POINTS, BRANCHES, EVENTS = 4000, 6, 2000  # of one series (the least and largest kept), drawn, marked on the strip
MODULE = Path(__file__).parent / "static/widget.js"
MARKED = frozenset({
    "prediction", "verdict", "applied", "control", "edit", "error", "nonfinite", "command", "replay", "rewound", "finished",
    "interrupted",
})  # fmt: skip


class Picture:
    """The strip of a run as a static picture."""

    def __init__(self, run: Run, series: Sequence[str] | None = None) -> None:
        self.run, self.series = run, series
        panels_of(run, series)
        self._html = ""

    def refresh(self) -> None:
        """Read what was recorded since; show it again to see it."""
        self._html = ""

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        self._html = self._html or picture(self.run, self.series)
        return {"text/plain": f"strip of {self.run.name}, to step {self.run.last}", "text/html": self._html}


def show(run: Run, series: Sequence[str] | None = None) -> Any:
    """The strip of `run`, for the last line of a notebook's cell: playhead, zoom, and the values at each step.

    `series`: names of series or titles of panels, in the order wanted; by default what the run declares. The answer
    has `step` and `zoom`, both to read and to set, and `refresh()` for what was recorded since. A saved notebook keeps
    a picture. Without anywidget (`pip install "strobe[notebook]"`) it is the picture alone. Raises `NameNotFound`.
    """
    kind = _widget() if MODULE.exists() else None
    return Picture(run, series) if kind is None else kind(run, series)


@cache
def _widget() -> Any:
    """The class of the widget, or None without anywidget."""
    try:
        import anywidget
        import traitlets
    except ImportError:
        return None

    class Strip(anywidget.AnyWidget):
        """The strip of a run, drawn by the pages' own code."""

        _esm = MODULE.read_text(encoding="utf-8")
        _given = traitlets.Dict().tag(sync=True)
        step = traitlets.Int(None, allow_none=True, help="where the playhead is; None: at the newest").tag(sync=True)
        _key = traitlets.Unicode().tag(sync=True)  # of the picture beside it, which it hides while it runs
        zoom: Any = traitlets.Tuple(
            traitlets.Int(), traitlets.Int(), default_value=None, allow_none=True, help="steps in view; None: all"
        ).tag(sync=True)

        def __init__(self, run: Run, series: Sequence[str] | None = None) -> None:
            self.picture = Picture(run, series)
            super().__init__(_given=given(run, series), _key=uuid4().hex)

        def refresh(self) -> None:
            """Read what was recorded since; what is on the screen follows."""
            self.picture.refresh()
            self._given = given(self.picture.run, self.picture.series)

        def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
            made = super()._repr_mimebundle_(**kwargs)
            data, about = made if isinstance(made, tuple) else (made or {}, {})
            return {**data, **self.picture._repr_mimebundle_()}, about

        def _ipython_display_(self) -> None:
            """Two outputs: of one with both, JupyterLab shows nothing but an error once the kernel is gone."""
            from IPython.display import display

            data, about = self._repr_mimebundle_()
            me, child = f"strobe-{self._key}", ".jp-OutputArea-child"
            no_error = f"<style>{child}:has(+ {child} .{me}) .jupyter-widgets:not(:has(*)) {{ display: none }}</style>"
            still = f"{data.pop('text/html')}<small>To drag and zoom, run the cell.</small>"
            display(data, metadata=about, raw=True)
            display({"text/html": f'{no_error}<div class="{me}">{still}</div>'}, raw=True)

    return Strip


def given(run: Run, series: Sequence[str] | None = None) -> dict[str, Any]:
    """All that the widget draws, as plain data: traces thinned so that no spike is lost, at most six branches."""
    panels = panels_of(run, series)
    names = list(dict.fromkeys(n for p in panels for n in p.series))
    branches = run.branches()[-BRANCHES:]
    stages = stages_of(run)
    return plain({
        "id": run.facts["id"], "name": run.name, "status": run.status, "first": 0 if run.facts["parent"] else run.start,
        "last": run.last, "stored": run.stored(), "panels": [asdict(p) for p in panels],
        "detail": {"series": [{"name": k, "scalar": scalar} for k, (_, _, scalar) in run.index.counts().items()]},
        "traces": _traces(run, names, lineage=True), "branch_traces": {b.facts["id"]: _traces(b, names) for b in branches},
        "branches": [
            {"id": b.facts["id"], "name": b.name, "start": b.start, "last": b.last, "status": b.status,
             "edits": [edit_text(e) for e in b.facts["edits"]]} for b in branches
        ],
        "events": [e for e in run.events() if e["type"] in MARKED][-EVENTS:],
        "stages": stages and {k: stages[k] for k in ("value", "err", "how", "boundaries")}, "laws": laws_of(run),
    })  # fmt: skip


def picture(run: Run, series: Sequence[str] | None = None) -> str:
    """The strip as HTML: one image without scripts or addresses, and what it shows in words."""
    svg = draw(run, panels_of(run, series), run.branches()[-BRANCHES:], stages_of(run), laws=laws_of(run))
    name, data = html.escape(run.name), base64.b64encode(svg.encode()).decode()
    return (
        f'<figure style="margin:0"><img alt="strip of {name}" style="max-width:100%;background:#fff" '
        f'src="data:image/svg+xml;base64,{data}"><figcaption>{name}, {html.escape(run.status)}, steps {run.start} to '
        f"{run.last}</figcaption></figure>"
    )


def _traces(run: Run, names: Sequence[str], *, lineage: bool = False) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for n in names:
        out |= series_of(run, n, points=POINTS, lo=None, hi=None, log=True, lineage=lineage)
    return out
