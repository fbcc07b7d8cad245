"""A concept along a recorded run: when it can be read, when by a line, how its direction drifts; drawn on the strip of the run."""

from collections.abc import Callable

from strobe.core.capture import capture
from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.observables.readability import enough, line_direction, readability
from strobe.runs.run import Run
from strobe.runs.watch import follow
from strobe.studies.concept import Texts, read_examples, read_model

MOST = 60  # stored steps that are read


def concept_trace(
    run: Run, positive: Texts, negative: Texts, *, site: str, step: int | None = None, name: str = "concept", most: int = MOST,
    seed: int = 0, progress: Callable[[int, int], None] | None = None,
) -> dict[int, Reading]:  # fmt: skip
    """`readability` of these texts at a site, at up to `most` stored steps, put on the strip as `name`: three numbers a step.

    `line` and `kernel`: held-out area under the ROC curve by ridge regression and by a kernel; `direction (cosine)`: of that
    moment's line with the one at `step` (by default the last). The texts are kept, as token numbers, in the run's `readings`.
    Args: positive, negative: texts, or files of one example a line.
    Raises `BadOption` for a name that the run has already, for a run that reads no text, and as `readability` does; `RunBusy` while
    it is written.
    """
    name = name.strip()
    taken = {e["name"] for e in run.index.events("reading", superseded=False)} | set(run.index.names())
    if not name or "[" in name or name in taken:
        raise BadOption(f"{name!r} is empty, has a bracket, or is on the strip already: give the trace another name")
    texts, on = read_examples(positive, negative)
    at = run.last if step is None else step
    reader = read_model(run.path, step=at)
    inputs = [reader.ids(t)[: reader.length] for t in texts]
    if empty := [t for t, i in zip(texts, inputs, strict=True) if not i]:
        raise BadOption(f"the tokenizer made no token of {empty[0][:40]!r}")
    labels = [int(b) for b in on]
    acts = capture(reader.model, inputs, [site], positions=reader.positions, forward=reader.forward)
    reference = line_direction(acts[site], enough(labels, len(labels))).tolist()
    stored = run.stored()
    n = min(most, len(stored))
    some = sorted({stored[round(i * (len(stored) - 1) / max(n - 1, 1))] for i in range(n)} | {at})
    return follow(
        run, readability, every=some, note=name, progress=progress, site=site, inputs=inputs, labels=labels,
        positions=reader.positions, reference=reference, seed=seed,
    )  # fmt: skip
