"""What does a network learn of its data first, and do its first weights become what it is sensitive to?"""

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
from strobe.core.system import System
from strobe.laws.feature_learning import neural_feature_ansatz, simplicity_bias
from strobe.observables.feature_ansatz import feature_ansatz
from strobe.studies.docket import Docket, Progress, sized
from strobe.studies.images import standardised

QUESTION = "What does a network learn of its data first, and do its first weights become what it is sensitive to?"
SCALES = {"tiny": (2, 20, 120), "small": (4, 60, 400), "full": (16, 200, 1500)}  # seeds, epochs, steps on clones
TRAIN, CLASSES = 1200, 10
SPREADS = (1.0, 0.1, 0.01)
APART = 0.1  # of the loss: then a clone is left (a second sample of real digits differs by up to 6%)
EVERY = 5  # steps between looks at the held-out loss


def three_layers(*, spread: float = 0.1, lr: float = 1e-3) -> System:
    """Digits to ten numbers by squared error, two hidden ReLU layers of 128, Adam; the first layer starts `spread` times as large."""
    x, y = standardised()
    target = nn.functional.one_hot(y, CLASSES).float()

    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Linear(64, 128, bias=False), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, CLASSES)
        )
        with torch.no_grad():
            net.get_parameter("0.weight").mul_(spread)
        return net

    def batch(seed: int, step: int) -> tuple[Tensor, Tensor]:
        at = torch.randint(TRAIN, (100,), generator=torch.Generator().manual_seed(seed * 1_000_003 + step))
        return x[at], target[at]

    def loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        return (model(data[0]) - data[1]).square().sum(1).mean()

    return System(
        "three_layers", "strobe.studies.features:three_layers", {"spread": spread, "lr": lr}, build, batch, loss,
        lambda seed: (x[:400], target[:400]), lambda m, rate: torch.optim.Adam(m.parameters(), lr=rate), lr,
    )  # fmt: skip


