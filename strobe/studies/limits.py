"""Does a network of finite width do what infinite ones do: its kernel, the order or chaos of its signals, its lazy training?"""

import copy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strobe.core.cards import study
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.core.snapshot import Snapshot
from strobe.laws.lazy_training import lazy_scale, linearised_training
from strobe.laws.order_chaos import CHAOS, order_chaos
from strobe.laws.wide_kernels import closed_form, kernel_fluctuation, kernel_spread, wide_kernel
from strobe.numerics.signal_propagation import fixed_length, slope
from strobe.observables.kernel_alignment import kernel_alignment
from strobe.observables.tangent_kernel import ntk
from strobe.studies.docket import Docket, Progress, sized
from strobe.studies.images import standardised
from strobe.studies.wide_networks import EXAMPLES, Scaled, Wide, lone_kernels, parity_digits

QUESTION = "Does a network of finite width do what infinitely wide ones do: its kernel, its signals, its lazy training?"
SCALES: dict[str, dict[str, Any]] = {  # networks of each width; of a deep signal; of a lazy training; starts of deep ReLU networks
    "tiny": {"nets": {16: 40, 64: 60}, "inputs": 6, "deep": 300, "copies": 6, "layers": 6, "seeds": 2, "hidden": 64, "starts": 500},
    "small": {"nets": {32: 200, 128: 200, 512: 600}, "inputs": 16, "deep": 1000, "copies": 32, "layers": 12, "seeds": 4,
              "hidden": 256, "starts": 4000},
    "full": {"nets": {32: 1000, 128: 1000, 512: 1000, 2048: 500}, "inputs": 16, "deep": 2000, "copies": 64, "layers": 24, "seeds": 8,
             "hidden": 1024, "starts": 20_000},
}  # fmt: skip
NETWORKS: dict[str, dict[str, Any]] = {
    "relu": {"weight": 2.0, "bias": 0.0, "depth": 3},
    "erf": {"weight": 1.5, "bias": 0.1, "depth": 2},
}
REGIMES = {"order": (1.3, 0.1), "edge": (1.76, 0.05), "chaos": (3.0, 0.05)}  # of tanh: weight and bias variances
ALPHAS = (0.1, 1.0, 10.0, 30.0, 100.0)
LAZY = ALPHAS[2:]
DEEP = ((2, 32), (4, 64), (8, 64), (8, 32))  # depth and width of ReLU networks; the last is outside
UNSEEN = 30  # digits that a lazy training does not see
STEPS = (1, 3, 10, 30, 100, 300)


