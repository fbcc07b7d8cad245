"""Two heuristics from one start, told apart by barriers alone; and whether all networks learn the same digits first."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.spatial.distance import squareform
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy

from strobe.core.cards import study
from strobe.core.prediction import Prediction
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.core.snapshot import Snapshot
from strobe.core.stacked import StackedLoss, stacked
from strobe.numerics.learning_order import Order, learning_order
from strobe.studies.docket import Docket, Progress, sized
from strobe.studies.images import drawn
from strobe.systems.shortcut_digits import shortcut_digits

QUESTION = "Do barriers tell two heuristics apart, and do all networks learn the same digits first?"
SCALES = {
    "tiny": (8, 4, 4),
    "small": (8, 40, 12),
    "full": (16, 60, 24),
}  # runs of two heuristics, epochs, nets of a family
SHARED = 3  # epochs before the runs part
Data = tuple[Tensor, Tensor]


@study(
    question="Do barriers tell two heuristics apart, and do all networks learn the same digits first?",
    ref="arXiv:2211.08422",
)
def shared_order(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """C11: runs from one start of three epochs, on digits with a broken code or on destroyed digits with a true one, and their barriers.
    C12: families of networks on digits, which examples each has right after every epoch (`learning_order`).

    Sealed: barriers (on digits with true codes) across heuristics are ten times those within, and two clusters of them are the
    heuristics (adjusted Rand index 1); the mean learning epochs of a wide perceptron and of another family rank-correlate by 0.7 or
    more. Shown beside: random labels that all nets share; labels of each net's own are the null, which must fail.
    Err: jackknife over nets; of the ratio over runs. Cost: a minute at "small". Raises `BadOption`.
    """
    runs, epochs, nets = sized(scale, SCALES)
    world = shortcut_digits()
    with Docket(world, out / "recorded", QUESTION, steps=200, seed=seed) as docket:
        docket.seal("ratio", _above("barriers across heuristics / within (decades)", 1.0, "arXiv:2211.08422"))
        docket.seal("rand", _above("adjusted Rand index of two clusters by barriers", 0.999, "arXiv:2211.08422"))
        docket.seal(
            "apart",
            _above("barriers across / within, null: one heuristic (decades, must fail)", 1.0, "arXiv:2211.08422"),
        )
        for family in ("perceptron 32", "convolution", "linear"):
            docket.seal(
                family,
                _above(f"rank correlation of learning epochs, perceptron 128-64 and {family}", 0.7, "arXiv:1905.10854"),
            )
        docket.seal(
            "null",
            _above(
                "rank correlation of learning epochs, null: labels of each net's own (must fail)",
                0.3,
                "arXiv:1905.10854",
            ),
        )
        barriers, arms, answers = _heuristics(runs, epochs, seed)
        within, across = _split(barriers, arms)
        docket.judge("ratio", _ratio(within, across))
        docket.judge("rand", Reading(_rand(barriers, arms), 0.0, "", {"runs": len(arms)}))
        one = np.arange(len(arms)) // 2 % 2
        same = arms == arms[0]
        docket.judge("apart", _ratio(*_split(barriers[same][:, same], one[same])))
        if progress:
            progress("parts", 1, 2)
        orders = _families(nets, max(epochs * 25 // 40, 4), seed)
        wide = orders["perceptron 128-64"].learned.mean(0)
        for family in ("perceptron 32", "convolution", "linear"):
            docket.judge(family, _correlation(wide, orders[family].learned))
        own = orders["random labels, each its own"]
        docket.judge("null", Reading(own.rho, own.err, ""))
        if progress:
            progress("parts", 2, 2)
    rows = [
        {"family": k, "accuracy then": o.accuracy, "variance / independent": o.ratio, "unanimous": o.unanimous[0],
         "if independent": o.unanimous[1], "rank correlation within": o.rho, "err": o.err} for k, o in orders.items()
    ]  # fmt: skip
    inside = [float(_split(barriers[arms == a][:, arms == a], arms[arms == a])[0].mean()) for a in (0, 1)]
    two = [{"barrier within, digits": inside[0], "within, code": inside[1], "across": float(across.mean()),
            "right in conflict, digit runs": answers[0],
            "right in conflict, code runs": answers[1]}]  # fmt: skip
    return docket.report({"two heuristics": two, "who learns what when": rows}, [
        "Lubana et al. 2023, arXiv:2211.08422", "Hacohen, Choshen and Weinshall 2020, arXiv:1905.10854",
    ])  # fmt: skip


def _above(of: str, value: float, ref: str) -> Prediction:
    return Prediction(of, value, 0.0, side="above", ref=ref)


def _loss(model: nn.Module, data: Data) -> Tensor:
    return cross_entropy(model(data[0]), data[1])


def descend(
    models: list[nn.Module],
    data: list[Data],
    epochs: int,
    lr: float,
    batch: int,
    seed: int,
    see: Callable[[Tensor], None] | None = None,
) -> tuple[StackedLoss, Tensor]:
    """SGD on copies side by side, each on data and in an order of its own: the loss and the weights (copies, P)."""
    f = StackedLoss(Snapshot(models[0], _loss, None))
    w = stacked(models)
    gens = [torch.Generator().manual_seed(1000 * seed + i) for i in range(len(models))]
    x, y = torch.stack([d[0] for d in data]), torch.stack([d[1] for d in data])
    own = torch.arange(len(models))[:, None]
    for _ in range(epochs):
        order = torch.stack([torch.randperm(x.shape[1], generator=g) for g in gens])
        for i in range(0, x.shape[1] - batch + 1, batch):
            part = order[:, i : i + batch]
            w = w.sub_(lr * f.own(w, (x[own, part], y[own, part]))[1])
        if see is not None:
            see(w)
    return f, w


def answers_of(f: StackedLoss, model: nn.Module, w: Tensor, x: Tensor) -> Tensor:
    """Classes (copies, n)."""
    with torch.no_grad():
        return vmap(lambda p: functional_call(model, p, (x,)))(f.split(w)).argmax(-1)


def _heuristics(runs: int, epochs: int, seed: int) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    digit = shortcut_digits(reliable=0.1)
    base = digit.build(seed)
    arms = np.arange(runs) % 2
    f, w = descend([base], [shortcut_digits(reliable=0.5).facts["rows"]], SHARED, 0.1, 16, seed)
    with torch.no_grad():
        for p, at in zip(base.parameters(), f.split(w[0]).values(), strict=True):
            p.copy_(at)
    each = [shortcut_digits(destroyed=True, split_seed=0, shuffle=i) if a else digit for i, a in enumerate(arms)]
    f, w = descend([base] * runs, [x.facts["rows"] for x in each], 2 * epochs, 0.2, 16, seed + 1)
    probe, (x, y) = digit.probe(0), digit.facts["conflict"]
    right = (answers_of(f, base, w, x) == y).float().mean(1).numpy()
    t = torch.linspace(0, 1, 9)[:, None]
    found = np.zeros((runs, runs))
    for i in range(runs):
        for j in range(i):
            line = f.losses((1 - t) * w[i] + t * w[j], probe)
            found[i, j] = found[j, i] = float((line - ((1 - t[:, 0]) * line[0] + t[:, 0] * line[-1])).max())
    return found, arms, (float(right[arms == 0].mean()), float(right[arms == 1].mean()))


def _split(barriers: np.ndarray, arms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    i, j = np.tril_indices(len(arms), -1)
    same = arms[i] == arms[j]
    return barriers[i, j][same], barriers[i, j][~same]


def _ratio(within: np.ndarray, across: np.ndarray) -> Reading:
    a, b = np.maximum(across, 1e-6), np.maximum(within, 1e-6)
    err = np.hypot(a.std(ddof=1) / a.mean() / len(a) ** 0.5, b.std(ddof=1) / b.mean() / len(b) ** 0.5) / np.log(10)
    return Reading(float(np.log10(a.mean() / b.mean())), float(err), "decades")


def _rand(barriers: np.ndarray, arms: np.ndarray) -> float:
    """Adjusted Rand index of two clusters (average linkage) with the arms."""
    got = fcluster(linkage(squareform(np.maximum(barriers, 0), checks=False), "average"), 2, "maxclust")
    table = np.array([[((got == g) & (arms == a)).sum() for a in (0, 1)] for g in (1, 2)])
    pairs = lambda x: (x * (x - 1) / 2).sum()  # noqa: E731
    chance = pairs(table.sum(1)) * pairs(table.sum(0)) / pairs(np.array([len(arms)]))
    return float((pairs(table) - chance) / ((pairs(table.sum(1)) + pairs(table.sum(0))) / 2 - chance))


def _perceptron(*widths: int) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        parts: list[nn.Module] = [nn.Flatten()]
        for a, b in zip((64, *widths), widths, strict=False):
            parts += [nn.Linear(a, b), nn.ReLU()]
        return nn.Sequential(*parts, nn.Linear(widths[-1] if widths else 64, 10))

    return make


def _convolution() -> nn.Module:
    return nn.Sequential(
        nn.Unflatten(1, (1, 8)), nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(96, 10),
    )  # fmt: skip


def _families(nets: int, epochs: int, seed: int) -> dict[str, Order]:
    x, y = drawn()
    train, test = (x[:1200], y[:1200]), (x[1200:], y[1200:])
    gen = torch.Generator().manual_seed(seed + 77)
    wild = [(x[:600], torch.randint(10, (600,), generator=gen)) for _ in range(nets)]
    asked: dict[str, tuple[Callable[[], nn.Module], list[Data], list[Data], int, float]] = {
        "perceptron 128-64": (_perceptron(128, 64), [train] * nets, [test] * nets, epochs, 0.05),
        "perceptron 32": (_perceptron(32), [train] * nets, [test] * nets, epochs, 0.05),
        "convolution": (_convolution, [train] * nets, [test] * nets, epochs, 0.05),
        "linear": (_perceptron(), [train] * nets, [test] * nets, epochs, 0.05),
        "random labels, shared": (_perceptron(256, 128), [wild[0]] * nets, [wild[0]] * nets, 2 * epochs, 0.1),
        "random labels, each its own": (_perceptron(256, 128), wild, wild, 2 * epochs, 0.1),
    }
    return {k: _order(*v, seed) for k, v in asked.items()}


def _order(
    make: Callable[[], nn.Module], data: list[Data], judged: list[Data], epochs: int, lr: float, seed: int
) -> Order:
    with torch.random.fork_rng(devices=[]):
        models = []
        for i in range(len(data)):
            torch.manual_seed(1000 * seed + i)
            models.append(make())
    found: list[np.ndarray] = []
    truth = torch.stack([d[1] for d in judged])
    f = StackedLoss(Snapshot(models[0], _loss, None))
    descend(
        models,
        data,
        epochs,
        lr,
        32,
        seed,
        lambda w: found.append((answers_of(f, models[0], w, judged[0][0]) == truth).numpy()),
    )
    return learning_order(np.stack(found, 1))


def _correlation(wide: np.ndarray, learned: np.ndarray) -> Reading:
    value = float(spearmanr(wide, learned.mean(0))[0])
    left = [float(spearmanr(wide, np.delete(learned, i, 0).mean(0))[0]) for i in range(len(learned))]
    n = np.random.default_rng(0)
    again = [float(spearmanr(wide[k], learned.mean(0)[k])[0]) for k in n.integers(len(wide), size=(200, len(wide)))]
    err = float(np.hypot(np.sqrt((len(left) - 1) * np.var(left)), np.std(again)))
    return Reading(value, err, "", {"nets": len(learned), "examples": len(wide)})
