"""When to take a snapshot, and which to keep."""

import math
from collections.abc import Callable, Iterable

from strobe.core.errors import BadOption

Schedule = Callable[[int], int]  # next_after(step) -> the next step that is due
NEVER = 1 << 62


def every(n: int) -> Schedule:
    """Steps n, 2n, 3n, ...  Raises `BadOption` unless n >= 1.

    >>> every(10)(25)
    30
    """
    if int(n) < 1:
        raise BadOption(f"every needs a whole number of steps >= 1, got {n}")
    return lambda step: (step // int(n) + 1) * int(n)


def log_spaced(per_decade: int = 8) -> Schedule:
    """Steps round(10^(i / per_decade)) for i = 0, 1, ...: as many in 10..100 as in 1000..10000.

    >>> s = log_spaced(2); [s(0), s(1), s(3), s(10)]
    [1, 3, 10, 32]
    """
    if per_decade < 1:
        raise BadOption(f"log_spaced needs per_decade >= 1, got {per_decade}")

    def after(step: int) -> int:
        i = 0 if step < 1 else math.floor(math.log10(step) * per_decade)
        while round(10 ** (i / per_decade)) <= step:
            i += 1
        return round(10 ** (i / per_decade))

    return after


def at(steps: Iterable[int]) -> Schedule:
    """Exactly these steps.

    >>> at([5, 2])(2)
    5
    """
    due = sorted({int(s) for s in steps})
    if any(s < 0 for s in due):
        raise BadOption(f"a step is a whole number >= 0, got {due[0]}")
    return lambda step: next((s for s in due if s > step), NEVER)


def union(*schedules: Schedule) -> Schedule:
    """Due whenever one of them is."""
    return lambda step: min(s(step) for s in schedules)


def schedule(spec: "int | Iterable[int] | Schedule | str | None") -> Schedule:
    """Read what a user writes: 100 (every 100), [1, 10, 50] (these), "log" (log-spaced), None (never), or a function."""
    if spec is None:
        return lambda step: NEVER
    if spec == "log":
        return log_spaced()
    if isinstance(spec, str):
        raise BadOption(f"a schedule is a number, a list of steps, 'log', a function or None, got {spec!r}")
    if callable(spec):
        return spec
    if isinstance(spec, int):
        return every(spec)
    if not isinstance(spec, Iterable):
        raise BadOption(f"a schedule is a number of steps, a list of steps, 'log', a function or None, got {spec!r}")
    return at(spec)


def keep(stored: Iterable[int], *, most: int, pinned: Iterable[int] = ()) -> set[int]:
    """Which of the stored steps a budget of `most` snapshots keeps: the first, the newest, the pinned, and the rest
    so that the gaps stay as even as can be on a logarithmic axis (the step that closes the smallest gap goes first).

    >>> sorted(keep(range(0, 11), most=5))
    [0, 1, 2, 4, 10]
    """
    steps = sorted(set(stored))
    fixed = {*steps[:1], *steps[-1:], *pinned}
    while len(steps) > max(most, 2):
        free = [i for i in range(1, len(steps) - 1) if steps[i] not in fixed]
        if not free:
            break
        gap = [math.log((steps[i + 1] + 1) / (steps[i - 1] + 1)) for i in free]
        del steps[free[gap.index(min(gap))]]
    return set(steps)
