"""A Turing machine whose code is uncertain: distributions on squares, states and moves, differentiable in the code."""

from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor, nn

from strobe.core.cards import system
from strobe.core.errors import BadOption
from strobe.core.system import System

Table = dict[tuple[str, str], tuple[str, str, str]]  # (state, symbol read) -> (symbol written, state, move)
Batch = tuple[Tensor, Tensor]  # strings (n, length) of symbol numbers, 0 a blank; the state to end in (n,)
MOVES = ("left", "stay", "right")
FIELDS = ("write", "turn", "move")
BLANK = "_"

_FORWARD: Table = {("reject", "B"): ("B", "reject", "right"), ("reject", "A"): ("A", "accept", "right")}
_END: Table = {("reject", BLANK): (BLANK, "reject", "stay")}
_SEEK: Table = {
    ("start", "X"): ("X", "start", "right"), ("start", "A"): ("X", "want B", "right"), ("start", "B"): ("X", "want A", "right"),
    ("start", BLANK): (BLANK, "accept", "stay"), ("accept", BLANK): (BLANK, "accept", "stay"), **_END,
    **{(f"want {a}", s): (s, f"want {a}", "right") for a, b in ("AB", "BA") for s in (b, "X")},
    **{(f"want {a}", a): ("X", "back", "left") for a in "AB"},
    **{(f"want {a}", BLANK): (BLANK, "reject", "stay") for a in "AB"},
    **{("back", s): (s, "back", "left") for s in "ABX"}, ("back", BLANK): (BLANK, "start", "right"),
}  # fmt: skip
PROGRAMS: dict[str, dict[str, Table]] = {  # of each problem
    "detectA": {
        "halt": {**_FORWARD, **_END, ("reject", "A"): ("A", "accept", "stay"), ("accept", "A"): ("A", "accept", "stay")},
        "read on": {**_FORWARD, **_END, **{("accept", s): (s, "accept", "right") for s in ("A", "B", BLANK)}},
    },
    "parityCheck": {"mark pairs": _SEEK},
}  # fmt: skip
SYMBOLS = {"detectA": (BLANK, "A", "B"), "parityCheck": (BLANK, "A", "B", "X")}
STATES = {"detectA": ("reject", "accept"), "parityCheck": ("reject", "accept", "start", "want A", "want B", "back")}
START = {"detectA": "reject", "parityCheck": "start"}
STEPS = {"detectA": lambda length: length + 2, "parityCheck": lambda length: length * (length + 1) + 2}


class Machine(nn.Module):
    """After `steps` steps, the distribution of the state (n, states), for strings (n, length) of symbol numbers.

        P(read σ, in q) = Y₀(σ) S(q);   the square at the head, state and move become means of the code over it;
        Y'_u = Σ_d P(d) Ŷ_{u+d}:   squares, state and move are held independent ("naive probability")

    The code is p_j = |z_j|² / Σ|z|², z_j two numbers (a complex amplitude): `write` (symbols, states, symbols, 2), `turn` (…,
    states, 2), `move` (…, 3, 2). Every z is a code, and what is uniform on the sphere of z is uniform on the simplex of p, so
    that around a program, a vertex, chains in z are chains on the simplex, without an edge or a kink; lengths and phases do
    nothing. Squares farther than `window` from the head are blank.
    """

    def __init__(self, symbols: int, states: int, steps: int, window: int, start: int) -> None:
        super().__init__()
        self.symbols, self.states, self.steps, self.window, self.start = symbols, states, steps, window, start
        self.write = nn.Parameter(torch.ones(symbols, states, symbols, 2))
        self.turn = nn.Parameter(torch.ones(symbols, states, states, 2))
        self.move = nn.Parameter(torch.ones(symbols, states, len(MOVES), 2))

    def code(self) -> list[Tensor]:
        """The distributions of what is written, of the next state and of the move."""
        sizes = [z.square().sum(-1) for z in (self.write, self.turn, self.move)]
        return [p / p.sum(-1, keepdim=True) for p in sizes]

    def forward(self, strings: Tensor) -> Tensor:
        write, turn, move = self.code()
        n, length = strings.shape
        blank = torch.eye(self.symbols, dtype=write.dtype, device=write.device)
        before = blank[0].expand(n, self.window, -1)
        after = blank[0].expand(n, self.window + 1 - length, -1)
        tape = torch.cat([before, blank[strings], after], 1)
        state = torch.eye(self.states, dtype=write.dtype, device=write.device)[self.start].expand(n, -1)
        edge = blank[0].expand(n, 1, -1)
        for _ in range(self.steps):
            joint = (tape[:, self.window, :, None] * state[:, None]).flatten(1)
            written, state, go = (joint @ p.flatten(0, 1) for p in (write, turn, move))
            tape = torch.cat([edge, tape[:, : self.window], written[:, None], tape[:, self.window + 1 :], edge], 1)
            views = torch.stack([tape[:, d : d + 2 * self.window + 1] for d in range(3)], 1)
            tape = (go[:, :, None, None] * views).sum(1)
        return state


def execute(table: Table, string: str, *, start: str, steps: int) -> tuple[str, set[tuple[str, str]]]:
    """The state a real machine ends in, and which entries of its table it used. Raises `BadOption` for one that is missing.

    >>> execute(PROGRAMS["detectA"]["halt"], "BA", start="reject", steps=4)[0]
    'accept'
    """
    tape, at, state, used = dict(enumerate(string)), 0, start, set()
    for _ in range(steps):
        key = state, tape.get(at, BLANK)
        if key not in table:
            raise BadOption(f"the program has no entry for state {key[0]!r} at symbol {key[1]!r}")
        used.add(key)
        tape[at], state, move = table[key]
        at += MOVES.index(move) - 1
    return state, used


