"""What a study hands back: an answer with verdicts."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from strobe.core.errors import Unsealed
from strobe.core.prediction import Verdict


@dataclass(frozen=True, slots=True)
class Report:
    """The question, the verdicts, the runs they rest on, tables of plain rows, and the citations.

    Raises `Unsealed` when a verdict's prediction carries no seal: what was written after the measurement is
    a description, not a prediction.
    """

    question: str
    verdicts: list[Verdict]
    runs: list[Path] = field(default_factory=list)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    citations: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for v in self.verdicts:
            if not v.predicted.seal:
                raise Unsealed(
                    f"the prediction of {v.predicted.of!r} was not sealed before its measurement: "
                    "call rec.seal(prediction) before the training or measurement it is about"
                )

    def __str__(self) -> str:
        return "\n".join([self.question, *map(str, self.verdicts)])


def columns(rows: list[dict[str, Any]]) -> list[str]:
    """Every column of a table of plain rows, in the order in which they come; a row may lack some.

    >>> columns([{"a": 1, "c": 2}, {"a": 1, "b": 3}])
    ['a', 'c', 'b']
    """
    return list(dict.fromkeys(k for row in rows for k in row))
