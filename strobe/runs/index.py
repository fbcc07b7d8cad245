"""A SQLite (WAL) index of the journals: what makes series and events quick to read. Derived; delete it and it is rebuilt.

Ingests each journal from the byte it had reached, so a reader of a live run pays only for what is new.
"""

import json
import sqlite3
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from strobe.runs.directory import journals
from strobe.runs.journal import ARRAY, JSON, SCALARS, Tear, loads, read, unpack_array

VERSION = 2
HELD = 8 << 20  # bytes of a journal held before they are written to the index
_SCHEMA = f"""
PRAGMA user_version = {VERSION};
CREATE TABLE files  (name TEXT PRIMARY KEY, offset INTEGER, layouts TEXT, header TEXT, tensors TEXT);
CREATE TABLE chunks (series TEXT, file TEXT, n INTEGER, hi INTEGER, steps BLOB, vals BLOB, errs BLOB, times BLOB);
CREATE INDEX by_series ON chunks (series, file);
CREATE TABLE events (file TEXT, at INTEGER, type TEXT, step INTEGER, body TEXT);
CREATE INDEX by_type ON events (type);
CREATE TABLE arrays (file TEXT, at INTEGER, kind TEXT, step INTEGER, body BLOB, tensors TEXT);
CREATE TABLE tears  (file TEXT, at INTEGER, lost INTEGER, why TEXT, after_step INTEGER);
"""


