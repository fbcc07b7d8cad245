"""Measure a recorded run in a process beside this one, while this one goes on."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Any

from strobe.core.catalogue import load, path_of
from strobe.core.errors import BadOption, StrobeError
from strobe.core.reading import Reading
from strobe.runs.run import Run, open_run
from strobe.runs.watch import follow


@dataclass
class Beside:
    """A measurement under way elsewhere; `result` waits for it."""

    run: Run
    observable: Callable[..., Reading]
    every: list[int]
    options: dict[str, Any]
    process: "subprocess.Popen[bytes]"
    said: IO[bytes]

    def result(self, *, note: str = "", progress: Callable[[int, int], None] | None = None) -> dict[int, Reading]:
        """What `follow` gives, from the readings that the other process has kept; what it has not is measured here."""
        if self.process.wait() != 0:
            self.said.seek(0)
            last = self.said.read().decode(errors="replace").strip().splitlines()[-1:]
            print(f"measuring {path_of(self.observable)} beside failed ({' '.join(last)}); here again", file=sys.stderr)
        self.said.close()
        return follow(self.run, self.observable, every=self.every, note=note, progress=progress, **self.options)

    def stop(self) -> None:
        """End it; what it has kept stays."""
        self.process.kill()
        self.process.wait()
        self.said.close()


def beside(run: Run, observable: Callable[..., Reading], /, *, every: Sequence[int], **options: Any) -> Beside:
    """Start `follow(run, observable, every=every, **options)` in another process, on another core, and return at once.

    Args: `observable` a function of a module (the other process imports it); `every` steps; `options` plain data (JSON).
    Raises `BadOption` for others.
    """
    path = path_of(observable)
    try:
        text = json.dumps({"run": str(run.path.resolve()), "path": path, "every": list(every), "options": options})
        if json.loads(text)["options"] != options or load(path) is not observable:
            raise TypeError("it would not arrive as it is")
    except (TypeError, ValueError, AttributeError, ImportError, StrobeError) as e:
        raise BadOption(f"{path} cannot be measured in another process ({e}); use follow") from e
    said = tempfile.TemporaryFile()  # noqa: SIM115 - the other process writes it, `result` closes it
    code = "import sys; from strobe.runs.beside import main; main(sys.argv[1])"
    process = subprocess.Popen([sys.executable, "-c", code, text], stdin=subprocess.DEVNULL, stdout=said, stderr=said)
    return Beside(run, observable, list(every), options, process, said)


def main(text: str) -> None:
    """The other process."""
    import torch

    given = json.loads(text)
    torch.set_num_threads(1)
    follow(open_run(given["run"]), load(given["path"]), every=given["every"], **given["options"])
