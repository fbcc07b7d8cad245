"""Do fitted scaling laws say what the next, larger run will give, and are tasks learned one by one as often as they come?"""

from pathlib import Path

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from strobe.core.cards import study
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.core.snapshot import Snapshot
from strobe.core.stacked import StackedLoss, stacked
from strobe.core.stacked_adam import StackedAdam
from strobe.core.system import System
from strobe.laws.scaling import compute_optimal, quanta, scaling_law
from strobe.numerics.scaling_fit import fit
from strobe.studies.docket import Docket, Progress, sized
from strobe.studies.images import standardised

QUESTION = "Do fitted scaling laws say what the next, larger run will give, and are tasks learned one by one as often as they come?"
SCALES = {"tiny": (4, 300, 8), "small": (8, 6000, 32), "full": (32, 20_000, 64)}  # seeds, steps of parity, tasks
KNOWN = (1.69, 406.4, 410.7, 0.34, 0.28)  # arXiv:2203.15556, the fitted surface
WIDTHS, EXAMPLES = (3, 4, 6, 8, 12), (100, 150, 225, 340, 510)  # fitted on
LARGER = ((24, 1020), (12, 1020), (24, 510))  # spoken about
HELD, STEPS, BATCH = 397, 500, 50
BITS, SUBSET, ALPHA = 24, 3, 0.4