class Index:
    """The index of one run directory. On a disk that cannot be written it lives in memory."""

    def __init__(self, run: Path, *, in_memory: bool = False) -> None:
        self.run, self._lock = run, threading.Lock()  # a connection has one transaction and one error code
        self.db = self._in_memory() if in_memory else self._open()

    def _open(self) -> sqlite3.Connection:
        path = self.run / "index.sqlite"
        if path.is_symlink():
            return self._in_memory()  # somebody else's file
        try:
            db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            db.execute("PRAGMA trusted_schema = OFF")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            ours = (
                "type = 'table' OR (type = 'index' AND name LIKE 'by\\_%' ESCAPE '\\') OR name LIKE 'sqlite_autoindex%'"
            )
            if db.execute(f"SELECT 1 FROM sqlite_master WHERE NOT ({ours})").fetchone():
                db.close()  # a view or a trigger: not made here
                return self._anew(path)
            if version == VERSION:
                db.execute("BEGIN IMMEDIATE")
                db.execute("ROLLBACK")
                return db
            if version == 0 and not db.execute("SELECT 1 FROM sqlite_master").fetchone():
                self._create(db)
                return db
            db.close()
            return self._anew(path)
        except sqlite3.OperationalError:  # a read-only disk
            return self._in_memory()
        except sqlite3.DatabaseError:  # damaged: it is derived, so make it anew
            return self._anew(path)

    def _anew(self, path: Path) -> sqlite3.Connection:
        try:
            for p in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
                p.unlink(missing_ok=True)
            db = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            db.execute("PRAGMA journal_mode = WAL")
            self._create(db)
            return db
        except (OSError, sqlite3.Error):
            return self._in_memory()

    def _in_memory(self) -> sqlite3.Connection:
        db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._create(db)
        return db

    @staticmethod
    def _create(db: sqlite3.Connection) -> None:
        try:
            db.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
        except sqlite3.OperationalError:  # another reader was first: its tables serve, our transaction ends
            if db.in_transaction:
                db.execute("ROLLBACK")

    def refresh(self) -> None:
        """Read what is new in every journal. From any thread: one at a time."""
        with self._lock:
            self._refresh()

    def _refresh(self) -> None:
        known = dict(self.db.execute("SELECT name, offset FROM files"))
        fresh = [p for p in journals(self.run) if p.stat().st_size > known.get(p.name, 0)]
        if not fresh:
            return
        self.db.execute("BEGIN IMMEDIATE")
        try:
            for path in fresh:
                self._ingest(path)
            self.db.execute("COMMIT")
        except BaseException:
            self.db.execute("ROLLBACK")
            raise

    def _ingest(self, path: Path) -> None:
        db, name = self.db, path.name
        db.execute("INSERT OR IGNORE INTO files VALUES (?, 0, '{}', '{}', '')", (name,))
        offset, text, header, tensors = db.execute(
            "SELECT offset, layouts, header, tensors FROM files WHERE name = ?", (name,)
        ).fetchone()
        layouts: dict[str, list[str]] = json.loads(text)
        scalars: dict[int, list[bytes]] = defaultdict(list)
        readings: dict[str, list[tuple[int, Any, Any, float]]] = defaultdict(list)
        step, held = 0, 0

        def put() -> None:
            for layout, bodies in scalars.items():
                if str(layout) in layouts:
                    self._add_scalars(name, layouts[str(layout)], bodies)
                else:  # both copies of the definition are damaged
                    lost, why = sum(map(len, bodies)), f"records of layout {layout}, whose names are lost"
                    db.execute("INSERT INTO tears VALUES (?, ?, ?, ?, ?)", (name, offset, lost, why, step))
            for series, rows in readings.items():
                steps, values, errs, times = (np.array(c) for c in zip(*rows, strict=True))
                self._add(series, name, steps, values.astype(float), errs.astype(float), times)
            scalars.clear()
            readings.clear()

        for item in read(path, offset):
            if isinstance(item, Tear):
                if not item.last:
                    offset = max(offset, item.offset + item.lost)
                    db.execute(
                        "INSERT INTO tears VALUES (?, ?, ?, ?, ?)", (name, item.offset, item.lost, item.why, step)
                    )
                continue
            offset, held = item.end, held + len(item.body)
            if held > HELD:
                put()
                held = 0
            if item.kind == SCALARS:
                scalars[int.from_bytes(item.body[:2], "little")].append(item.body)
                step = int.from_bytes(item.body[2:10], "little")
            elif item.kind == ARRAY:
                head, _ = unpack_array(item.body)
                db.execute("INSERT INTO arrays VALUES (?, ?, ?, ?, ?, ?)",
                           (name, offset, head["kind"], head["step"], item.body, tensors))  # fmt: skip
            elif item.kind == JSON:
                record = loads(item.body)
                kind = record.get("kind")
                if kind == "define":
                    layouts[str(record["layout"])] = record["names"]
                elif kind == "header":
                    header = item.body.decode()
                elif kind == "tensors":
                    tensors = json.dumps(record["names"])
                elif kind == "reading" and np.ndim(record["value"]) == 0:
                    readings[record["name"]].append((record["step"], record["value"], record["err"], record["time"]))
                if kind in ("event", "reading"):
                    type_ = record["type"] if kind == "event" else "reading"
                    db.execute(
                        "INSERT INTO events VALUES (?, ?, ?, ?, ?)",
                        (name, offset, type_, record["step"], item.body.decode()),
                    )
        put()
        db.execute("UPDATE files SET offset = ?, layouts = ?, header = ?, tensors = ? WHERE name = ?",
                   (offset, json.dumps(layouts), header, tensors, name))  # fmt: skip

    def _add_scalars(self, file: str, names: list[str], bodies: list[bytes]) -> None:
        form = np.dtype([("layout", "<u2"), ("step", "<u8"), ("time", "<f8"), ("v", "<f8", (len(names),))])
        rows = np.frombuffer(b"".join(bodies), form)
        for i, series in enumerate(names):
            self._add(series, file, rows["step"], rows["v"][:, i], None, rows["time"])

    def _add(self, series: str, file: str, steps: Any, values: Any, errs: Any, times: Any) -> None:
        blobs = (len(steps), int(np.max(steps)),
                 np.ascontiguousarray(steps, "<i8").tobytes(), np.ascontiguousarray(values, "<f8").tobytes(),
                 None if errs is None else np.ascontiguousarray(errs, "<f8").tobytes(),
                 np.ascontiguousarray(times, "<f8").tobytes())  # fmt: skip
        self.db.execute("INSERT INTO chunks VALUES (?, ?, ?, ?, ?, ?, ?, ?)", (series, file, *blobs))

    def close(self) -> None:
        """Give the file back."""
        self.db.close()

    def __del__(self) -> None:
        if "db" in self.__dict__:
            self.close()

    # ---------------------------------------------------------------- reading

    def ask(self, query: str, *values: Any) -> list[Any]:
        """All rows of a query. Whole, and one thread at a time: an open cursor would hold the snapshot `refresh` must leave."""
        with self._lock:
            return self.db.execute(query, values).fetchall()

    def counts(self) -> dict[str, tuple[int, int, bool]]:
        """For each series how many points were written, its last step, and whether `rec.step` wrote it."""
        rows = self.ask("SELECT series, SUM(n), MAX(hi), MAX(errs IS NULL) FROM chunks GROUP BY series")
        return {name: (n, hi, bool(scalar)) for name, n, hi, scalar in rows}

    def since(self, mark: int) -> tuple[int, dict[str, list[np.ndarray]]]:
        """What was ingested after `mark` (0: all), as (new mark, {series: [steps, values, errs]})."""
        new: dict[str, list[list[np.ndarray]]] = defaultdict(list)
        rows = self.ask("SELECT rowid, series, steps, vals, errs FROM chunks WHERE rowid > ?", mark)
        for rowid, series, steps, vals, errs in rows:
            mark, values = max(mark, rowid), np.frombuffer(vals, "<f8")
            new[series].append([
                np.frombuffer(steps, "<i8"), values, np.zeros_like(values) if errs is None else np.frombuffer(errs, "<f8")
            ])  # fmt: skip
        return mark, {k: [np.concatenate(c) for c in zip(*parts, strict=True)] for k, parts in new.items()}

    def mark(self) -> tuple[int, int]:
        """Where `since` and `events_since` stand now."""
        ask = "SELECT (SELECT COALESCE(MAX(rowid), 0) FROM chunks), (SELECT COALESCE(MAX(rowid), 0) FROM events)"
        ((chunks, events),) = self.ask(ask)
        return chunks, events

    def events_since(self, mark: int) -> tuple[int, list[dict[str, Any]]]:
        """Events ingested after `mark`, in the order they came, and the new mark."""
        rows = self.ask("SELECT rowid, file, at, body FROM events WHERE rowid > ? ORDER BY rowid", mark)
        return (rows[-1][0] if rows else mark), [{**loads(body), "file": file, "at": at} for _, file, at, body in rows]

    def cutoffs(self) -> dict[str, float]:
        """For each journal the last step that counts: a writer that resumed at step r supersedes later steps before it."""
        out: dict[str, float] = {}
        cut = float("inf")
        for name, header in self.ask("SELECT name, header FROM files ORDER BY name DESC"):
            out[name] = cut
            resumed = json.loads(header).get("resumed")
            if resumed is not None:
                cut = min(cut, resumed)
        return out

    def names(self) -> list[str]:
        """All series."""
        return [r[0] for r in self.ask("SELECT DISTINCT series FROM chunks ORDER BY series")]

    def scalars(self) -> list[str]:
        """The series that `rec.step` wrote (not the readings)."""
        return [r[0] for r in self.ask("SELECT DISTINCT series FROM chunks WHERE errs IS NULL ORDER BY series")]

    def series(self, name: str, *, superseded: bool = False) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """(steps, values, errs, times), by step; what a resumed writer did again is left out unless asked for."""
        cut, parts = self.cutoffs(), []
        rows = self.ask("SELECT file, steps, vals, errs, times FROM chunks WHERE series = ? ORDER BY file, rowid", name)
        for file, *blobs in rows:
            steps = np.frombuffer(blobs[0], "<i8")
            vals, times = np.frombuffer(blobs[1], "<f8"), np.frombuffer(blobs[3], "<f8")
            errs = np.zeros_like(vals) if blobs[2] is None else np.frombuffer(blobs[2], "<f8")
            keep = slice(None) if superseded else steps <= cut[file]
            parts.append((steps[keep], vals[keep], errs[keep], times[keep]))
        if not parts:
            return (np.zeros(0, np.int64), *(np.zeros(0) for _ in range(3)))  # type: ignore[return-value]
        joined = [np.concatenate(c) for c in zip(*parts, strict=True)]
        order = np.argsort(joined[0], kind="stable")
        return tuple(c[order] for c in joined)  # type: ignore[return-value]

    def tail(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The end of a series: its last chunk that counts, as `series` gives the whole."""
        cut = self.cutoffs()
        rows = self.ask("SELECT file, rowid FROM chunks WHERE series = ? ORDER BY file DESC, rowid DESC", name)
        for file, rowid in rows:
            (blobs,) = self.ask("SELECT steps, vals, errs, times FROM chunks WHERE rowid = ?", rowid)
            steps, vals, times = (np.frombuffer(blobs[i], t) for i, t in ((0, "<i8"), (1, "<f8"), (3, "<f8")))
            keep = steps <= cut[file]
            if keep.any():
                errs = np.zeros_like(vals) if blobs[2] is None else np.frombuffer(blobs[2], "<f8")
                return steps[keep], vals[keep], errs[keep], times[keep]
        return (np.zeros(0, np.int64), *(np.zeros(0) for _ in range(3)))  # type: ignore[return-value]

    def events(self, type: str | None = None, *, superseded: bool = True) -> list[dict[str, Any]]:
        """Events in the order they were written, each with its place (`file`, `at`)."""
        cut = self.cutoffs()
        where, args = ("WHERE type = ?", (type,)) if type else ("WHERE type != 'reading'", ())
        rows = self.ask(f"SELECT file, at, body FROM events {where} ORDER BY file, at", *args)
        found = [{**loads(body), "file": file, "at": at} for file, at, body in rows]
        return [e for e in found if superseded or e["step"] <= cut[e["file"]]]

    def arrays(self, kind: str) -> list[tuple[int, list[np.ndarray], list[str]]]:
        """(step, arrays, tensor names) of array records that count."""
        cut = self.cutoffs()
        rows = self.ask("SELECT file, step, body, tensors FROM arrays WHERE kind = ? ORDER BY file, at", kind)
        return [(s, unpack_array(b)[1], json.loads(t) if t else []) for f, s, b, t in rows if s <= cut[f]]

    def content(self) -> list[Any]:
        """All that a reader is told, to compare with an index made anew."""
        return [
            *((n, *(c.tobytes() for c in self.series(n, superseded=True))) for n in self.names()),
            *self.ask("SELECT file, at, type, step, body FROM events ORDER BY file, at"),
            *self.ask("SELECT file, at, kind, step, body, tensors FROM arrays ORDER BY file, at"),
        ]

    def recorded_before(self, value: Any, when: float) -> str | None:
        """Where this very number stood in the journal before the time `when`, if it has not been measured anew since."""
        if np.ndim(value) or value is None:
            return None
        for name in self.names():
            steps, values, _, times = self.series(name, superseded=True)
            hit = values == float(value)
            if (hit & (times < when)).any() and not (hit & (times >= when)).any():
                return f"{name} at step {steps[hit][0]}"
        return None

    def tears(self) -> list[dict[str, Any]]:
        """Damage met while reading, and the last step read before it."""
        keys = ("file", "offset", "lost", "why", "after_step")
        return [dict(zip(keys, r, strict=True)) for r in self.ask("SELECT * FROM tears ORDER BY file, at")]

    def last_step(self) -> int:
        """The last step any record that counts is about."""
        cut, last = self.cutoffs(), 0
        for file, rowid, hi in self.ask("SELECT file, rowid, hi FROM chunks WHERE errs IS NULL"):
            if hi > cut[file]:  # partly superseded: look inside
                ((blob,),) = self.ask("SELECT steps FROM chunks WHERE rowid = ?", rowid)
                steps = np.frombuffer(blob, "<i8")
                hi = int(steps[steps <= cut[file]].max(initial=0))
            last = max(last, hi)
        for file, step in self.ask("SELECT file, MAX(step) FROM events WHERE type != 'reading' GROUP BY file"):
            last = max(last, int(min(step, cut[file])))
        return last
