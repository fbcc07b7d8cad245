"""Whose run is this? A mark that says: the code this run names was recorded by this user, on this machine.

Looking inside a run, or forking it, calls the entry that its run.json names. On the command line a person types the
name of the run; behind a page or an agent it happens at a click, so there only marked runs are opened.

    mark = HMAC-SHA256(key, id and entry of run.json)       key: 32 random bytes in ~/.local/state/strobe/key (0600)
"""

import contextlib
import hashlib
import hmac
import os
import secrets
from pathlib import Path
from typing import Any

from strobe.core.errors import StrobeError
from strobe.runs.journal import dumps


class Untrusted(StrobeError, PermissionError):
    """The run was not recorded by this user on this machine, and nobody said that its code may run."""


def _key() -> bytes | None:
    """This user's key, made when first needed; None where there is no home to keep it in."""
    home = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "strobe"
    path = home / "key"
    with contextlib.suppress(OSError):
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
        with contextlib.suppress(FileExistsError):
            fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "wb") as f:
                f.write(secrets.token_bytes(32))
        if len(found := path.read_bytes()) == 32:
            return found
    return None


def _mark(facts: dict[str, Any], key: bytes) -> str:
    said = dumps([facts.get("id"), facts.get("entry"), facts.get("loop_path")])
    return hmac.new(key, said, hashlib.sha256).hexdigest()


def trust(path: Path, facts: dict[str, Any]) -> bool:
    """Mark a run as this user's own. False where the key or the mark cannot be written; recording goes on."""
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: no home directory is known
        if key := _key():
            beside = path / ".mark"
            beside.write_text(_mark(facts, key) + "\n")
            os.replace(beside, path / "mark")
            return True
    return False


def trusted(path: Path, facts: dict[str, Any]) -> bool:
    """Does the run carry this user's mark for the very entry it names?"""
    with contextlib.suppress(OSError, RuntimeError, ValueError):
        key, said = _key(), (path / "mark").read_text(encoding="ascii").strip()
        return key is not None and hmac.compare_digest(said, _mark(facts, key))
    return False


def check(path: Path, facts: dict[str, Any]) -> None:
    """Raises `Untrusted`, with what would run and how to allow it."""
    if not trusted(path, facts):
        entry = facts.get("entry") or {}
        what = entry.get("function") or entry.get("script") or "no code that it names"
        raise Untrusted(
            f"{path.name} was not recorded by you on this machine, and this would run the code it names ({str(what)[:120]}); "
            f"if you trust it: strobe trust {path}"
        )