class Parity(nn.Module):
    """Many parities, told apart by a one-hot label."""

    def __init__(self, tasks: int, width: int = 256) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(tasks + BITS, width), nn.ReLU(), nn.Linear(width, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def multitask_parity(*, tasks: int = 32, lr: float = 2e-3, batch: int = 1024) -> System:
    """`tasks` parities of 3 bits of 24, met with probabilities ~ k^−1.4."""
    which = torch.from_numpy(np.stack([np.random.default_rng(k).permutation(BITS)[:SUBSET] for k in range(tasks)]))
    p = torch.arange(1, tasks + 1, dtype=torch.float64) ** -(ALPHA + 1)
    p /= p.sum()

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return Parity(tasks)

    def draw(g: torch.Generator, task: Tensor) -> tuple[Tensor, Tensor]:
        bits = torch.randint(0, 2, (len(task), BITS), generator=g)
        return torch.cat([nn.functional.one_hot(task, tasks).float(), bits.float()], 1), bits.gather(
            1, which[task]
        ).sum(1) % 2

    def one(seed: int, step: int) -> tuple[Tensor, Tensor]:
        g = torch.Generator().manual_seed(seed * 1_000_003 + step)
        return draw(g, torch.multinomial(p, batch, replacement=True, generator=g))

    def probe(seed: int) -> tuple[Tensor, Tensor]:
        return draw(torch.Generator().manual_seed(seed + 999), torch.arange(tasks).repeat_interleave(200))

    return System(
        "multitask_parity", "strobe.studies.scaling:multitask_parity", {"tasks": tasks, "lr": lr, "batch": batch}, build, one, _loss, probe,
        lambda m, rate: torch.optim.Adam(m.parameters(), lr=rate), lr, facts={"probabilities": p.tolist()},
    )  # fmt: skip


@study(question="Do fitted scaling laws say what the next, larger run will give?", ref="arXiv:2203.15556")
def scaling(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """A known surface under 0.5% noise; digits by width and number of examples; and parities met with power-law frequencies.

    Sealed: the best split of compute from a fit to noisy draws of a known surface; the held-out loss of digits networks larger than,
    or trained on more examples than, all that were fitted, beside the rival without a floor and the null that loss stays what it was
    at the largest; the order in which parities are learned, and the exponent of their times, beside the null that all take equally
    long. Fitted parameters: 5. Cost: seconds at "tiny", two minutes at "small". Raises `BadOption`.
    """
    seeds, steps, tasks = sized(scale, SCALES)
    world = multitask_parity(tasks=tasks)
    p = np.array(world.facts["probabilities"])

    with Docket(world, out / "recorded", QUESTION, steps=min(steps, 300), seed=seed) as docket:
        split = compute_optimal(alpha=KNOWN[3], beta=KNOWN[4], tol=0.03)
        docket.seal("split", split, "exponent of the best N in C, fitted to 120 noisy runs of a known surface")
        docket.seal("times", quanta(alpha=ALPHA), "exponent of the time to learn a parity in its probability")
        docket.seal(
            "order", quanta(alpha=ALPHA, of="order"), "rank correlation of how rare a parity is with when it is learned"
        )
        flat = {"value": 0.0, "law": "", "knobs": {}}
        docket.seal(
            "equal",
            quanta(alpha=ALPHA),
            "exponent of the time: null, all parities take equally long (must fail)",
            **flat,
        )
        known = _known(seed)
        docket.judge("split", known)

        n, d, loss, _ = digits_losses(WIDTHS, EXAMPLES, seeds, seed, progress)
        found = fit(n, d, loss)
        numbers = {"a": found.a, "b": found.b, "alpha": found.alpha, "beta": found.beta}
        sizes, more = [parameters(w) for w, _ in LARGER], [e for _, e in LARGER]
        docket.seal("digits", scaling_law(sizes=sizes, examples=more, floor=found.floor, rtol=0.15, **numbers),
                    "held-out loss of digits networks larger than those fitted")  # fmt: skip
        largest = float(loss[(n == n.max()) & (d == d.max())][0])
        still = {
            "value": np.full(len(more), largest),
            "tol": np.full(len(more), 0.15 * largest),
            "law": "",
            "knobs": {},
            "fitted": 0,
        }
        docket.seal(
            "still",
            docket.sealed["digits"],
            "held-out loss: null, it stays at that of the largest fitted (must fail)",
            **still,
        )
        measured = [digits_losses((w,), (e,), 2 * seeds, seed + 1, None) for w, e in LARGER]
        got = Reading(np.array([m[2][0] for m in measured]), np.array([m[3][0] for m in measured]), "nats")
        docket.judge("digits", got)
        docket.judge("still", got)

        times = parity_times(world, steps, seed, progress)
        ok = np.isfinite(times) & (times > 0)
        enough = int(ok.sum()) >= 8
        why = "" if enough else f"{int(ok.sum())} parities were learned: too few to fit an exponent"
        slope, err = _slope(np.log(p[ok]), np.log(times[ok])) if enough else (0.0, 0.0)
        docket.judge("times", Reading(slope, err, "exponent"), applies=enough, why=why)
        docket.judge("equal", Reading(slope, err, "exponent"), applies=enough, why=why)
        rank = _rank(np.arange(tasks)[ok], times[ok]) if enough else Reading(None)
        docket.judge("order", rank, applies=enough, why=why)
        rows = [{"width": w, "examples": e, "predicted": float(v), "held-out loss": float(m[2][0]), "err": float(m[3][0])}
                for (w, e), v, m in zip(LARGER, docket.sealed["digits"].value, measured, strict=True)]  # fmt: skip
        fitted = [{"parameter": k, "value": getattr(found, k), "err": v} for k, v in found.err.items()]
        learned = [
            {"parity": k + 1, "probability": float(p[k]), "step": float(times[k])} for k in range(tasks) if ok[k]
        ]
        return docket.report(
            {"larger runs": rows, "fit on 25 sizes": fitted, "parities learned": learned},
            ["Hoffmann et al. 2022, arXiv:2203.15556", "Michaud et al. 2023, arXiv:2303.13506"], seeds=seeds,
        )  # fmt: skip


def _loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(data[0]), data[1])


def _known(seed: int) -> Reading:
    """β / (α + β) fitted to 120 draws of the known surface under 0.5% noise, with its bootstrap error."""
    rng = np.random.default_rng(seed)
    n, d = 10 ** rng.uniform(7.5, 10.2, 120), 10 ** rng.uniform(8.5, 11.2, 120)
    e, a, b, alpha, beta = KNOWN
    found = fit(n, d, (e + a * n**-alpha + b * d**-beta) * np.exp(0.005 * rng.standard_normal(120)), seed=seed)
    share = found.draws[:, 4] / (found.draws[:, 3] + found.draws[:, 4])
    return Reading(
        found.beta / (found.alpha + found.beta),
        float(share.std(ddof=1)),
        "",
        {"alpha": found.alpha, "beta": found.beta},
    )


def parameters(width: int) -> float:
    """Of a digits network with one hidden layer."""
    return float(64 * width + width + 10 * width + 10)


def digits_losses(
    widths: tuple[int, ...], examples: tuple[int, ...], seeds: int, seed: int, progress: Progress | None
) -> tuple[np.ndarray, ...]:
    """(N, D, mean lowest held-out loss, its error over seeds) for every pair: all numbers of examples and seeds of a width at once."""
    x, y = standardised()
    held, rest = (x[:HELD], y[:HELD]), len(x) - HELD
    starts = [seed * 1000 + k for k in range(seeds)]
    rows = []
    for i, width in enumerate(widths):
        copies = [(e, s) for e in examples for s in starts]
        models = []
        for _, s in copies:
            torch.manual_seed(s)
            models.append(nn.Sequential(nn.Linear(64, width), nn.ReLU(), nn.Linear(width, 10)))
        f = StackedLoss(Snapshot(models[0], _loss, (x[:BATCH], y[:BATCH])))
        w = stacked(models)
        chosen = [HELD + torch.randperm(rest, generator=torch.Generator().manual_seed(s))[:e] for e, s in copies]
        draws = [torch.Generator().manual_seed(s) for _, s in copies]
        adam, best = StackedAdam(f, w, 1e-2), np.full(len(copies), np.inf)
        for t in range(1, STEPS + 1):
            at = torch.stack(
                [c[torch.randint(len(c), (BATCH,), generator=g)] for c, g in zip(chosen, draws, strict=True)]
            )
            adam.step((x[at], y[at]))
            if t % 20 == 0:
                best = np.minimum(best, f.losses(w, held).numpy())
        table = best.reshape(len(examples), seeds)
        rows += [
            (parameters(width), e, r.mean(), r.std(ddof=1) / seeds**0.5) for e, r in zip(examples, table, strict=True)
        ]
        if progress:
            progress("digits by width", i + 1, len(widths))
    return tuple(np.array(c, float) for c in zip(*rows, strict=True))


def parity_times(world: System, steps: int, seed: int, progress: Progress | None) -> np.ndarray:
    """The step at which each parity's loss first is half a bit (inf: never), looked at every hundredth part."""
    model, (x, y) = world.build(seed), world.probe(seed)
    optimizer, tasks = world.optimizer(model, world.lr), len(y) // 200
    times, look = np.full(tasks, np.inf), max(steps // 100, 1)
    for step in range(steps):
        if step % look == 0:
            with torch.no_grad():
                bits = nn.functional.cross_entropy(model(x), y, reduction="none").view(tasks, -1).mean(
                    1
                ).numpy() / np.log(2)
            times[(bits < 0.5) & np.isinf(times)] = step
            if progress and step % (look * 10) == 0:
                progress("parities", step, steps)
        optimizer.zero_grad()
        world.loss(model, world.batch(seed, step)).backward()
        optimizer.step()
    return times


def _slope(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """Least squares slope and its jackknife error over points."""
    at = lambda keep: float(np.polyfit(x[keep], y[keep], 1)[0])  # noqa: E731
    n = len(x)
    without = np.array([at(np.arange(n) != k) for k in range(n)])
    return at(np.arange(n)), float(np.sqrt((n - 1) * np.mean((without - without.mean()) ** 2)))


def _rank(k: np.ndarray, times: np.ndarray) -> Reading:
    """Spearman's rank correlation, with its jackknife error."""
    n = len(k)
    without = np.array([spearmanr(np.delete(k, i), np.delete(times, i))[0] for i in range(n)])
    err = float(np.sqrt((n - 1) * np.mean((without - without.mean()) ** 2)))
    return Reading(float(spearmanr(k, times)[0]), err, "", {"parities": n})
