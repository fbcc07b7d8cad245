"""`llc` against every case at one automatic setting, as the table of a record.

    PYTHONPATH=tests OMP_NUM_THREADS=1 python -m reference.llc_table [--seeds 2] [--first 0] [--budget 4000] [--only NAME ...] [--series]

Only N and γ are given, which say what is measured; `llc` finds the rest. With `--series` it is `rlct` over N = 10^2.5 to 10^4.5 against
the limit λ, with d/2 beside it.
"""

import argparse
import time

import numpy as np
import torch
from reference.llc_cases import CASES

from strobe.core.errors import Diverged
from strobe.observables.llc import llc
from strobe.observables.rlct import rlct


def main() -> None:
    """Print a row for each case and seed, then what they come to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--budget", type=int, default=4000)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--series", action="store_true")
    a = parser.parse_args()
    torch.set_num_threads(1)
    if a.series:
        series(a.seeds, a.budget)
        return
    rows = []
    print(
        "| case | N | γ | λ | d/2 | exact at N, γ | llc | z | error | s | flags |\n|---|---|---|---|---|---|---|---|---|---|---|"
    )
    for case in CASES:
        if a.only and case.name not in a.only:
            continue
        for seed in range(a.first, a.first + a.seeds):
            began = time.monotonic()
            got = llc(case.snapshot(), nbeta=case.nbeta, gamma=case.gamma, budget=a.budget, seed=seed, **case.options)
            exact, own = case.exact
            z = (got.value - exact) / np.hypot(got.err, own)
            part = got.value / exact - 1
            rows.append((case.kind, z, part))
            flags = "; ".join(f.partition("(")[0].strip() for f in got.how["flags"])
            print(
                f"| {case.name} | {case.nbeta:g} | {case.gamma:g} | {case.limit:g} | {case.parameters / 2:g} | {exact:.4f} "
                f"| {got.value:.4f} ± {got.err:.4f} | {z:+.1f} | {part:+.1%} | {time.monotonic() - began:.1f} | {flags} |",
                flush=True,
            )
    for kind in [*dict.fromkeys(r[0] for r in rows), "all"]:
        z, part = (np.array([r[i] for r in rows if kind in (r[0], "all")]) for i in (1, 2))
        print(
            f"\n{kind}: {len(z)} runs, within 2 err {np.mean(np.abs(z) < 2):.1%}, within 3 err {np.mean(np.abs(z) < 3):.1%}, "
            f"rms z {np.sqrt(np.mean(z**2)):.2f}, median error {np.median(np.abs(part)):.2%}, worst {np.abs(part).max():.1%}"
        )


def series(seeds: int, budget: int) -> None:
    """The limit against `rlct` and d/2."""
    print("| case | γ | λ | rlct | error | d/2 | flags |\n|---|---|---|---|---|---|---|")
    rows = []
    for case in CASES:
        if case.options:  # of some layers only
            continue
        for seed in range(seeds):
            try:
                got = rlct(
                    case.snapshot(),
                    nbetas=[10 ** (k / 2) for k in range(5, 10)],
                    gamma=case.gamma,
                    budget=budget,
                    seed=seed,
                )
            except Diverged as e:
                print(f"| {case.name} | {case.gamma:g} | {case.limit:g} | {str(e)[:60]} | | | |")
                continue
            rows.append((case.limit, got.value, got.err, case.parameters / 2))
            print(
                f"| {case.name} | {case.gamma:g} | {case.limit:g} | {got.value:.3f} ± {got.err:.3f} | {got.value / case.limit - 1:+.1%} "
                f"| {case.parameters / 2:g} | {len(got.how['flags'])} |",
                flush=True,
            )
    true, ours, err, rival = np.array(rows).T
    rank = lambda x: np.argsort(np.argsort(x))  # noqa: E731
    for label, x in (("rlct", ours), ("d/2", rival)):
        part = np.abs(x / true - 1)
        print(
            f"\n{label}: {len(x)} runs, median error {np.median(part):.1%}, 90th percentile {np.quantile(part, 0.9):.1%}, "
            f"rank correlation {np.corrcoef(rank(x), rank(true))[0, 1]:.3f}"
        )
    print(f"\nwithin 2 err of λ: {np.mean(np.abs(ours - true) < 2 * err):.1%}")


if __name__ == "__main__":
    main()
