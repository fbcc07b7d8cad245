"""The run directory: who may write it, what it says of itself. No torch except to describe the surroundings.

mark           says that this user recorded it here, so that a page may run its code      (trust.py)
run.json       what ran: entry, objects, surroundings, source hashes, parent and edits of a branch; with its checksum
source/        the code that ran
journal/       one framed file per writer process                     (journal.py)
steps/<n>/     snapshots                                               (snapshots.py)
control/       commands to the live loop                               (control.py)
readings/      numbers measured later; deletable                       (watch.py)
index.sqlite   derived from the journal; deletable                     (index.py)
writer.lock    holds a kernel lock while a writer lives; the file itself says nothing
"""

import contextlib
import errno
import inspect
import os
import socket
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from strobe.core.errors import BadOption, Damaged, NotARun, RunBusy, RunExists, RunNotFound, StrobeError
from strobe.runs.journal import JSON, Frame, Journal, loads, read
from strobe.runs.snapshots import FORMAT, loads_manifest, sync_dir, write_manifest
from strobe.runs.trust import trust

try:
    import fcntl
except ImportError:  # no kernel locks: two writers are then not noticed
    fcntl = None  # type: ignore[assignment]


class StrobeWarning(UserWarning):
    """Something of Strobe's failed; the training did not."""


class Lock:
    """The writer's claim on a run: a kernel lock that dies with the process, however it dies."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def release(self) -> None:
        """Give the claim back."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def exists(path: Path) -> bool:
    """Is there a run at `path`?"""
    return (path / "run.json").exists()


def describe(path: Path) -> dict[str, Any]:
    """The content of run.json. Raises `RunNotFound`, `NotARun` or `Damaged`."""
    if not path.is_dir():
        near = [p.name for p in path.parent.iterdir() if exists(p)][:6] if path.parent.is_dir() else []
        hint = f"; runs beside it: {', '.join(sorted(near))}" if near else ""
        raise RunNotFound(f"there is no run at {path}{hint}")
    if not exists(path):
        inside = [p.name for p in path.iterdir() if exists(p)][:6]
        hint = f"; runs inside it: {', '.join(sorted(inside))}" if inside else ""
        raise NotARun(f"{path} is a directory, but not a run: it has no run.json{hint}")
    try:
        return loads_manifest(path / "run.json")
    except ValueError as e:
        if kept := kept_facts(path):
            return kept
        raise Damaged(f"{path / 'run.json'} is damaged ({e}); the journal and the snapshots are not affected") from e
    except OSError as e:
        raise StrobeError(f"{path / 'run.json'} cannot be read: {e.strerror}") from e


def kept_facts(path: Path) -> dict[str, Any] | None:
    """The content of run.json as the first journal keeps it, for when the file itself is damaged."""
    for journal in journals(path):
        for item in read(journal):
            if isinstance(item, Frame) and item.kind == JSON:
                record = loads(item.body)
                if record.get("kind") == "facts":
                    return record["facts"]
    return None


def claim(path: Path, *, resume: bool) -> Lock:
    """Become the only writer of `path`. Raises `RunExists`, `RunBusy`, `NotARun` or `StrobeError` (a read-only disk)."""
    if path.exists() and not path.is_dir():
        raise NotARun(f"{path} is a file; a run is a directory")
    if exists(path) and not resume:
        if live(path):
            raise RunBusy(_busy(path))
        raise RunExists(
            f"{path} already holds a run; pass resume=True to continue it, fork it, or record under another name"
        )
    if path.is_dir() and not exists(path) and any(p.name not in _OURS for p in path.iterdir()):
        raise NotARun(f"{path} is a directory with other files in it; record into a new or empty one")
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
        fd = os.open(path / "writer.lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError as e:
        raise StrobeError(f"cannot record into {path}: {e.strerror}; choose a directory that can be written") from e
    if fcntl is not None:
        for tries_left in range(10, -1, -1):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as e:
                if e.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    break  # a file system without locks
                if not tries_left:
                    os.close(fd)
                    raise RunBusy(_busy(path)) from e
                time.sleep(0.02)  # a reader that asks whether the run is live holds it for a moment
    if exists(path) and not resume:  # another writer came and went between the first look and the lock
        os.close(fd)
        raise RunExists(f"{path} already holds a run; pass resume=True to continue it, or record under another name")
    with contextlib.suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()} {socket.gethostname()}\n".encode(), 0)
    return Lock(fd)


