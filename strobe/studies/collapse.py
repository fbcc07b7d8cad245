"""Do free features collapse to a simplex with the loss, norms and angles of the closed form, and real ones towards it?"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from strobe.core.cards import study
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.core.snapshot import Snapshot
from strobe.laws.feature_collapse import feature_collapse
from strobe.observables.neural_collapse import LABELS, neural_collapse
from strobe.studies.docket import Docket, Progress, sized
from strobe.studies.images import standardised
from strobe.systems.digits import digits

QUESTION = "Do free features collapse to the simplex of the closed form, and real ones towards it?"
SCALES: dict[
    str, tuple[list[tuple[int, int, int, float]], int]
] = {  # (classes, examples of each, width, decay), epochs
    "tiny": ([(4, 5, 8, 5e-3), (4, 5, 8, 0.3)], 5),
    "small": ([(4, 10, 16, 5e-3), (10, 10, 32, 5e-3), (10, 10, 9, 5e-4), (3, 20, 8, 0.1), (4, 10, 16, 0.3)], 150),
    "full": (
        [
            (4, 10, 16, 5e-3),
            (10, 10, 32, 5e-3),
            (10, 10, 9, 5e-4),
            (3, 20, 8, 0.1),
            (4, 10, 16, 0.3),
            (30, 10, 64, 1e-3),
        ],
        600,
    ),
}
AT = (0, 1, 3, 10, 30, 100, 150, 300, 600)
Free = tuple[np.ndarray, np.ndarray, float, float]


@study(question="Do free features collapse to the simplex of the closed form?", ref="arXiv:2105.02375")
def collapse(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """Features and classifier optimised together from a random start; then a perceptron on digits, watched.

    Sealed for each setting: the loss, the norms of class means and of rows, the cosines between means; nulls: the untrained start's
    cosines, and the same law without the ½ in its decay, which must fail. Above a decay of 1/K everything is to vanish.
    Of the perceptron the four numbers of `neural_collapse` are shown along training, beside an untrained one: a trend, without
    a verdict, for the law does not speak of it.
    Cost: seconds at "tiny", a quarter of a minute at "small". Raises `BadOption`.
    """
    settings, epochs = sized(scale, SCALES)
    rows: list[dict[str, Any]] = []
    with Docket(digits(flipped=0.0), out / "recorded", QUESTION, steps=200, seed=seed) as docket:
        for i, (k, n, width, decay) in enumerate(settings):
            name, ask = f"{k} classes, decay {decay:g}", {"classes": k, "weight_decay": decay, "width": width}
            free = decay < 1 / k
            for of in ("loss", "norm", "cosine") if free else ("loss", "norm"):
                docket.seal(f"{i} {of}", feature_collapse(of=of, **ask), f"{of}, {name}")
            if free:
                twice = feature_collapse(of="norm", **(ask | {"weight_decay": 2 * decay}))
                docket.seal(
                    f"{i} rival", twice, f"norm, {name}, rival: decay without the ½ (must fail)", law="", knobs={}
                )
                same = docket.sealed[f"{i} cosine"]
                docket.seal(
                    f"{i} null",
                    same,
                    f"cosine, {name}, null: untrained features (must fail)",
                    law="",
                    knobs={},
                    seal="",
                )
            begun, done = optimise(k, n, width, decay, 0, seed), optimise(k, n, width, decay, 3000, seed)
            rows.append({"classes": k, "width": width, "decay": decay} | _judged(docket, i, k, free, begun, done))
            if progress:
                progress("settings", i + 1, len(settings) + 1)
        trend = _digits(epochs, seed)
    return docket.report({"free features": rows, "a perceptron on digits (no verdict)": trend}, [
        "Papyan, Han, Donoho 2020, arXiv:2008.08186", "Zhu et al. 2021, arXiv:2105.02375",
    ])  # fmt: skip


def _judged(docket: Docket, i: int, k: int, free: bool, begun: Free, done: Free) -> dict[str, Any]:
    means, w, loss, slope = done
    applies, why = slope < 1e-6, "" if slope < 1e-6 else f"the gradient is still {slope:.1e}"
    norms = np.concatenate([np.linalg.norm(means, axis=1), np.linalg.norm(w, axis=1)])
    docket.judge(f"{i} loss", Reading(loss, 0.0, "nats"), applies=applies, why=why)
    worst = norms[np.abs(norms - docket.sealed[f"{i} norm"].value).argmax()]
    docket.judge(f"{i} norm", Reading(float(worst), 0.0, "θ", {"worst of": len(norms)}), applies=applies, why=why)
    row = {"loss": loss, "loss, law": docket.sealed[f"{i} loss"].value, "norm, worst": float(worst),
           "norm, law": docket.sealed[f"{i} norm"].value, "cosine, worst": None, "untrained": None, "gradient": slope}  # fmt: skip
    if free:
        docket.judge(f"{i} rival", Reading(float(norms.mean()), 0.0, "θ"), applies=applies, why=why)
        for key, (m, *_) in (("cosine", done), ("null", begun)):
            c = _cosines(m)
            far = float(c[np.abs(c + 1 / (k - 1)).argmax()])
            docket.judge(f"{i} {key}", Reading(far, 0.0, "cosine", {"worst of": len(c)}), applies=applies, why=why)
            row["cosine, worst" if key == "cosine" else "untrained"] = far
    return row


def _cosines(means: np.ndarray) -> np.ndarray:
    m = means - means.mean(0)
    unit = m / np.linalg.norm(m, axis=1)[:, None]
    return np.asarray((unit @ unit.T)[~np.eye(len(m), dtype=bool)])


def optimise(k: int, n: int, width: int, decay: float, steps: int, seed: int) -> Free:
    """(class means (K, d), rows of the classifier (K, d), loss, norm of the gradient) after so many steps of L-BFGS."""
    g = torch.Generator().manual_seed(seed)
    h = torch.randn(k * n, width, generator=g, dtype=torch.float64, requires_grad=True)
    w = torch.randn(k, width, generator=g, dtype=torch.float64, requires_grad=True)
    y = torch.arange(k).repeat_interleave(n)

    def loss() -> Tensor:
        return cross_entropy(h @ w.T, y) + decay / 2 * (w.square().sum() + h.square().sum() / n)

    if steps:
        how: dict[str, Any] = {"max_iter": steps, "tolerance_grad": 1e-9, "tolerance_change": 1e-16, "history_size": 20}
        optimizer = torch.optim.LBFGS([h, w], line_search_fn="strong_wolfe", **how)

        def closure() -> Tensor:
            optimizer.zero_grad()
            value = loss()
            value.backward()
            return value

        optimizer.step(closure)
    grads = torch.autograd.grad(value := loss(), [h, w])
    means = h.detach().reshape(k, n, width).mean(1)
    return (
        means.numpy(),
        w.detach().numpy(),
        float(value.detach()),
        float(torch.cat([x.reshape(-1) for x in grads]).norm()),
    )


def _digits(epochs: int, seed: int) -> list[dict[str, Any]]:
    x, y = standardised()
    data = (x[:1000], y[:1000])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
        rows = []
        for epoch in range(epochs + 1):
            if epoch in AT or epoch == epochs:
                got = neural_collapse(Snapshot(net, _loss, data, epoch), classifier="4")
                row = {"epoch": epoch, "loss": float(_loss(net, data).detach())}
                rows.append(
                    row | dict(zip(LABELS, got.value.tolist(), strict=True)) | {"err of NC1": float(got.err[0])}
                )
            for part in torch.randperm(1000).split(100):
                optimizer.zero_grad()
                _loss(net, (data[0][part], data[1][part])).backward()
                optimizer.step()
    return rows


def _loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
    return cross_entropy(model(data[0]), data[1])
