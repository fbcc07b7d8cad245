"""The predictions of one study, sealed in one recorded run, and the verdicts on them."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction, Verdict, judge
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.core.system import System
from strobe.runs.loop import train
from strobe.runs.notes import Notes
from strobe.runs.recorder import Recorder

Progress = Callable[[str, int, int], None]


def sized(scale: str, scales: dict[str, Any]) -> Any:
    """What a study does at this scale. Raises `BadOption` for another word."""
    if scale not in scales:
        raise BadOption(f"scale is 'tiny', 'small' or 'full', got {scale!r}")
    return scales[scale]


class Docket:
    """`with Docket(world, out, question, ...) as docket:` seal, measure, judge; then `docket.report(...)`.

    One network of `world` is trained and recorded first, for the strip; the predictions are about what is measured after.
    `options` go to `train`.
    """

    def __init__(
        self, world: System, out: Path, question: str, *, steps: int, seed: int = 0,
        panels: Sequence[dict[str, Any]] = (), setup: Callable[[Recorder], None] | None = None, **options: Any,
    ) -> None:  # fmt: skip
        self.question = question
        self.sealed: dict[str, Prediction] = {}
        self.verdicts: list[Verdict] = []
        shown = list(panels) or [{"title": "training loss", "series": ["loss"], "unit": "loss", "log": True}]

        def start(rec: Recorder) -> None:
            rec.event("page", question=question, panels=shown)
            if setup:
                setup(rec)

        self.path = train(world, out, steps=steps, seed=seed, setup=start, **options)
        self._notes = Notes(self.path)

    def __enter__(self) -> "Docket":
        self._notes.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._notes.__exit__(*error)

    def seal(self, key: str, prediction: Prediction, of: str = "", **changes: Any) -> Prediction:
        """Write a prediction down under `key`, before what it is about is measured; `of` says what, `changes` what else."""
        told: dict[str, Any] = {**({"of": of} if of else {}), **changes}
        said = replace(prediction, **told)
        self.sealed[key] = self._notes.seal(said)
        return self.sealed[key]

    def judge(self, key: str, reading: Reading, *, applies: bool = True, why: str = "", k: float = 2.0) -> Verdict:
        """The verdict on what was sealed under `key`; written down, and returned."""
        found = self._notes.verdict(judge(self.sealed[key], reading, applies=applies, why=why, k=k))
        self.verdicts.append(found)
        return found

    def report(self, tables: dict[str, list[dict[str, Any]]], citations: Sequence[str], **facts: Any) -> Report:
        """What the study hands back. Raises `BadOption` where something was sealed and never judged."""
        judged = {v.predicted.seal for v in self.verdicts}
        if left := [k for k, p in self.sealed.items() if p.seal not in judged]:
            raise BadOption(f"sealed and never judged: {left[0]!r}")
        return Report(self.question, self.verdicts, [self.path], tables, list(citations), facts)
