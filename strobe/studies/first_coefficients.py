"""Learning coefficients along the demo's run, of the model and of each head, cheap enough for a strip."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot
from strobe.observables.llc import llc
from strobe.observables.refined_llc import refined_llc
from strobe.runs.beside import Beside, beside
from strobe.runs.run import Run

# of 1,024 tokens, at nβ = 100: at n / ln n for all the text chains would stay where noise of the minibatches puts them
CUT: dict[str, Any] = {"windows": 16, "tokens": 64, "nbeta": 100.0, "batch": 4, "budget": 200}


def text_llc(snap: Snapshot, *, windows: int, tokens: int, **options: Any) -> Reading:
    """λ̂ on the first `tokens` of the first `windows` of the probe."""
    return llc(_cut(snap, windows, tokens), **options)


def head_llcs(
    snap: Snapshot, *, windows: int, tokens: int, heads: Mapping[str, Sequence[str]], **options: Any
) -> Reading:
    """λ̂ of every head alone, (layers, heads), on the same; `heads` as "layer.head": sites of its parameters."""
    got = refined_llc(_cut(snap, windows, tokens), parts=heads, **options)
    layers = len({label.partition(".")[0] for label in heads})
    return replace(got, value=got.value.reshape(layers, -1), err=got.err.reshape(layers, -1))


def _cut(snap: Snapshot, windows: int, tokens: int) -> Snapshot:
    return replace(snap, data=snap.data[:windows, : tokens + 1])


class Coefficients:
    """Both, measured beside what else the demo does after training. Use it in a `with` block."""

    def __init__(self, run: Run, heads: dict[str, list[str]], *, model_steps: int, head_steps: int) -> None:
        self.parts: list[tuple[str, Beside]] = []
        self.parts.append(("llc", beside(run, text_llc, every=_few(run, model_steps), chains=4, **CUT)))
        self.parts.append(
            ("llc_heads", beside(run, head_llcs, every=_few(run, head_steps), heads=heads, chains=2, **CUT))
        )

    def __enter__(self) -> "Coefficients":
        return self

    def note(self, tell: Callable[[str, int, int], None]) -> None:
        """Put them on the strip when they are there."""
        for i, (name, part) in enumerate(self.parts):
            tell("learning coefficients", i, len(self.parts))
            part.result(note=name)
        tell("learning coefficients", len(self.parts), len(self.parts))

    def __exit__(self, *_: object) -> None:
        for _name, part in self.parts:
            with suppress(OSError, ValueError):
                part.stop()


def panels() -> list[dict[str, Any]]:
    """How the strip shows them."""
    unit = f"λ̂ at nβ = {CUT['nbeta']:.0f}"
    return [
        {"title": "local learning coefficient", "series": ["llc"], "unit": unit, "labels": {"llc": "all parameters"}},
        {"title": "refined learning coefficient of heads, by layer.head", "series": ["llc_heads"], "unit": unit,
         "labels": {"llc_heads": "head"}},
    ]  # fmt: skip


def _few(run: Run, count: int) -> list[int]:
    """So many of the stored steps, from one to the next about as many as between any two."""
    steps = [s for s in run.stored() if s > 0]
    first = len(steps) // 3  # before that hardly anything has been learnt
    return [steps[round(i)] for i in _spread(first, len(steps) - 1, count)]


def _spread(low: int, high: int, count: int) -> list[float]:
    return [low + (high - low) * i / max(count - 1, 1) for i in range(count)]
