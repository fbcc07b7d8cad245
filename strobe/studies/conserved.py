"""Does gradient descent change the charges of a network's symmetries by exactly lr² Σ |g|², and the flow not at all?"""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from strobe.core.cards import study
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.core.snapshot import Snapshot
from strobe.laws.conserved_charges import charge_change, charge_drift_order
from strobe.observables.conserved_charges import balancedness, rescale_charges
from strobe.studies.docket import Docket, Progress, sized
from strobe.studies.images import standardised
from strobe.systems.deep_linear import deep_linear

QUESTION = "Does descent change the charges of symmetries by exactly lr² Σ |g|², and gradient flow not at all?"
RATES = (0.1, 0.05, 0.025, 0.0125)
SCALES = {"tiny": (60, 2.0), "small": (400, 10.0), "full": (1000, 40.0)}  # digits, training time
PAIRS = {"rescale": ("0", "2"), "balance": ("2", "3")}


@study(question="Does descent change the charges of symmetries by exactly lr² Σ |g|²?", ref="arXiv:2012.04728")
def conserved(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """A network 64-48-(ReLU)-32-10 on digits in double precision: 48 rectified units, then two linear layers.

    At four rates, for one training time, each rate's charges are predicted from its gradients alone and judged to 1e-10;
    gradient flow (no change) is the rival, which must fail; momentum is outside. The drift is of order 1 in lr.
    Recorded: a deep linear network from a balanced and a random start, its balancedness along training.
    Cost: seconds. Raises `BadOption`. Ref: Kunin and others, arXiv:2012.04728.
    """
    n, time = sized(scale, SCALES)
    world = deep_linear(init="random", start=0.05, dim=6, width=8, singular_values=(2.0, 1.0))
    panels: list[dict[str, Any]] = [{"title": "imbalance |Q|", "series": ["balancedness"], "unit": "θ²"},
              {"title": "training loss", "series": ["loss"], "log": True}]  # fmt: skip
    docket = Docket(world, out / "recorded", QUESTION, steps=800, seed=seed, panels=panels,
                    setup=lambda rec: rec.watch(balancedness, every="log", layers=["0", "1"]))  # fmt: skip
    x, y = standardised()
    data = (x[:n].double(), one_hot(y[:n], 10).double())
    drift: dict[str, list[float]] = {k: [] for k in PAIRS}
    fell, rows = True, []
    with docket:
        for which in PAIRS:
            docket.seal(f"order, {which}", charge_drift_order(rates=RATES), f"order in lr of the drift: {which}")
        for i, lr in enumerate((*RATES, 0.05)):
            momentum = 0.9 if i == len(RATES) else 0.0
            net = _net(seed)
            before = _charges(net)
            spent, losses = _descend(net, data, lr, max(round(time / lr), 4), momentum)
            name = f"lr = {lr:g}" + (", momentum 0.9" if momentum else "")
            for which in PAIRS:
                said = charge_change(lr=lr, spent=spent[which].tolist())
                docket.seal(f"{name} {which}", said, f"change of the charges, {which}, {name}")
                if lr == RATES[0]:
                    flow = replace(said, value=0 * said.value, law="", knobs={})
                    docket.seal(
                        f"flow {which}",
                        flow,
                        f"change of the charges, {which}, {name}, rival: gradient flow (must fail)",
                    )
            after = _charges(net)
            for which in PAIRS:
                change = Reading(after[which].value - before[which].value, 0.0, "θ²", {"rate": lr})
                why = "momentum: not plain descent" if momentum else ""
                docket.judge(f"{name} {which}", change, applies=not momentum, why=why)
                if lr == RATES[0]:
                    docket.judge(f"flow {which}", change)
                left = float(np.abs(change.value - lr**2 * spent[which].numpy()).max())
                if not momentum:
                    drift[which].append(float(np.linalg.norm(change.value)))
                rows.append({"run": name, "charge": which, "largest change": float(np.abs(change.value).max()),
                             "what lr² Σ|g|² leaves": left, "last loss": losses[-1]})  # fmt: skip
            fell &= bool(momentum) or bool((np.diff(losses) <= 0).all())
            if progress:
                progress("descents", i + 1, len(RATES) + 1)
        for which in PAIRS:
            logs = np.log(drift[which])
            slopes = np.diff(logs) / np.diff(np.log(RATES))
            spread = float(slopes.std(ddof=1) / len(slopes) ** 0.5)
            docket.judge(f"order, {which}", Reading(float(np.polyfit(np.log(RATES), logs, 1)[0]), spread, "order"), applies=fell,
                         why="" if fell else "the loss rose at some step of some rate")  # fmt: skip
    return docket.report({"descents": rows}, [
        "Du, Hu, Lee 2018, arXiv:1806.00900", "Arora, Cohen, Hazan 2018, arXiv:1802.06509", "Kunin et al. 2021, arXiv:2012.04728",
    ])  # fmt: skip


def _net(seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 32), nn.Linear(32, 10)).double()


def _charges(net: nn.Module) -> dict[str, Reading]:
    snap = Snapshot(deepcopy(net), None, None)  # type: ignore[arg-type]
    return {"rescale": rescale_charges(snap, layers=PAIRS["rescale"]),
            "balance": balancedness(snap, layers=PAIRS["balance"], whole=True)}  # fmt: skip


def _descend(
    net: nn.Sequential, data: tuple[Tensor, Tensor], lr: float, steps: int, momentum: float
) -> tuple[dict[str, Tensor], list[float]]:
    """Descend, and sum up what the gradients say of each charge; the weights are not looked at."""
    optimizer = torch.optim.SGD(net.parameters(), lr=lr, momentum=momentum)
    spent: dict[str, Any] = {"rescale": 0.0, "balance": 0.0}
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (net(data[0]) - data[1]).square().sum(1).mean() / 2
        loss.backward()
        g = [p.grad for p in net.parameters() if p.grad is not None]
        spent["rescale"] = spent["rescale"] + g[0].square().sum(1) + g[1].square() - g[2].square().sum(0)
        spent["balance"] = spent["balance"] + g[2] @ g[2].T + torch.outer(g[3], g[3]) - g[4].T @ g[4]
        optimizer.step()
        losses.append(loss.item())
    return spent, losses
