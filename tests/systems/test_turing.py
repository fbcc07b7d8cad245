"""The smooth machine against real ones: with a certain code it is one, on every string; loss 0 at the known programs."""

from itertools import product
from typing import Any

import numpy as np
import pytest
import torch

from strobe.core.errors import BadOption
from strobe.systems.turing import MOVES, PROGRAMS, START, STATES, SYMBOLS, Machine, execute, turing


def machine(
    table: dict[tuple[str, str], tuple[str, str, str]], symbols: Any, states: Any, steps: int, start: str
) -> Machine:
    net = Machine(len(symbols), len(states), steps, max(steps, 3), states.index(start))
    with torch.no_grad():
        for (q, s), to in table.items():
            for field, among, value in zip((net.write, net.turn, net.move), (symbols, states, MOVES), to, strict=True):
                field[symbols.index(s), states.index(q)] = 0.0
                field[symbols.index(s), states.index(q), among.index(value), 1] = -2.0  # of any length and phase
    return net


@pytest.mark.parametrize("seed", range(8))
def test_a_certain_code_is_a_real_machine_on_every_string(seed: int) -> None:
    """Tables drawn at random, of 4 symbols and 6 states: state after each number of steps, on all strings to length 3."""
    rng = np.random.default_rng(seed)
    symbols, states = SYMBOLS["parityCheck"], STATES["parityCheck"]
    table = {
        (q, s): (str(rng.choice(symbols)), str(rng.choice(states)), str(rng.choice(MOVES)))
        for q in states
        for s in symbols
    }
    strings = ["".join(s) for k in range(1, 4) for s in product("ABX", repeat=k)]
    rows = torch.tensor([[symbols.index(c) for c in s.ljust(3, "_")] for s in strings])
    for steps in (1, 2, 5, 11):
        with torch.no_grad():
            said = machine(table, symbols, states, steps, "start")(rows)
        truth = [states.index(execute(table, s, start="start", steps=steps)[0]) for s in strings]
        assert said.argmax(1).tolist() == truth
        assert float(said.amax(1).min()) > 1 - 1e-5


@pytest.mark.parametrize(
    ("problem", "length"), [("detectA", 1), ("detectA", 4), ("detectA", 6), ("parityCheck", 2), ("parityCheck", 5)]
)
def test_the_known_programs_have_loss_0_under_both_losses(problem: Any, length: int) -> None:
    for program in PROGRAMS[problem]:
        for loss in ("squared", "kl"):
            world = turing(problem=problem, program=program, length=length, loss=loss)  # type: ignore[arg-type]
            assert float(world.loss(world.build(0), world.probe(0)).detach()) < 1e-10
            assert len(world.facts["strings"]) == 2 ** (length + 1) - 2
    ends = {
        s: execute(PROGRAMS[problem][program], s, start=START[problem], steps=200)[0] for s in world.facts["strings"]
    }
    right = (lambda s: "A" in s) if problem == "detectA" else (lambda s: s.count("A") == s.count("B"))
    assert all((end == "accept") == right(s) for s, end in ends.items())


def test_one_wrong_choice_with_probability_p_errs_in_proportion_and_kl_is_linear_in_it() -> None:
    """'halt' that misses an A with probability p: e = p on 'A'; squares see p², KL sees p."""
    for loss, power in (("squared", 2), ("kl", 1)):
        world = turing(program="halt", loss=loss, length=1, steps=1)  # type: ignore[arg-type]
        model, seen = world.build(0), []
        for p in (1e-2, 1e-3):
            with torch.no_grad():
                model.turn[1, 0] = torch.tensor([[p**0.5, 0.0], [(1 - p) ** 0.5, 0.0]])  # type: ignore[index]
                seen.append(float(world.loss(model, world.probe(0))))
        assert seen[0] == pytest.approx({"squared": 2 * 1e-4 / 2, "kl": 1e-2 / 2}[loss], rel=0.02)
        assert np.log10(seen[0] / seen[1]) == pytest.approx(power, abs=0.02)


def test_uncertainty_stays_a_distribution_and_has_the_gradient_of_differences() -> None:
    world = turing(problem="parityCheck", length=2, steps=5)
    model = world.build(3).double()
    with torch.no_grad():
        said = model(world.probe(0)[0])
    assert torch.allclose(said.sum(1), torch.ones(len(said), dtype=said.dtype))
    assert float(said.min()) >= 0
    world.loss(model, world.probe(0)).backward()
    for p in model.parameters():
        assert p.grad is not None
        old = p[0, 2, 0, 0].item()
        got = []
        for step in (1e-5, -1e-5):
            with torch.no_grad():
                p[0, 2, 0, 0] = old + step
                got.append(float(world.loss(model, world.probe(0))))
                p[0, 2, 0, 0] = old
        assert (got[0] - got[1]) / 2e-5 == pytest.approx(float(p.grad[0, 2, 0, 0]), rel=1e-4, abs=1e-9)


def test_descent_finds_a_program_from_some_starts() -> None:
    world, losses = turing(), []
    for seed in range(3):
        model = world.build(seed)
        optimizer = world.optimizer(model, world.lr)
        for step in range(400):
            optimizer.zero_grad()
            loss = world.loss(model, world.batch(0, step))
            loss.backward()
            optimizer.step()
        losses.append(float(loss.detach()))
    assert min(losses) < 1e-2


def test_bad_knobs_are_refused() -> None:
    for bad in (
        {"problem": "halting"},
        {"program": "mark pairs"},
        {"loss": "l1"},
        {"length": 0},
        {"steps": 0},
        {"noise": -1.0},
    ):
        with pytest.raises(BadOption):
            turing(**bad)  # type: ignore[arg-type]
    with pytest.raises(BadOption, match="no entry for state 'accept' at symbol 'B'"):
        execute({("accept", "A"): ("A", "accept", "right")}, "AB", start="accept", steps=3)