@study(question="Does a network of finite width do what infinitely wide ones do?", ref="arXiv:1806.07572")
def limits(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """Kernels of random networks against the closed forms; signals in deep ones against their maps; training at five output scales.

    Inputs are digits, the targets of training their parity. Nulls: a closed form of one layer fewer, a correlation that stays what it
    was, and the linearised prediction of a network in the rich regime; each must fail. Cost: a minute at "small". Raises `BadOption`.
    """
    size = sized(scale, SCALES)
    panels: list[dict[str, Any]] = [
        {"title": "training loss", "series": ["loss"], "unit": "loss", "log": True},
        {"title": "alignment of the tangent kernel with the targets", "series": ["kernel_alignment"], "unit": "cosine"},
    ]
    world = parity_digits(width=size["hidden"], alpha=1.0)
    docket = Docket(world, out / "recorded", QUESTION, steps=100, seed=seed, panels=panels,
                    setup=lambda rec: rec.watch(kernel_alignment, every="log"))  # fmt: skip
    with docket:
        tables = {"one network's kernel against the closed form": _kernels(docket, size, seed)}
        if progress:
            progress("parts", 1, 3)
        tables["signals in deep tanh networks"] = _signals(docket, size, seed)
        if progress:
            progress("parts", 2, 3)
        tables["one input's kernel over random ReLU networks"] = _fluctuations(docket, size, seed)
        tables |= _lazy(docket, size, seed)
        if progress:
            progress("parts", 3, 3)
    return docket.report(tables, [
        "Jacot et al. 2018, arXiv:1806.07572", "Lee et al. 2018, arXiv:1711.00165", "Lee et al. 2019, arXiv:1902.06720",
        "Poole et al. 2016, arXiv:1606.05340", "Schoenholz et al. 2017, arXiv:1611.01232", "Chizat et al. 2019, arXiv:1812.07956",
    ])  # fmt: skip


def distance(a: np.ndarray, b: np.ndarray) -> float:
    """Relative Frobenius distance of a from b."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def _kernels(docket: Docket, size: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    x, nets = standardised()[0][: size["inputs"]], size["nets"]
    widest, rows = max(nets), []
    for act, how in NETWORKS.items():
        depth = how["depth"]
        rest: dict[str, Any] = {"weight": how["weight"], "bias": how["bias"], "activation": act}
        forms = {of: closed_form(inputs=x.tolist(), depth=depth, of=of, **rest) for of in ("ntk", "nngp")}
        given: dict[str, Any] = {"inputs": x.tolist(), "width": widest, "nets": nets[widest], **rest}
        for of in forms:
            docket.seal(
                f"{act} {of}",
                wide_kernel(depth=depth, of=of, **given),
                f"distance of the mean {of} of {nets[widest]} {act} networks",
            )
        fewer = closed_form(inputs=x.tolist(), depth=depth - 1, **rest)
        docket.seal(
            f"{act} null",
            wide_kernel(depth=depth - 1, **given),
            f"the same of {act}, ntk, from one layer fewer: null (must fail)",
        )
        docket.seal(f"{act} order", kernel_spread(widths=list(nets)), f"order in width of one {act} network's distance")
        apart: dict[int, np.ndarray] = {}
        for width, copies in nets.items():
            found: dict[str, list[np.ndarray]] = {"ntk": [], "nngp": []}
            for i in range(copies):
                net = Wide(64, *[width] * depth, 1, seed=1_000_000 * seed + 1000 * width + i, **rest)
                found["ntk"].append(ntk(Snapshot(net, None, x)).value)  # type: ignore[arg-type]
                with torch.no_grad():
                    h = net.hidden(x).double()
                found["nngp"].append((how["weight"] * h @ h.T / width + how["bias"]).numpy())
            row: dict[str, Any] = {"network": f"{act}, {depth} hidden layers", "width": width, "networks": copies}
            for of, kernels in found.items():
                mean = np.mean(kernels, 0)
                alone = np.array([distance(k, forms[of]) for k in kernels])
                row |= {f"one {of}": float(np.sqrt(np.mean(alone**2))), f"mean {of}": distance(mean, forms[of])}
                if of == "ntk":
                    apart[width] = alone
                if width == widest:
                    docket.judge(
                        f"{act} {of}", Reading(distance(mean, forms[of]), 1e-5, "relative", {"networks": copies})
                    )
                    if of == "ntk":
                        docket.judge(f"{act} null", Reading(distance(mean, fewer), 1e-5, "relative"))
            rows.append(row | {"allowed for the mean": 4 / (width * copies) ** 0.5 + 0.01})
        docket.judge(f"{act} order", _order(apart))
    return rows


def _order(apart: dict[int, np.ndarray]) -> Reading:
    """Slope of the root mean square distance in width, and its error from the spread over the networks of each width."""
    x = np.log(list(apart))
    logs = [np.log(np.mean(d**2)) / 2 for d in apart.values()]
    errs = np.array([np.std(d**2, ddof=1) / np.mean(d**2) / 2 / len(d) ** 0.5 for d in apart.values()])
    lever = (x - x.mean()) / np.square(x - x.mean()).sum()
    return Reading(float(lever @ logs), float(np.linalg.norm(lever * errs)), "order", {"widths": list(apart)})


def _signals(docket: Docket, size: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    rows, width, layers, start = [], size["deep"], size["layers"], 0.5
    for name, (weight, bias) in REGIMES.items():
        how: dict[str, Any] = {
            "activation": "tanh",
            "weight": weight,
            "bias": bias,
            "layers": layers,
            "correlation": start,
        }
        for of in ("length", "stretch", "correlation"):
            docket.seal(f"{name} {of}", order_chaos(of=of, **how), f"{of} in deep layers, tanh, {name}")
        if name == "order":
            still = order_chaos(of="correlation", **how)
            docket.seal("null", still, "correlation, tanh, order: null, it stays what it was (must fail)",
                        value=np.full(layers, start), law="", knobs={})  # fmt: skip
        q = fixed_length(activation="tanh", weight=weight, bias=bias)
        chi = slope(q, activation="tanh", weight=weight)
        lengths, stretches, curves = (
            np.array(v)
            for v in zip(*_propagate(size["copies"], width, layers, q, start, weight, bias, seed), strict=True)
        )
        docket.judge(f"{name} length", _mean(lengths, "variance"))
        docket.judge(f"{name} stretch", _mean(stretches, "squared"))
        curve = Reading(
            curves.mean(0), curves.std(0, ddof=1) / len(curves) ** 0.5, "correlation", {"networks": len(curves)}
        )
        docket.judge(
            f"{name} correlation", curve, applies=chi <= CHAOS, why="" if chi <= CHAOS else f"chaos: χ₁ = {chi:.3g}"
        )
        if name == "order":
            docket.judge("null", curve)
        said = np.asarray(docket.sealed[f"{name} correlation"].value)
        rows.append({
            "regime": name, "weight": weight, "bias": bias, "q*": q, "measured q": float(lengths.mean()), "χ₁": chi,
            "measured χ₁": float(stretches.mean()), "last correlation": float(said[-1]), "measured": float(curves[:, -1].mean()),
            "largest miss of the curve": float(np.abs(curves.mean(0) - said).max()),
            "of one network": float(np.abs(curves - said).max()),
        })  # fmt: skip
    return rows


def _mean(values: np.ndarray, unit: str) -> Reading:
    return Reading(
        float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5), unit, {"networks": len(values)}
    )


def _propagate(
    copies: int, width: int, layers: int, q: float, c: float, weight: float, bias: float, seed: int
) -> Iterator[tuple[float, float, list[float]]]:
    """Of each network: the length in the deeper half, the mean squared stretch there, and the correlation after each layer."""
    g = torch.Generator().manual_seed(seed)
    for _ in range(copies):
        z = (q * width) ** 0.5 * torch.linalg.qr(torch.randn(width, 2, generator=g))[
            0
        ].T  # exactly of that length and angle
        z[1] = c * z[0] + (1 - c * c) ** 0.5 * z[1]
        small = torch.randn(width, generator=g)
        lengths, stretch, curve = [], [], []
        for layer in range(layers):
            w = torch.randn(width, width, generator=g) * (weight / width) ** 0.5
            h = z.tanh()
            after = w @ ((1 - h[0] ** 2) * small)
            z = h @ w.T + bias**0.5 * torch.randn(width, generator=g)
            if layer >= layers // 2:
                lengths.append(float(z.square().mean()))
                stretch.append(float(after.square().sum() / small.square().sum()))
            small = after / after.norm()
            curve.append(float((z[0] @ z[1]) / (z[0].norm() * z[1].norm())))
        yield float(np.mean(lengths)), float(np.mean(stretch)), curve


def _fluctuations(docket: Docket, size: dict[str, Any], seed: int) -> list[dict[str, Any]]:
    rows = []
    for depth, width in DEEP[:-1]:
        docket.seal(
            f"{depth} x {width}",
            kernel_fluctuation(widths=[width] * depth),
            f"E Θ² / (E Θ)², {depth} layers of {width}",
        )
    one = kernel_fluctuation(widths=[64])
    docket.seal("shallow", one, "E Θ² / (E Θ)², 8 layers of 64: null, width alone tells (must fail)")
    rival = {"value": float(np.exp(5 / 8)), "tol": 0.05 * float(np.exp(5 / 8)), "law": "", "knobs": {}}
    docket.seal("five", one, "E Θ² / (E Θ)², 8 layers of 64: rival, exp(5 depth / width) (must fail)", **rival)
    for depth, width in DEEP:
        k = lone_kernels(depth, width, size["starts"], seed)
        parts = np.array_split(k, 20)
        ratio = lambda q: float(np.mean(q**2) / np.mean(q) ** 2)  # noqa: E731
        out = np.array([ratio(np.concatenate([p for j, p in enumerate(parts) if j != i])) for i in range(20)])
        reading = Reading(
            ratio(k), float(np.sqrt(19 / 20 * np.square(out - out.mean()).sum())), "ratio", {"networks": len(k)}
        )
        if (depth, width) != DEEP[-1]:
            docket.judge(f"{depth} x {width}", reading)
        if (depth, width) == (8, 64):
            docket.judge("shallow", reading)
            docket.judge("five", reading)
        told = docket.sealed.get(f"{depth} x {width}")
        rows.append({"layers": depth, "width": width, "predicted": told.value if told else "outside", "measured": reading.value,
                     "its error": reading.err, "exp(5 depth / width)": float(np.exp(5 * depth / width))})  # fmt: skip
    return rows


def _lazy(docket: Docket, size: dict[str, Any], seed: int) -> dict[str, list[dict[str, Any]]]:
    x, labels = (t[: EXAMPLES + UNSEEN] for t in standardised())
    x, y = x.double(), (2.0 * (labels % 2) - 1).double()
    seen, unseen, target = x[:EXAMPLES], x[EXAMPLES:], y[:EXAMPLES]
    for of in ("weights", "kernel"):
        docket.seal(
            f"lazy {of}", lazy_scale(alphas=LAZY, of=of), f"order in the output scale of the change of the {of}"
        )
    moved: dict[str, list[list[float]]] = {"weights": [], "kernel": []}
    rows, curves = [], []
    for i in range(size["seeds"]):
        net = Wide(64, size["hidden"], 1, seed=1000 * seed + i, activation="erf").double()
        snap = Snapshot(net, None, seen)  # type: ignore[arg-type]
        kernel, cross = ntk(snap).value, ntk(replace(snap, data=unseen), against=seen).value
        lr = EXAMPLES / float(np.linalg.eigvalsh(kernel)[-1])  # half of what is stable
        said = {"seen": linearised_training(kernel=kernel, targets=target.tolist(), lr=lr, steps=STEPS),
                "unseen": linearised_training(kernel=kernel, targets=target.tolist(), lr=lr, steps=STEPS, across=cross)}  # fmt: skip
        ideal = closed_form(inputs=seen.tolist(), depth=1, activation="erf").tolist()
        far = linearised_training(kernel=ideal, targets=target.tolist(), lr=lr, steps=STEPS).value
        if i == 0:
            for alpha in (10.0, 100.0):
                for k, v in said.items():
                    docket.seal(f"{alpha} {k}", v, f"outputs on {k} digits, output scale {alpha:g}, steps 1 to 300")
            docket.seal(
                "rich",
                said["seen"],
                "outputs on seen digits, output scale 0.1: null, the linearised network (must fail)",
            )
        start = torch.cat([p.detach().flatten() for p in net.parameters()]).norm()
        change: dict[str, list[float]] = {"weights": [], "kernel": []}
        for alpha in ALPHAS:
            model = Scaled(copy.deepcopy(net), alpha)
            loss, outputs = _descend(model, seen, unseen, target, lr / alpha**2)
            moves = torch.cat(
                [(p - q).detach().flatten() for p, q in zip(model.net.parameters(), net.parameters(), strict=True)]
            ).norm()
            after = ntk(Snapshot(model.net, None, seen)).value  # type: ignore[arg-type]
            change["weights"].append(float(moves / start))
            change["kernel"].append(distance(after, kernel))
            if i == 0:
                if alpha in (10.0, 100.0):
                    for k in said:
                        docket.judge(f"{alpha} {k}", Reading(outputs[k], np.full(outputs[k].shape, 1e-9), "output"))
                elif alpha == ALPHAS[0]:
                    docket.judge("rich", Reading(outputs["seen"], np.full(outputs["seen"].shape, 1e-9), "output"))
                gap = {k: float(np.abs(outputs[k] - said[k].value).max()) for k in said}
                curves.append({"output scale": alpha, "largest miss, seen": gap["seen"], "unseen": gap["unseen"],
                               "seen, from the closed form of infinite width": float(np.abs(outputs["seen"] - far).max())})  # fmt: skip
                cosine = kernel_alignment(Snapshot(model.net, None, seen), to=kernel, centred=False)  # type: ignore[arg-type]
                rows.append({"output scale": alpha, "last loss": loss, "change of weights": change["weights"][-1],
                             "change of the kernel": change["kernel"][-1], "cosine with the first kernel": cosine.value})  # fmt: skip
        for of, found in change.items():
            moved[of].append(found)
    for of, all_seeds in moved.items():
        lazy = np.log(np.array(all_seeds)[:, -len(LAZY) :])
        docket.judge(f"lazy {of}", _mean(np.polyfit(np.log(LAZY), lazy.T, 1)[0], "order"))
    return {
        "lazy and rich training, first network": rows,
        "outputs of the first network, six steps from 1 to 300": curves,
    }


def _descend(model: Scaled, seen: Tensor, unseen: Tensor, y: Tensor, lr: float) -> tuple[float, dict[str, np.ndarray]]:
    """Plain descent; the last loss, and the outputs at STEPS."""
    optimizer = torch.optim.SGD(model.net.parameters(), lr=lr)
    outputs: dict[str, list[np.ndarray]] = {"seen": [], "unseen": []}
    for step in range(max(STEPS) + 1):
        out = model(seen).squeeze(-1)
        loss = (out - y).square().mean() / 2
        if step in STEPS:
            outputs["seen"].append(out.detach().numpy())
            with torch.no_grad():
                outputs["unseen"].append(model(unseen).squeeze(-1).numpy())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return loss.item(), {k: np.stack(v) for k, v in outputs.items()}