def forsake(path: Path) -> None:
    """Take back a claim that came to nothing: remove the directory if it holds no run and nothing else."""
    if not exists(path):
        with contextlib.suppress(OSError):
            (path / "writer.lock").unlink(missing_ok=True)
            path.rmdir()


_OURS = {"writer.lock", "mark", "journal", "steps", "source", "control", "readings", "run.json", "index.sqlite"}


def live(path: Path) -> bool:
    """Is a process writing this run now?"""
    if fcntl is None:
        return False
    try:
        fd = os.open(path / "writer.lock", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(fd)


def _busy(path: Path) -> str:
    try:
        pid, host = (path / "writer.lock").read_text().split()
        who = f"process {pid} on {host}"
    except (OSError, ValueError):
        who = "another process"
    return f"{path} is being written by {who}; stop that one first (strobe stop {path}), or record under another name"


def create(
    path: Path, *, entry: Any, objects: dict[str, Any], start: int, parent: dict[str, Any] | None,
    edits: list[dict[str, Any]], about: dict[str, Any], loop_path: str, inherited: dict[int, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Write run.json, keep the source, return what was written. `about` and `entry` are plain data (`record` sees to it)."""
    from strobe.runs.provenance import keep_source, surroundings

    entry = entry if isinstance(entry, dict) else _entry(entry)
    script = [Path(entry["script"])] if entry and "script" in entry else []
    body = {
        "format": FORMAT,
        "id": uuid.uuid4().hex,
        "created": time.time(),
        "loop_path": loop_path,
        "entry": entry,
        "objects": {k: f"{type(v).__module__}.{type(v).__qualname__}" for k, v in objects.items()},
        "start": start,
        "parent": parent,
        "edits": edits,
        "script": {str(s): e for s, e in (inherited or {}).items()},
        "about": about,
        "surroundings": surroundings(),
        "source": keep_source(path / "source", script),
    }
    write_manifest(path / ".run.json", body)
    os.replace(path / ".run.json", path / "run.json")
    trust(path, body)
    sync_dir(path)
    return body


def _entry(given: "tuple[Callable[..., Any], dict[str, Any]] | None") -> dict[str, Any] | None:
    """How to run this loop again: the function that was named, or the script that is running."""
    from strobe.core.catalogue import path_of

    if given is not None:
        function, kwargs = given
        if "<locals>" in function.__qualname__ or function.__module__ == "__main__":
            raise BadOption(f"entry must be a function that can be imported by name, {function.__qualname__} cannot")
        home = Path(inspect.getfile(function)).resolve()
        root = home.parents[function.__module__.count(".") + (home.name == "__init__.py")]
        return {"function": path_of(function), "kwargs": kwargs, "cwd": str(Path.cwd()), "root": str(root)}
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    if file and file.endswith(".py") and "site-packages" not in file and not hasattr(sys, "ps1"):
        return {"script": str(Path(file).resolve()), "argv": sys.argv[1:], "cwd": str(Path.cwd())}
    return None


def new_journal(path: Path, *, resumed: int | None, facts: dict[str, Any] | None = None) -> Journal:
    """A new journal file with its header and, in a run's first, the facts of run.json; the number orders the writers."""
    import strobe

    folder = path / "journal"
    folder.mkdir(exist_ok=True)
    number = max([int(p.stem) for p in folder.glob("*.journal") if p.stem.isdigit()], default=0) + 1
    journal = Journal(folder / f"{number:06d}.journal")
    journal.json({
        "kind": "header", "format": FORMAT, "strobe": strobe.__version__, "pid": os.getpid(),
        "host": socket.gethostname(), "time": time.time(), "resumed": resumed,
    })  # fmt: skip
    if facts:
        journal.json({"kind": "facts", "facts": facts})
    return journal


def journals(path: Path) -> list[Path]:
    """The journal files in the order of their writers."""
    return sorted((path / "journal").glob("*.journal"))


def free_name(path: Path) -> Path:
    """A name beside `path` that is not taken: NAME-b1, NAME-b2, ..."""
    stem = path.name
    return next(p for i in range(1, 10**6) if not (p := path.with_name(f"{stem}-b{i}")).exists())


def same(a: Path, b: Path) -> bool:
    """Do two paths name one place?"""
    return a.expanduser().resolve() == b.expanduser().resolve()
