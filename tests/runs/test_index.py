import sqlite3
import threading
import tracemalloc
from pathlib import Path

import pytest
import torch

import strobe
from strobe.runs.directory import journals
from strobe.runs.index import Index


def test_a_long_journal_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with strobe.record(tmp_path / "run", model=torch.nn.Linear(2, 1), snapshots=None) as rec:
        for t in range(8000):
            rec.step(**{f"s{i}": float(t * i) for i in range(20)})
    size = sum(p.stat().st_size for p in journals(tmp_path / "run"))
    whole = Index(tmp_path / "run", in_memory=True)
    whole.refresh()
    monkeypatch.setattr("strobe.runs.journal.WINDOW", 20_000)
    monkeypatch.setattr("strobe.runs.index.HELD", 20_000)
    pieces = Index(tmp_path / "run", in_memory=True)
    tracemalloc.start()
    try:
        pieces.refresh()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 1_000_000
    assert peak < size / 4
    assert pieces.content() == whole.content()


def test_a_reader_that_finds_the_tables_made_leaves_no_transaction_open(tmp_path: Path) -> None:
    """Two readers come at once to a run without an index; the second waits for the lock and then finds the tables there."""
    first, second = (sqlite3.connect(tmp_path / "index.sqlite", isolation_level=None) for _ in range(2))
    Index._create(first)
    Index._create(second)
    assert not second.in_transaction
    second.execute("BEGIN IMMEDIATE")
    second.execute("ROLLBACK")


def test_threads_read_while_two_indexes_of_a_growing_run_ingest(tmp_path: Path) -> None:
    """A connection's error code and snapshot belong to whoever asks; interleaved, a refresh was told of another's error."""
    with strobe.record(tmp_path / "run", model=torch.nn.Linear(2, 1), snapshots=None) as rec:
        rec.step(loss=0.0)
        indexes, wrong, done = [Index(tmp_path / "run"), Index(tmp_path / "run")], list[Exception](), threading.Event()

        def look(index: Index) -> None:
            while not done.is_set():
                try:
                    index.refresh()
                    steps, *_ = index.series("loss")
                    assert len(index.since(0)[1].get("loss", [[]])[0]) >= len(steps)
                except Exception as e:  # told below, with its text
                    wrong.append(e)

        threads = [threading.Thread(target=look, args=(i,)) for i in indexes for _ in range(3)]
        for thread in threads:
            thread.start()
        for t in range(4000):
            rec.step(loss=float(t))
        done.set()
        for thread in threads:
            thread.join()
    assert not wrong, wrong[:3]
