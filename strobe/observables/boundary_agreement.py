"""Do several methods find the same stages? Which boundaries match within their errors, and how many would by chance."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from strobe.core.cards import observable
from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.numerics.boundaries import Places, agreement


@observable(symbol="A", of="run", cost="no gradients", ref="arXiv:2402.02364")
def boundary_agreement(
    run: Any,
    *,
    names: Sequence[str] | None = None,
    k: float = 2.0,
    within: float = 0.05,
    draws: int = 1000,
    seed: int = 0,
) -> Reading:
    """The share of boundaries that two methods agree on, for each pair of sets; an array (pairs,) in [0, 1].

        a, b agree where |log10 t_a − log10 t_b| <= max(`k` √(err_a² + err_b²), `within`); one to one, as many as possible
        A = 2 · agreeing pairs / (number of a + number of b)

    Args: `run` a run with readings of boundaries (`stages`, `llc_plateaus`, `vertices`, or any reading whose `how` has
    `boundaries`), of which the last of each name is taken; or a mapping of names to such readings. `names` which of
    them, in order; `k` joint errors; `within` decades, the least reach.
    Err: standard deviation of A over sets in which each boundary is there with the probability `sure` and is moved by
    its own error. `how["pairs"]`, for each pair: `of`, `share`, `err`, `chance` (the mean A of as many boundaries thrown
    uniformly in log t into the steps that both methods saw, with their errors), `p` (the share of throws that do as
    well), and `matches`: the steps on both sides, their `gap` in decades, and the error of that. `how["lonely"]`: by
    name, the steps of boundaries that no other method has.
    Cost: milliseconds. Regime: wide errors match anything; read A beside `chance`. The boundaries of one run are few, so p
    is rarely small: agreement is shown by several runs.
    Raises `BadOption` for fewer than two sets.
    Ref: the comparison in Hoogland et al., arXiv:2402.02364, is by eye; this measure is ours.

    >>> def found(at): return Reading(np.array(at), 0.1 * np.array(at), "steps", {"low": 1.0, "high": 1e4, "boundaries": [
    ...     {"step": t, "decades": 0.04, "sure": 1.0} for t in at]})
    >>> got = boundary_agreement({"llc": found([10.0, 300.0]), "path": found([11.0, 2000.0])})
    >>> got.value.tolist(), [np.round(m["steps"]).tolist() for m in got.how["pairs"][0]["matches"]]
    ([0.5], [[10.0, 11.0]])
    """
    sets = _sets(run, names)
    if len(sets) < 2:
        raise BadOption(
            f"boundary_agreement compares two sets of boundaries or more, found {len(sets)}: {', '.join(sets)}"
        )
    if not (k > 0 and within >= 0 and draws >= 20):
        raise BadOption(f"boundary_agreement needs k > 0, within >= 0 and draws >= 20, got {k}, {within}, {draws}")
    rows: list[dict[str, Any]] = []
    met: dict[str, set[int]] = {name: set() for name in sets}
    for one, two in combinations(sets, 2):
        (a, low, high), (b, other_low, other_high) = sets[one], sets[two]
        edge = max(low, other_low), min(high, other_high)
        if not edge[1] > edge[0]:
            raise BadOption(f"{one} and {two} share no interval of steps")
        said = agreement(a, b, *edge, k=k, floor=within, draws=draws, seed=seed)
        met[one] |= {i for i, _ in said.pairs}
        met[two] |= {j for _, j in said.pairs}
        matches = [_match(a, b, i, j) for i, j in said.pairs]
        rows.append({"of": [one, two], "share": said.share, "err": said.err, "chance": said.chance, "p": said.p, "matches": matches,
                     "counts": [len(a[0]), len(b[0])]})  # fmt: skip
    lonely = {n: [float(10**x) for i, x in enumerate(s[0][0]) if i not in met[n]] for n, s in sets.items()}
    how = {
        "labels": [f"{r['of'][0]}, {r['of'][1]}" for r in rows],
        "pairs": rows,
        "lonely": lonely,
        "k": k,
        "within": within,
    }
    return Reading(np.array([r["share"] for r in rows]), np.array([r["err"] for r in rows]), "share", how)


def _match(a: Places, b: Places, i: int, j: int) -> dict[str, Any]:
    gap, err = float(b[0][j] - a[0][i]), float(np.hypot(a[1][i], b[1][j]))
    return {"steps": [float(10 ** a[0][i]), float(10 ** b[0][j])], "gap": gap, "err": err}


def _sets(run: Any, names: Sequence[str] | None) -> dict[str, tuple[Places, float, float]]:
    if isinstance(run, Mapping):
        given = {n: run[n].how for n in names or run}
    else:
        given = {e["name"]: e["how"] for e in run.index.events("reading", superseded=False) if "boundaries" in e["how"]}
        if missing := [n for n in names or [] if n not in given]:
            raise BadOption(f"the run has no boundaries called {missing[0]!r}; it has {', '.join(given) or 'none'}")
        given = {n: given[n] for n in names or given}
    out = {}
    for name, how in given.items():
        rows = how.get("boundaries")
        if rows is None or "low" not in how:
            raise BadOption(f"{name} is no reading of boundaries: its how has neither boundaries nor the steps it saw")
        places = (np.array([r[f] for r in rows], float) for f in ("step", "decades", "sure"))
        steps, decades, sure = places
        out[name] = ((np.log10(steps), decades, sure), float(np.log10(how["low"])), float(np.log10(how["high"])))
    return out
