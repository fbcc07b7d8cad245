"""The runs below a folder as rows and numbers for the pages: ids instead of paths, and only what is new.

Reads run directories and nothing else; no torch.
"""

import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np

from strobe.app.traces import kept, names_of
from strobe.core.errors import Damaged, NameNotFound, RunNotFound
from strobe.runs import directory
from strobe.runs.run import Run

OPEN = 48  # indexes kept open: each holds three file descriptors
LONG = 20_000  # characters of one text that a page is sent
AGE = 0.5  # seconds that listeners share one look at the folder
WORDS = ("holds", "fails", "undecided", "outside")


class Feed:
    """The runs below `root`, by id. Every method may be called from any thread; one lock orders them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = threading.RLock()
        self._places: dict[str, Path] = {}
        self._damaged: dict[str, dict[str, Any]] = {}
        self._runs: OrderedDict[str, Run] = OrderedDict()
        self._rows: dict[str, tuple[Any, dict[str, Any]]] = {}
        self._known: dict[Path, tuple[Any, str]] = {}
        self._listed: tuple[float, list[dict[str, Any]]] | None = None

    def run(self, id: str) -> Run:
        """The run with this id. Raises `RunNotFound`."""
        with self.lock:
            if id not in self._places:
                self.scan()
            if id not in self._places:
                raise RunNotFound("there is no run with this id; it may have been moved or deleted: look at the list")
            if id not in self._runs:
                self._runs[id] = Run(self._places[id], keep_index=False)
            self._runs.move_to_end(id)
            while len(self._runs) > OPEN:
                self._runs.popitem(last=False)  # whoever still reads it has it; the last one closes its index
            return self._runs[id]

    def scan(self) -> None:
        """Look which runs there are: one stat each, and run.json where it is new."""
        with self.lock:
            places = [self.root] if directory.exists(self.root) else self._below()
            known, self._places, self._damaged = self._known, {}, {}
            self._known = {}
            for place in places:
                try:
                    stamp = (place / "run.json").stat()
                    mark = (stamp.st_mtime_ns, stamp.st_ino, stamp.st_size)
                    id = known[place][1] if known.get(place, (None,))[0] == mark else directory.describe(place)["id"]
                    if not isinstance(id, str) or len(id) != 32:
                        raise Damaged("its run.json has no id")
                    if id in self._places:
                        raise Damaged(
                            f"a copy of {self._places[id].name} (the same id): commands would reach the other; move one away"
                        )
                    self._known[place] = (mark, id)
                    self._places[id] = place
                except Exception as e:  # whatever a stranger's run.json holds: the others are shown
                    self._damaged[str(place)] = _damaged(self.name(place), str(e))

    def _below(self) -> list[Path]:
        """The runs in the folder, and in the folders in it (a study keeps its runs together)."""
        found = []
        for place in _folders(self.root):
            found += [place] if directory.exists(place) else [p for p in _folders(place) if directory.exists(p)]
        return found

    def name(self, place: Path) -> str:
        """What a run is called in the list: its folder, and the study's where it lies in one."""
        return place.name if place.parent == self.root or place == self.root else f"{place.parent.name}/{place.name}"

    def rows(self, *, fresh: bool = True) -> list[dict[str, Any]]:
        """One row a run, newest first; a run whose journals did not grow costs a few stats. `fresh=False`: at most `AGE` old."""
        with self.lock:
            if not fresh and self._listed and time.monotonic() - self._listed[0] < AGE:
                return self._listed[1]
            self.scan()
            found = [self.row(id) for id in self._places]
            rows = sorted([*found, *self._damaged.values()], key=lambda r: (-r["created"], r["name"]))
            self._listed = (time.monotonic(), rows)
            return rows

    def row(self, id: str) -> dict[str, Any]:
        """What the list shows of a run."""
        with self.lock:
            place = self._places[id]
            mark = self._mark(place)
            if id in self._rows and self._rows[id][0] == mark:
                return self._rows[id][1]
            try:
                row = {**_row(self.run(id)), "name": self.name(place)}
            except Exception as e:  # as above, for its journals
                row = _damaged(self.name(place), str(e), id)
            self._rows[id] = (mark, row)
            return row

    def _mark(self, place: Path) -> Any:
        sizes = tuple((p.name, p.stat().st_size) for p in directory.journals(place))
        steps = place / "steps"
        return sizes, directory.live(place), steps.stat().st_mtime_ns if steps.is_dir() else 0


