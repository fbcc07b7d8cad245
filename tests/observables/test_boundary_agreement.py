from pathlib import Path
from typing import Any

import numpy as np
import pytest

from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.observables.boundary_agreement import boundary_agreement
from strobe.observables.stages import boundaries
from strobe.runs.notes import Notes
from strobe.runs.run import open_run


def found(at: list[float], decades: float = 0.04, sure: float = 1.0) -> Reading:
    x = np.array(at)
    rows = boundaries("by hand", x, np.full(len(x), decades), np.full(len(x), sure))
    return Reading(x, decades * x, "steps", {"boundaries": rows, "low": 1.0, "high": 1e4})


def test_every_pair_of_methods_is_compared_and_the_lonely_are_named() -> None:
    got = boundary_agreement({"a": found([10.0, 100.0, 5000.0]), "b": found([11.0, 95.0]), "c": found([2.0])})
    assert got.how["labels"] == ["a, b", "a, c", "b, c"]
    assert got.value.tolist() == pytest.approx([0.8, 0.0, 0.0])
    assert got.how["pairs"][0]["p"] < 0.05
    assert got.how["lonely"]["a"] == pytest.approx([5000.0])
    assert got.how["lonely"]["b"] == []


def test_err_is_honest_over_seeds() -> None:
    """Sets in which each boundary is found with the probability that it says, where its error puts it."""
    shares, errs = [], []
    for seed in range(16):
        rng = np.random.default_rng(seed)
        there = [10 ** (np.array([1.0, 2.0, 3.0])[rng.random(3) < 0.8]) for _ in range(2)]
        sets = [found((t * 10 ** (0.04 * rng.standard_normal(len(t)))).tolist(), sure=0.8) for t in there]
        got = boundary_agreement(dict(zip("ab", sets, strict=True)), draws=200)
        shares.append(got.value[0])
        errs.append(got.err[0])
    assert np.std(shares) <= 2 * np.mean(errs)


def test_it_reads_the_boundaries_of_a_run(tmp_path: Path, toy: Any) -> None:
    toy().run(tmp_path / "r", 30)
    with Notes(tmp_path / "r") as notes:
        notes.reading("stages", found([1.0]))
        notes.reading("vertices", found([10.0, 20.0]))
        notes.reading("vertices", found([1.1]))  # the last one counts
        notes.reading("llc", Reading(1.0, 0.1))
    got = boundary_agreement(open_run(tmp_path / "r"))
    assert got.how["labels"] == ["stages, vertices"]
    assert got.value.tolist() == [1.0]
    with pytest.raises(BadOption, match="no boundaries called 'turns'; it has stages, vertices"):
        boundary_agreement(open_run(tmp_path / "r"), names=["stages", "turns"])


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(BadOption, match="two sets of boundaries or more, found 1"):
        boundary_agreement({"a": found([1.0])})
    with pytest.raises(BadOption, match="no reading of boundaries"):
        boundary_agreement({"a": found([1.0]), "b": Reading(1.0)})
    with pytest.raises(BadOption, match="share no interval"):
        late = found([2e4])
        boundary_agreement(
            {"a": found([1.0]), "b": Reading(late.value, late.err, "", {**late.how, "low": 1e4, "high": 1e5})}
        )
