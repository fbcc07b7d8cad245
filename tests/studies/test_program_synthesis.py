"""The study of programs: choices against a brute force over sets, all sealed before sampling, few gradients refused."""

from collections.abc import Callable
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from strobe.core.errors import BadOption
from strobe.core.report import Report
from strobe.core.snapshot import Snapshot
from strobe.laws.newton_rlct import newton_rlct
from strobe.runs.run import open_run
from strobe.studies import program_synthesis as file
from strobe.studies.program_synthesis import certainty, choices, program_synthesis
from strobe.systems.turing import execute, turing


def test_all_is_sealed_at_step_0_and_few_gradients_tell_nothing(tiny: Callable[[Any], Report]) -> None:
    report = tiny(program_synthesis)
    run = open_run(report.runs[0])
    assert all(e["step"] == 0 for e in run.events("prediction"))
    words = {v.predicted.of: v.word for v in report.verdicts}
    assert len(words) == len(run.events("prediction")) == 4
    assert {w for of, w in words.items() if of.startswith("loss at")} == {"holds"}
    assert {w for of, w in words.items() if not of.startswith("loss at")} == {"outside"}
    assert len(run.series("right")) > 5
    assert len(run.series("llc")) == 1
    row = report.tables["programs"][0]
    assert abs(row["λ̂ at 1e+07"] - row["λ"]) < 1.5


def test_choices_that_err_alone_are_those_of_real_machines_with_one_entry_changed() -> None:
    """A wrong choice of the table, all else as it is, ends wrong on some string, if it does without unused entries' help."""
    world = turing(program="read on", length=3)
    facts, table = (
        world.facts,
        world.facts["programs"]["read on"],
    )  # it uses every entry, so each changed table is whole
    names, rows = choices(world, "read on", order=2)
    alone = {names[i] for row in rows if sum(row) == 1 for i in np.flatnonzero(row)}
    wrong = set()
    for name in names:
        key, what = name.split(": ")
        state, symbol = key.split(" at ")
        f, value = what.split(" ")
        entry = list(table[state, symbol])
        entry[("write", "turn", "move").index(f)] = value
        # a choice of probability p may be made at some steps only: which of them, over all masks of the steps
        if _ends_wrong(facts, table, (state, symbol), tuple(entry)):
            wrong.add(name)
    assert alone == wrong


def _ends_wrong(facts: dict, table: dict, key: tuple[str, str], entry: tuple[str, ...]) -> bool:  # type: ignore[type-arg]
    from strobe.systems.turing import BLANK, MOVES

    for string, right in zip(facts["strings"], facts["right"], strict=True):
        for mask in range(2 ** facts["steps"]):
            tape, at, state = dict(enumerate(string)), 0, "reject"
            for t in range(facts["steps"]):
                here = state, tape.get(at, BLANK)
                tape[at], state, move = entry if here == key and mask >> t & 1 else table[here]
                at += MOVES.index(move) - 1
            if state != right:
                return True
    return False


def test_the_algebra_of_detect_a() -> None:
    for program, value in (("halt", 23 / 3), ("read on", 5.0)):
        _, rows = choices(turing(program=program), program)
        assert newton_rlct(exponents=[[2 * a for a in row] for row in rows]).value == pytest.approx(value)
        assert newton_rlct(exponents=rows).value == pytest.approx(2 * value)  # the logarithmic loss
        assert sorted(map(max, rows))[-1] == (3 if program == "halt" else 1)  # to stay three times at a B is an error
        assert not any(np.all(np.array(a) <= b) for a, b in combinations(rows, 2))


def test_the_slope_of_a_coefficient_that_does_not_move_is_itself() -> None:
    n = np.array([1e3, 1e4, 1e5])
    got = file._slope({"nbeta": n, "llc": np.full(3, 2.5), "err": np.array([0.1, 0.1, 0.1])})
    assert got.value == pytest.approx(2.5)
    rng = np.random.default_rng(0)
    spread = np.std(
        [
            file._slope({"nbeta": n, "llc": 2.5 + 0.1 * rng.normal(size=3), "err": np.full(3, 0.1)}).value
            for _ in range(2000)
        ]
    )
    assert got.err == pytest.approx(float(spread), rel=0.08)
    offset = file._slope(
        {"nbeta": n, "llc": 2.5 + 0.01 * n, "err": np.array([0.1, 0.1, 0.1])}
    )  # a loss that is not 0 at w*
    assert offset.value == pytest.approx(2.5)


def test_certainty_of_a_program_and_of_nothing() -> None:
    world = turing(program="read on")
    assert certainty(Snapshot(world.build(0), world.loss, world.probe(0))).value == pytest.approx(1.0)
    blank = turing(noise=0.0)
    assert certainty(Snapshot(blank.build(0), blank.loss, blank.probe(0))).value == pytest.approx(
        (1 / 3 + 1 / 2 + 1 / 3) / 3, abs=0.06
    )
    assert torch.isfinite(blank.loss(blank.build(0), blank.probe(0)))
    assert execute(world.facts["programs"]["read on"], "BBA", start="reject", steps=5)[0] == "accept"


def test_an_unknown_scale_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadOption, match="scale is 'tiny', 'small' or 'full'"):
        program_synthesis(tmp_path, scale="huge")