def _folders(place: Path) -> list[Path]:
    try:
        return [p for p in sorted(place.iterdir()) if p.is_dir() and not p.is_symlink()]
    except OSError:
        return []


def _row(run: Run) -> dict[str, Any]:
    index = run.index
    counts = index.counts()
    name = "loss" if "loss" in counts else next((k for k, (_, _, scalar) in counts.items() if scalar), None)
    loss = None
    if name is not None:
        steps, values, _, _ = index.tail(name)
        if len(steps):
            loss = {"name": name, "step": int(steps[-1]), "value": plain(values[-1])}
    words = [e["word"] for e in index.events("verdict")]
    parent = run.facts["parent"]
    return {
        "id": run.facts["id"], "name": run.name, "created": float(run.facts["created"]), "status": run.status, "live": run.live,
        "start": run.start, "last": max(index.last_step(), *run.stored()[-1:], run.start),
        "parent": parent and {"id": parent["id"], "name": Path(parent["run"]).name, "step": parent["step"]},
        "about": plain(run.facts["about"]), "edits": [edit_text(e) for e in run.facts["edits"]],
        "snapshots": len(run.stored()), "loss": loss, "damaged": None,
        "verdicts": {"sealed": len(index.events("prediction")), **{w: words.count(w) for w in WORDS}},
    }  # fmt: skip


def _damaged(name: str, why: str, id: str = "") -> dict[str, Any]:
    return {
        "id": id, "name": name, "created": 0.0, "status": "interrupted", "live": False, "start": 0, "last": 0,
        "parent": None, "about": {}, "edits": [], "snapshots": 0, "loss": None, "damaged": why,
        "verdicts": dict.fromkeys(("sealed", *WORDS), 0),
    }  # fmt: skip


def edit_text(edit: dict[str, Any]) -> str:
    """An edit as one writes it."""
    if edit["act"] == "set":
        return f"{edit['name']}={edit['value']:g}"
    name = edit.get("edit", "a function given by hand").rpartition(":")[2]
    if edit.get("label"):
        return f"{edit['label']} ({name})"
    kwargs = ", ".join(f"{k}={_short(v)}" for k, v in edit.get("kwargs", {}).items())
    if edit["act"] == "examples":
        weights = edit["weights"]
        return f"{len(weights)} examples re-weighted" if any(weights.values()) else f"{len(weights)} examples dropped"
    return f"{name}{f'({kwargs})' if kwargs else ''}" + (f"={edit['site']}" if "site" in edit else "")


def _short(value: Any) -> str:
    return f"[{len(value)} numbers]" if isinstance(value, list) and len(value) > 4 else str(value)


def plain(x: Any) -> Any:
    """JSON that every parser reads: NaN and infinities become null, numpy values numbers and lists."""
    if isinstance(x, dict):
        return {str(k): plain(v) for k, v in x.items()}
    if isinstance(x, list | tuple):
        return [plain(v) for v in x]
    if isinstance(x, np.ndarray):
        return plain(x.tolist())
    if isinstance(x, np.generic):
        x = x.item()
    if isinstance(x, float):
        return x if np.isfinite(x) else None
    if isinstance(x, str) and len(x) > LONG:
        return f"{x[:LONG]} … and {len(x) - LONG} characters more"
    return x if isinstance(x, str | int | bool) or x is None else str(x)


