import pytest

from strobe.core.errors import BadOption
from strobe.runs.schedule import NEVER, at, every, keep, log_spaced, schedule, union


def walk(s, last):  # type: ignore[no-untyped-def]
    out, n = [], s(0)
    while n <= last:
        out.append(n)
        n = s(n)
    return out


def test_log_spacing_has_equal_counts_per_decade() -> None:
    steps = walk(log_spaced(8), 10**5)
    assert len([s for s in steps if 100 < s <= 1000]) == len([s for s in steps if 10**4 < s <= 10**5]) == 8


def test_every_and_at_and_union() -> None:
    assert walk(every(30), 100) == [30, 60, 90]
    assert walk(at([5, 50, 1]), 100) == [1, 5, 50]
    assert walk(union(every(40), at([41])), 90) == [40, 41, 80]
    assert schedule(None)(5) == NEVER


@pytest.mark.parametrize("bad", [0, -3, "linear", [-1], 1.5])
def test_nonsense_is_refused(bad: object) -> None:
    with pytest.raises(BadOption):
        schedule(bad)  # type: ignore[arg-type]


def test_retention_keeps_first_newest_and_pinned_and_stays_log_even() -> None:
    left = keep(range(1001), most=20, pinned=[777])
    assert len(left) == 20
    assert {0, 777, 1000} <= left
    assert len([s for s in left if s < 100]) >= 8