@study(question="What does a network learn of its data first?", ref="arXiv:2211.11567")
def features(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """Digits from three initial spreads, and digits beside two clones of them: of the right means, and of the right covariances.

    Sealed: the ansatz at small spreads (outside while the loss has not converged); the null, the same from the default start, which must
    fail; the order in which clones are left; and its null, a second sample of real digits in the clone's place. Cost: some seconds at
    "tiny", a minute at "small". Raises `BadOption`.
    """
    seeds, epochs, steps = sized(scale, SCALES)
    starts = [seed * 1000 + k for k in range(seeds)]
    rows: list[dict[str, Any]] = []
    with Docket(three_layers(), out / "recorded", QUESTION, steps=60, seed=seed) as docket:
        for spread in SPREADS:
            null = " (null: default start, must fail)" if spread == 1 else ""
            docket.seal(
                f"{spread}", neural_feature_ansatz(init=spread), f"cos(WᵀW, AGOP) at initial spread {spread:g}{null}"
            )
        docket.seal("order", simplicity_bias(classes=CLASSES), "how much later the clone with covariances is left")
        docket.seal(
            "null",
            simplicity_bias(classes=CLASSES),
            "the same with real digits for the isotropic clone: null (must fail)",
        )
        for i, spread in enumerate(SPREADS):
            got, converged, row = _ansatz(spread, starts, epochs)
            why = "" if converged or spread == 1 else "the training loss has not converged"
            docket.judge(f"{spread}", got, applies=converged or spread == 1, why=why)
            rows.append(row)
            if progress:
                progress("spreads", i + 1, len(SPREADS) + 1)
        curves, departures = clones(starts, steps, seed)
        for key, name in (("order", "isotropic"), ("null", "real again")):
            late, early = departures["gaussian"], departures[name]
            both = np.isfinite(late).all() and np.isfinite(early).all()
            ratio = late / early if both else np.ones(seeds)
            if key == "null" and not both:  # real digits in the clone's place are never left: the ratio is below one
                ratio = np.where(np.isfinite(late), late, steps) / steps
            read = Reading(float(ratio.mean()), float(ratio.std(ddof=1) / seeds**0.5 + EVERY / steps), "ratio")
            docket.judge(
                key,
                read,
                applies=both or key == "null",
                why="" if both else "a clone was not left within the steps looked at",
            )
        left = [
            {"clone": k, "left at step": float(np.mean(v)) if np.isfinite(v).all() else None}
            for k, v in departures.items()
        ]
        table = [{"step": int(t), **{k: float(v[i].mean()) for k, v in curves.items()}}
                 for i, t in enumerate(range(EVERY, steps + 1, EVERY)) if i % max(steps // EVERY // 10, 1) == 0]  # fmt: skip
        return docket.report(
            {"neural feature ansatz": rows, "clones": left, "held-out loss on real digits, trained on": table},
            ["Radhakrishnan et al. 2022, arXiv:2212.13881", "Refinetti et al. 2023, arXiv:2211.11567"], seeds=seeds,
        )  # fmt: skip


def _ansatz(spread: float, starts: list[int], epochs: int) -> tuple[Reading, bool, dict[str, Any]]:
    """(mean cosine over seeds, has the loss converged, a row of the table)."""
    world = three_layers(spread=spread)
    table, losses = [], []
    for s in starts:
        model = world.build(s)
        first = model.get_parameter("0.weight").detach().clone()
        optimizer = world.optimizer(model, world.lr)
        trace = []
        for t in range(epochs * TRAIN // 100):
            value = world.loss(model, world.batch(s, t))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            trace.append(float(value.detach()))
        snap = Snapshot(model, world.loss, world.probe(s))
        plain, learned = (feature_ansatz(snap, layers=["0"], initial=i) for i in (None, {"0": first}))
        table.append([*plain.value[0], learned.value[0, 0], plain.err[0, 0]])
        losses.append((trace[0], np.mean(trace[-50:])))
    at = np.array(table)
    begun, ended = np.array(losses).mean(0)
    err = float(np.hypot(at[:, 0].std(ddof=1) / len(starts) ** 0.5, at[:, 3].mean()))
    row = {"initial spread": spread, "cos(WᵀW, AGOP)": at[:, 0].mean(), "err": err, "with AGOP^½": at[:, 1].mean(),
           "W − W₀": at[:, 2].mean(), "last loss": ended}  # fmt: skip
    return Reading(float(at[:, 0].mean()), err, "cosine"), bool(ended < 0.05 * begun), row


def clones(starts: list[int], steps: int, seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """({data: held-out loss (looks, seeds)}, {clone: step at which it is left, by seed (inf: never)}); all trained side by side."""
    x, y = standardised()
    g = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(x), generator=g)
    train, again, held = order[:650], order[650:1300], order[1300:]
    label = y[train]
    sets = {"real": (x[train], label), "real again": (x[again], y[again])}
    for name in ("gaussian", "isotropic"):
        drawn = torch.empty_like(x[train])
        for c in range(CLASSES):
            mine = x[train][label == c]
            noise = torch.randn(int((label == c).sum()), x.shape[1], generator=g)
            cov = torch.cov(mine.T)
            size, axes = torch.linalg.eigh(cov)
            sphere = (cov.trace() / len(cov)).sqrt() * torch.eye(len(cov))
            root = (axes * size.clamp_min(0).sqrt()) @ axes.T if name == "gaussian" else sphere
            drawn[label == c] = mine.mean(0) + noise @ root
        sets[name] = (drawn, label)
    models = []
    for s in starts:
        torch.manual_seed(s)
        models.append(nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, CLASSES)))
    loss = lambda m, d: nn.functional.cross_entropy(m(d[0]), d[1])  # noqa: E731
    f = StackedLoss(Snapshot(models[0], loss, (x[held], y[held])))
    first = stacked(models)
    curves = {}
    for name, (a, b) in sets.items():
        w, looks = first.clone(), []
        draws = [torch.Generator().manual_seed(s) for s in starts]
        for t in range(1, steps + 1):
            at = torch.stack([torch.randint(len(a), (50,), generator=d) for d in draws])
            _, grad = f.own(w, (a[at], b[at]))
            w = w - 0.05 * grad
            if t % EVERY == 0:
                looks.append(f.losses(w, (x[held], y[held])).tolist())
        curves[name] = np.array(looks)
    left = {}
    for name in ("real again", "isotropic", "gaussian"):
        far = curves[name] > (1 + APART) * curves["real"]
        left[name] = np.where(far.any(0), (far.argmax(0) + 1.0) * EVERY, np.inf)
    return curves, left