@system(what="A smooth Turing machine is to find a program: detectA, parityCheck", ref="arXiv:2103.16080")
def turing(
    *,
    problem: Literal["detectA", "parityCheck"] = "detectA",
    length: int = 4,
    steps: int | None = None,
    program: str | None = None,
    loss: Literal["squared", "kl"] = "squared",
    noise: float = 0.5,
    lr: float = 0.02,
) -> System:
    """The final state of an uncertain machine (`Machine`) on all strings of A and B, against the right answer.

    detectA: does the string hold an A? Symbols _, A, B, states reject, accept: 30 free coordinates. parityCheck: are there as
    many A as B? Four symbols, six states: 240. A batch is all strings of 1 to `length` letters: the loss is the population's,
    mean |P(state) − right one|² ("squared"), or mean −log P(right) ("kl").

    A program is a vertex of the simplices. The two losses differ there: with e the probability of a wrong end, linear in the
    code with coefficients >= 0, the first is of order e², the second e, so that its learning coefficient is twice as large.

    Args: `steps` T, by default enough for the programs that are known (length + 2; length (length + 1) + 2); `program` "halt" or "read on"
    (detectA), "mark pairs" (parityCheck): the model is built there, entries that it never uses uniform; else near the uniform
    code, moved by `noise` of its amplitudes. Adam with `lr`.
    Facts: programs (tables), used (entries that each uses), symbols, states, coordinates, right.
    Ref: Clift, Murfet, Wallbridge, arXiv:2103.16080 (there the step is that of a universal machine which looks its code up);
    Clift and Murfet, arXiv:1805.11813 (the update).

    >>> world = turing(program="halt")
    >>> float(world.loss(world.build(0), world.batch(0, 0)).detach()), world.facts["coordinates"]
    (0.0, 30)
    """
    if problem not in PROGRAMS or loss not in ("squared", "kl"):
        raise BadOption(f"problem is 'detectA' or 'parityCheck', loss 'squared' or 'kl'; got {problem!r}, {loss!r}")
    if program is not None and program not in PROGRAMS[problem]:
        raise BadOption(f"{problem} has the programs {', '.join(PROGRAMS[problem])}, not {program!r}")
    if length < 1 or (steps is not None and steps < 1) or not (noise >= 0 and lr > 0):
        raise BadOption(f"needs length and steps >= 1, noise >= 0, lr > 0; got {length}, {steps}, {noise}, {lr}")
    many, (symbols, states) = steps or STEPS[problem](length), (SYMBOLS[problem], STATES[problem])
    strings = ["".join(s) for k in range(1, length + 1) for s in product("AB", repeat=k)]
    right = ["accept" if _yes(problem, s) else "reject" for s in strings]
    data = (
        torch.tensor([[symbols.index(c) for c in s.ljust(length, BLANK)] for s in strings]),
        torch.tensor([states.index(q) for q in right]),
    )
    tables = PROGRAMS[problem]
    used = {
        name: sorted(set().union(*(execute(t, s, start=START[problem], steps=many)[1] for s in strings)))
        for name, t in tables.items()
    }

    def build(seed: int) -> nn.Module:
        model = Machine(len(symbols), len(states), many, max(length + 1, min(many, 8)), states.index(START[problem]))
        g = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in model.parameters():
                p[..., 1] = 0.0
                p.div_(p.shape[-2] ** 0.5)
                if program is None:
                    p.add_(noise * torch.randn(p.shape, generator=g) * p[..., :1])
            for key in used[program] if program else []:
                _set(model, symbols, states, key, tables[program][key])  # type: ignore[index]
        return model

    def score(model: nn.Module, batch: Batch) -> Tensor:
        said = model(batch[0])
        if loss == "kl":
            return -said[torch.arange(len(said), device=said.device), batch[1]].clamp_min(1e-12).log().mean()
        target = torch.eye(len(states), dtype=said.dtype, device=said.device)[batch[1]]
        return (said - target).square().sum(1).mean()

    return System(
        name="turing",
        path="strobe.systems.turing:turing",
        knobs={"problem": problem, "length": length, "steps": steps, "program": program, "loss": loss, "noise": noise, "lr": lr},
        build=build,
        batch=lambda seed, step: data,
        loss=score,
        probe=lambda seed: data,
        optimizer=lambda model, rate: torch.optim.Adam(model.parameters(), lr=rate),
        lr=lr,
        floor=0.0,
        facts={
            "programs": tables, "used": used, "symbols": symbols, "states": states, "strings": strings, "right": right, "steps": many,
            "coordinates": len(symbols) * len(states) * (len(symbols) + len(states) + 3 - 3),
        },
    )  # fmt: skip


def _yes(problem: str, s: str) -> bool:
    return "A" in s if problem == "detectA" else s.count("A") == s.count("B")


def _set(
    model: nn.Module, symbols: tuple[str, ...], states: tuple[str, ...], key: tuple[str, str], to: tuple[str, str, str]
) -> None:
    """One entry of the table, certain."""
    q, s = key
    for name, among, value in zip(FIELDS, (symbols, states, MOVES), to, strict=True):
        row: Any = getattr(model, name)[symbols.index(s), states.index(q)]
        row.zero_()
        row[among.index(value), 0] = 1.0