def thinned(steps: np.ndarray, values: np.ndarray, errs: np.ndarray, most: int, log: bool) -> dict[str, Any]:
    """A trace as the pages get it, thinned by `kept`; where it was not finite is said apart."""
    keep, n = kept(steps, values, most, log=log), len(steps)
    return {
        "steps": steps[keep].tolist(), "values": plain(values[keep].tolist()), "n": n, "thinned": n > most,
        "errs": plain(errs[keep].tolist()) if errs.any() else None, "bad": steps[~np.isfinite(values)][:1000].tolist(),
    }  # fmt: skip


def series_of(
    run: Run, name: str, *, points: int, lo: int | None, hi: int | None, log: bool, lineage: bool
) -> dict[str, dict[str, Any]]:
    """A trace, thinned; one for each element of an array reading. Empty where the run has none of that name."""
    bare, _, inside = name.partition("[")
    counts = run.index.counts()
    if name in counts or (lineage and run.facts["parent"] and not inside):
        try:
            s = run.series(name, lineage=lineage)
            return {name: _cut(s.steps, s.values, s.errs, points, lo, hi, log)}
        except (NameNotFound, RunNotFound):
            pass
    rows = [e for e in run.index.events("reading", superseded=False) if e["name"] == bare and np.ndim(e["value"])]
    if not rows:
        return {}
    last = rows[-1]
    path = last["how"].get("steps")
    if path is not None and len(path) == len(last["value"]):  # one reading of a whole path
        errs = np.broadcast_to(np.asarray(last["err"], float), np.shape(last["value"]))
        rows = [{"step": t, "value": v, "err": e} for t, v, e in zip(path, last["value"], errs, strict=True)]
    rows = [r for r in rows if np.shape(r["value"]) == np.shape(rows[-1]["value"])]
    order = np.argsort([r["step"] for r in rows], kind="stable")
    steps = np.array([rows[i]["step"] for i in order])
    values = np.array([np.ravel(rows[i]["value"]) for i in order], float)
    errs = np.array(
        [np.ravel(np.broadcast_to(np.asarray(rows[i]["err"], float), np.shape(rows[i]["value"]))) for i in order]
    )
    out = {}
    for i, label in enumerate(names_of(last["how"], np.shape(rows[-1]["value"]))):
        key = f"{bare}[{i}]"
        if inside and key != name:
            continue
        out[key] = {**_cut(steps, values[:, i], errs[:, i], points, lo, hi, log), "label": label}
    return out


def _cut(
    steps: np.ndarray, values: np.ndarray, errs: np.ndarray, points: int, lo: int | None, hi: int | None, log: bool
) -> dict[str, Any]:
    keep = slice(None)
    if lo is not None or hi is not None:
        a = 0 if lo is None else max(int(np.searchsorted(steps, lo)) - 1, 0)
        b = len(steps) if hi is None else min(int(np.searchsorted(steps, hi, side="right")) + 1, len(steps))
        keep = slice(a, b)
    return thinned(steps[keep], values[keep], errs[keep], points, log)


class Deltas:
    """What one listener has seen of one run; `news` gives the rest."""

    def __init__(self, run: Run, at: tuple[int, int] | None = None) -> None:
        index = run.index
        self.points, self.events = at if at is not None else index.mark()
        self.journals = len(directory.journals(run.path))

    def news(self, run: Run) -> tuple[dict[str, Any], list[dict[str, Any]], bool]:
        """({series: {steps, values, errs}}, events, whether another process wrote on: then all is to be read anew)."""
        index = run.index
        self.points, new = index.since(self.points)
        self.events, events = index.events_since(self.events)
        count = len(directory.journals(run.path))
        again, self.journals = count != self.journals, count
        series = {k: {"steps": s.tolist(), "values": plain(v.tolist()), "errs": plain(e.tolist()) if e.any() else None}
                  for k, (s, v, e) in new.items()}  # fmt: skip
        return series, [plain(e) for e in events if "type" in e], again  # a reading has none
