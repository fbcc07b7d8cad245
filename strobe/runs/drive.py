"""How a replay or a fork takes over the recorder that the user's own loop opens.

The loop is run again as it is; inside it, `strobe.record(...)` asks `current()` and finds a `Drive`, which says where
to start, where to stop, and what to do with what is recorded.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from strobe.runs.recorder import Recorder
    from strobe.runs.witness import Witness


class ReachedStep(BaseException):
    """The driven loop arrived where it was to stop. Not an `Exception`: a user's `except Exception` must not eat it."""


class StopTraining(BaseException):
    """A stop command: leaves the user's loop, and ends at the recorder's `with` block."""


@dataclass
class Drive:
    """One take-over: of the run at `path` (as the loop names it; `beside` where it was moved), from `start`, to `stop`."""

    mode: Literal["replay", "fork"]
    path: Path
    start: int
    stop: int | None
    state: dict[str, Any]
    script: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    edits: list[dict[str, Any]] = field(default_factory=list)
    functions: dict[int, Any] = field(default_factory=dict)
    out: Path | None = None
    parent: dict[str, Any] | None = None
    witness: "Witness | None" = None
    recorder: "Recorder | None" = None
    progress: Callable[[int], None] | None = None
    beside: Path | None = None
    author: str = "fork"


_CURRENT: ContextVar[Drive | None] = ContextVar("strobe_drive", default=None)


def current() -> Drive | None:
    """The drive that the next recorder is to obey, if any."""
    return _CURRENT.get()


@contextmanager
def driving(drive: Drive) -> Iterator[Drive]:
    """Every recorder opened inside the block obeys `drive`."""
    token = _CURRENT.set(drive)
    try:
        yield drive
    finally:
        _CURRENT.reset(token)
