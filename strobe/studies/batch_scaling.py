"""May batch and learning rate grow together without the training noticing, and up to which batch is it worth it?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from strobe.core.cards import study
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.core.snapshot import Snapshot
from strobe.core.stacked import StackedLoss, stacked
from strobe.core.stacked_adam import StackedAdam
from strobe.core.system import System
from strobe.laws.batch_scaling import batch_scaling as law
from strobe.laws.batch_scaling import critical_batch, in_regime, two_batch_noise
from strobe.runs.run import open_run
from strobe.studies.docket import Docket, Progress, sized
from strobe.studies.images import standardised

QUESTION = (
    "May batch and learning rate grow together without the training noticing, and up to which batch is it worth it?"
)
SCALES = {
    "tiny": (6_000, 3, (2, 8), (2,)),
    "small": (40_000, 6, (2, 4, 8, 16), (2, 4)),
    "full": (200_000, 16, (2, 4, 8, 16), (2, 4, 8)),
}
TRAIN, MARKS = 1400, 5  # examples trained on; points of a loss curve
SGD, ADAM = (8, 0.05), (2, 1e-4)  # the small batch and its rate
GOAL, RATES, SIZES = 0.1, (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4), (8, 32, 128)  # a loss, rates tried, batches
EARLY = 24  # the step of the recorded run at which two batch sizes are held against all single gradients
ENOUGH = 20  # examples of a small batch that the two-batch estimator takes, of ten times as many


def small_tanh(*, batch: int = 8, lr: float = 0.05) -> System:
    """Digits, one hidden layer of 64 tanh units, plain descent on small batches."""
    x, y = standardised()

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 10))

    def draw(seed: int, step: int) -> tuple[Tensor, Tensor]:
        at = torch.randint(TRAIN, (batch,), generator=torch.Generator().manual_seed(seed * 1_000_003 + step))
        return x[at], y[at]

    return System(
        "small_tanh", "strobe.studies.batch_scaling:small_tanh", {"batch": batch, "lr": lr}, build, draw, _loss,
        lambda seed: (x[:TRAIN], y[:TRAIN]), lambda m, rate: torch.optim.SGD(m.parameters(), lr=rate), lr,
    )  # fmt: skip


@study(question="May batch and learning rate grow together without the training noticing?", ref="arXiv:1812.06162")
def batch_scaling(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """Digits, one stream of examples cut into batches of 8, 16, ...: loss curves of the linear rule, the root as rival; Adam by its rule.

    Sealed, from the small run's noise scale alone: the linear rule's curve within 2%, outside beyond the noise scale; the rival (the
    root rule for plain descent), which must fail; Adam's root rule, which fails here; the noise scale by two batch sizes against all
    single gradients, within 10%; and steps to a loss by batch size. Cost: seconds at "tiny", a minute at "small". Raises `BadOption`.
    """
    examples, seeds, factors, slower = sized(scale, SCALES)
    starts = [seed * 1000 + k for k in range(seeds)]
    rows: list[dict[str, Any]] = []
    with Docket(small_tanh(), out / "recorded", QUESTION, steps=examples // SGD[0] // 4, seed=seed) as docket:
        base = curves(*SGD, "sgd", examples, starts)
        base_adam = curves(*ADAM, "adam", examples // 2, starts)
        noise, noise_adam = (_scale(_single(model)) for _, model in (base, base_adam))
        early = open_run(docket.path).at(EARLY).model
        pair = f"batches of {ENOUGH} and {10 * ENOUGH} at step {EARLY}"
        docket.seal("noise", two_batch_noise(draws=200), f"noise scale by {pair}, over that of single gradients")
        docket.judge("noise", two_batches(_single(early), seed))
        plan = [("sgd", k, SGD, noise) for k in factors] + [("adam", k, ADAM, noise_adam) for k in slower]
        for optimizer, k, (batch, _), b in plan:
            said = law(batch=batch, factor=k, noise_scale=b, optimizer=optimizer)
            name = "linear rule" if optimizer == "sgd" else "Adam's root rule"
            docket.seal(
                f"{optimizer} {k}", said, f"{name}: batch {batch} to {batch * k}, largest deviation of the curve"
            )
            if optimizer == "sgd" and k == factors[0]:
                docket.seal(
                    "rival", said, f"rival, the root rule for plain descent: batch {batch} to {batch * k} (must fail)"
                )
        for i, (optimizer, k, (batch, lr), b) in enumerate(plan):
            fits = in_regime(batch=batch, factor=k, noise_scale=b, optimizer=optimizer)
            reference = base if optimizer == "sgd" else base_adam
            total = examples if optimizer == "sgd" else examples // 2
            rate = lr * (k if optimizer == "sgd" else k**0.5)
            got = deviation(curves(batch * k, rate, optimizer, total, starts, k)[0], reference[0])
            why = (
                ""
                if fits
                else f"noise scale {b:.3g} after a fifth of the small run: the larger batch is not one of noise"
            )
            docket.judge(f"{optimizer} {k}", got, applies=fits, why=why)
            row = {
                "optimizer": optimizer,
                "batch": f"{batch} to {batch * k}",
                "its rule": got.value,
                "err": got.err,
                "rival": None,
            }
            if optimizer == "sgd" and k == factors[0]:
                other = deviation(curves(batch * k, lr * k**0.5, optimizer, total, starts)[0], reference[0])
                docket.judge("rival", other)
                row["rival"] = other.value
            rows.append(row)
            if progress:
                progress("batches", i + 1, len(plan))
        tables = {"largest deviation of the loss curve": rows}
        if scale != "tiny":
            tables["steps to a loss"] = _steps_to(docket, seed)
        return docket.report(
            tables, ["McCandlish et al. 2018, arXiv:1812.06162", "Goyal et al. 2017, arXiv:1706.02677"], seeds=seeds
        )


def _loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
    return nn.functional.cross_entropy(model(data[0]), data[1])


def curves(
    batch: int, lr: float, optimizer: str, examples: int, seeds: Sequence[int], factor: int = 1
) -> tuple[np.ndarray, nn.Module]:
    """(loss on all training examples (mark, seed) after each fifth of them, the first model after a fifth); seeds side by side."""
    x, y = standardised()
    world = small_tanh(batch=batch)
    models = [world.build(s) for s in seeds]
    f = StackedLoss(Snapshot(models[0], _loss, (x[:batch], y[:batch])))
    w = stacked(models)
    stream = torch.stack([torch.randint(TRAIN, (examples,), generator=torch.Generator().manual_seed(s)) for s in seeds])
    adam = StackedAdam(f, w, lr, betas=(1 - 0.1 * factor, 1 - 1e-3 * factor)) if optimizer == "adam" else None
    steps, kept = examples // batch, []
    marks = {round(steps * (i + 1) / MARKS) for i in range(MARKS)}
    for t in range(1, steps + 1):
        at = stream[:, (t - 1) * batch : t * batch]
        if adam:
            adam.step((x[at], y[at]))
        else:
            _, g = f.own(w, (x[at], y[at]))
            w.add_(g, alpha=-lr)
        if t in marks:
            kept.append(f.losses(w, (x[:TRAIN], y[:TRAIN])).tolist())
        if t == min(marks):
            with torch.no_grad():
                for p, value in zip(models[0].parameters(), f.split(w[0]).values(), strict=True):
                    p.copy_(value)
    return np.array(kept), models[0]


def deviation(curve: np.ndarray, base: np.ndarray) -> Reading:
    """max over marks of |mean over seeds of one / of the other − 1|, with its jackknife error."""
    value = lambda keep: float(np.abs(curve[:, keep].mean(1) / base[:, keep].mean(1) - 1).max())  # noqa: E731
    n = curve.shape[1]
    without = np.array([value(np.arange(n) != k) for k in range(n)])
    err = float(np.sqrt((n - 1) * np.mean((without - without.mean()) ** 2)))
    return Reading(value(np.arange(n)), err, "", {"seeds": n})


def _single(model: nn.Module) -> Tensor:
    """The gradient of each training example, (TRAIN, P)."""
    x, y = standardised()
    each = torch.func.vmap(
        torch.func.grad(lambda p, a, b: Snapshot(model, _loss, (a[None], b[None])).loss_at(p)), (None, 0, 0)
    )
    params = Snapshot(model, _loss, None).params()
    return torch.cat([v.reshape(TRAIN, -1) for v in each(params, x[:TRAIN], y[:TRAIN]).values()], 1).double()


def _scale(single: Tensor) -> float:
    """tr Σ / |G|² of examples that are all there is to draw from: their mean is the gradient itself."""
    mean = single.mean(0)
    return float((single - mean).square().sum(1).mean() / mean.square().sum())


def two_batches(single: Tensor, seed: int) -> Reading:
    """The noise scale as 200 draws of two batch sizes tell it, over the exact one; its error by the bootstrap over draws."""
    draw, big = np.random.default_rng(seed), 10 * ENOUGH
    pairs = []
    for _ in range(200):
        at = draw.choice(TRAIN, big, replace=True)
        few, many = (single[at[:n]].mean(0).square().sum().item() for n in (ENOUGH, big))
        pairs.append(((big * many - ENOUGH * few) / (big - ENOUGH), (few - many) / (1 / ENOUGH - 1 / big)))
    table, exact = np.array(pairs), _scale(single)
    ratio = lambda t: float(t[:, 1].mean() / t[:, 0].mean() / exact)  # noqa: E731
    boot = [ratio(table[draw.integers(0, 200, 200)]) for _ in range(200)]
    return Reading(ratio(table), float(np.std(boot)), "ratio", {"exact": exact, "batches": [ENOUGH, big]})


def _steps_to(docket: Docket, seed: int) -> list[dict[str, Any]]:
    """Steps until the loss is `GOAL`, the best rate for each batch; the largest batch is all examples, and tells the noise scale."""
    full, _, rate = _fewest(TRAIN, seed)
    noise = _along(seed, rate, int(full))
    said = critical_batch(batches=SIZES, noise_scale=noise, fewest_steps=full)
    docket.seal(
        "steps", said, f"steps to loss {GOAL}, by batch, from the noise scale {noise:.3g} along full-batch descent"
    )
    found = np.array([_fewest(b, seed) for b in SIZES])
    inside = bool(((found[:, 2] > RATES[0]) & (found[:, 2] < RATES[-1])).all())
    why = "" if inside else "a best rate is the first or last one tried: it is not tuned"
    docket.judge("steps", Reading(found[:, 0], found[:, 1], "steps"), applies=inside, why=why)
    table = [{"batch": b, "steps": s, "err": e, "best rate": r, "predicted": p}
             for b, (s, e, r), p in zip(SIZES, found, said.value, strict=True)]  # fmt: skip
    return [*table, {"batch": TRAIN, "steps": full, "err": None, "best rate": rate, "predicted": None}]


def _along(seed: int, rate: float, steps: int) -> float:
    """The noise scale averaged over full-batch descent: ten looks."""
    x, y = standardised()
    model = small_tanh().build(seed * 1000)
    optimizer, found = torch.optim.SGD(model.parameters(), lr=rate), []
    for t in range(steps):
        if t % max(steps // 10, 1) == 0:
            found.append(_scale(_single(model)))
        optimizer.zero_grad()
        _loss(model, (x[:TRAIN], y[:TRAIN])).backward()
        optimizer.step()
    return float(np.mean(found))


def _fewest(batch: int, seed: int) -> tuple[float, float, float]:
    """(steps, err, rate) of the best rate, each rate with two seeds; looked at every hundredth part of the way."""
    x, y = standardised()
    world = small_tanh(batch=batch)
    starts = [seed * 1000 + k for k in range(2)]
    models = [world.build(s) for s in starts]
    f = StackedLoss(Snapshot(models[0], _loss, (x[:batch], y[:batch])))
    flat = stacked(models)
    w, lr = flat.repeat(len(RATES), 1), torch.tensor(RATES).repeat_interleave(2)[:, None]
    hit = np.full(len(w), np.inf)
    limit = 200_000 // batch if batch < TRAIN else 2000
    look = max(limit // 400, 1)
    draw = [torch.Generator().manual_seed(s) for s in starts]
    for t in range(1, limit + 1):
        at = torch.stack(
            [torch.randint(TRAIN, (batch,), generator=g) if batch < TRAIN else torch.arange(TRAIN) for g in draw]
        )
        at = at.repeat(len(RATES), 1)
        _, g = f.own(w, (x[at], y[at]))
        w = w - lr * g
        if t % look == 0:
            low = f.losses(w, (x[:TRAIN], y[:TRAIN])).numpy() < GOAL
            hit[low & ~np.isfinite(hit)] = t
            if np.isfinite(hit).all():
                break
    by = hit.reshape(len(RATES), 2)
    best = int(np.argmin(by.mean(1)))
    return float(by[best].mean()), float(np.hypot(by[best].std(ddof=1) / 2**0.5, look)), RATES[best]
