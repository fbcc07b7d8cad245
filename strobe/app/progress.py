"""Progress on the terminal: bars where a person watches, plain lines where none does."""

import sys
import time
from typing import Any


class Bars:
    """`step(what, done, total)` draws one bar per `what`; without a terminal, a line every ten seconds."""

    def __init__(self, *, quiet: bool = False, plain: bool = False) -> None:
        self.quiet, self.plain = quiet, plain and quiet
        self._tasks: dict[str, Any] = {}
        self._rich: Any = None
        self._last = time.monotonic()

    def __enter__(self) -> "Bars":
        if not self.quiet:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )

            columns = (TextColumn("{task.description:32s}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                       TextColumn("eta"), TimeRemainingColumn())  # fmt: skip
            self._rich = Progress(*columns, console=Console(stderr=True), refresh_per_second=5)
            self._rich.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._rich:
            self._rich.stop()

    def step(self, what: str, done: int, total: int) -> None:
        """`done` of `total` of `what`."""
        if self._rich:
            if what not in self._tasks:
                self._tasks[what] = self._rich.add_task(what, total=total)
            self._rich.update(self._tasks[what], completed=done, total=total)
        elif self.plain and (what not in self._tasks or done == total or time.monotonic() - self._last > 10):
            self._tasks[what] = True
            self._last = time.monotonic()
            print(f"{what}: {done}/{total}", file=sys.stderr, flush=True)

    def say(self, what: str) -> None:
        """A step without a count."""
        self.step(what, 0, 1)
        self.step(what, 1, 1)
