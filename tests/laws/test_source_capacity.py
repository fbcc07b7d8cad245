"""Exponents of linear models: sums and regressions, and the slow corrections outside the regime."""

from typing import Any

import pytest

from strobe.core.errors import BadOption
from strobe.core.prediction import judge
from strobe.core.reading import Reading
from strobe.laws.source_capacity import OF, source_capacity
from strobe.studies.kernel_scaling import exponents


def test_published_exponents() -> None:
    """Bordelon et al. 2024, section 3: time (a − 1)/b, size a − 1, data min(a − 1, 2b)."""
    at = lambda a, b: [source_capacity(source=a, capacity=b, of=of).value for of in ("time", "size", "data")]  # noqa: E731
    assert at(2.0, 2.0) == [-0.5, -1.0, -1.0]
    assert at(6.0, 1.25) == [-4.0, -5.0, -2.5]


def test_they_hold_and_their_rival_fails() -> None:
    found = exponents(2.0, 1.5, 200, 6, 1500, 0)
    for of in OF:
        assert judge(source_capacity(source=2.0, capacity=1.5, of=of, tol=0.1), found[of]).word != "fails"
    assert judge(source_capacity(source=2.0, capacity=1.5, of="time"), found["time"]).word == "holds"
    assert judge(source_capacity(source=3.0, capacity=1.5, of="data"), found["data"]).word == "fails"
    assert (
        judge(source_capacity(source=2.0, capacity=1.5, of="compute"), Reading(-2 / 3, 0.01)).word == "fails"
    )  # that of time


@pytest.mark.parametrize(
    "knobs",
    [{"source": 1.0}, {"capacity": 0.5}, {"of": "width"}, {"tol": 0.0}, {"source": 4.0, "capacity": 1.5, "of": "data"}],
)
def test_bad_knobs(knobs: dict[str, Any]) -> None:
    with pytest.raises(BadOption):
        source_capacity(**({"source": 2.0, "capacity": 1.5} | knobs))
