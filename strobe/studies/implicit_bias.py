"""Does the start, or the loss, choose the solution among many, as theory says: which, in which order, and when?"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import linprog

from strobe.core.cards import study
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.laws.diagonal_net import alternating_gradient_flow, diagonal_net_bias, risings, separated
from strobe.laws.max_margin import max_margin
from strobe.studies.docket import Docket, Progress, sized
from strobe.systems.deep_linear import deep_linear

QUESTION = "Does the start choose the solution, the order and the time, as theory says?"
SCALES = {  # starts α of sparse recovery, data sets of stepwise rises, clouds of max margin, steps of it
    "tiny": ((1e-2, 1.0), 2, 2, 20_000),
    "small": ((1e-3, 1e-2, 0.1, 1.0, 10.0), 6, 6, 200_000),
    "full": ((1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0), 20, 20, 1_000_000),
}
TINY_START, THRESHOLD, APART, UNTIL = 1e-12, 0.02, 0.15, 60.0


@study(question="Does the start choose the solution, the order and the time, as theory says?", ref="arXiv:2002.09277")
def implicit_bias(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """Diagonal networks from many starts, stepwise rises from a tiny start, and logistic regression on separable data.

    Everything of a kind is trained side by side in one array. Sealed before: the end of each start, with the interpolator of least |β|₂
    for the smallest start and that of least |β|₁ for the largest, rivals that must fail; order, times and plateaus of the rises, with
    the rival in which each coordinate rises as if alone; the growth of the max-margin weights and their loss, with the
    least-squares direction for rival.
    Recorded: a deep linear network, for the strip. Cost: under a minute at "small". Raises `BadOption`.
    Ref: Woodworth and others, arXiv:2002.09277; Kunin and others, arXiv:2506.06489; Soudry and others, arXiv:1710.10345.
    """
    alphas, sets, clouds, steps = sized(scale, SCALES)
    world = deep_linear(dim=4, width=4, singular_values=(2.0, 1.0), start=1e-3)
    docket, tell = Docket(world, out / "recorded", QUESTION, steps=600, seed=seed), progress or (lambda *_: None)
    tables: dict[str, list[dict[str, Any]]] = {}
    with docket:
        tables["starts"] = _starts(docket, alphas, seed)
        tell("implicit bias", 1, 3)
        tables["rises"] = _rises(docket, sets, seed)
        tell("implicit bias", 2, 3)
        tables["margins"] = _margins(docket, clouds, steps, seed)
        tell("implicit bias", 3, 3)
    return docket.report(tables, [
        "Woodworth et al. 2020, arXiv:2002.09277", "Kunin et al. 2025, arXiv:2506.06489", "Soudry et al. 2018, arXiv:1710.10345",
    ])  # fmt: skip


def _starts(docket: Docket, alphas: tuple[float, ...], seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng((seed, 1))
    n, d = 20, 40
    X, truth = rng.standard_normal((n, d)), np.zeros(d)
    truth[:3] = 1, -1, 1
    y = X @ truth
    two = X.T @ np.linalg.solve(X @ X.T, y)
    both = linprog(np.ones(2 * d), A_eq=np.hstack([X, -X]), b_eq=y).x
    one = both[:d] - both[d:]
    laws = [diagonal_net_bias(x=X.tolist(), y=y.tolist(), alpha=a) for a in alphas]
    for a, said in zip(alphas, laws, strict=True):
        docket.seal(f"start {a}", said, f"β from a start of {a:g}")
    rivals = {"least |β|₂": (min(alphas), two), "least |β|₁": (max(alphas), one)}
    for name, (a, value) in rivals.items():
        text = f"β from a start of {a:g}, rival: {name} (must fail)"
        docket.seal(name, replace(laws[alphas.index(a)], value=value, law="", knobs={}), text)
    ends, left, took = descend_diagonal(X, y, np.array(alphas))
    rows = []
    for a, said, beta, r in zip(alphas, laws, ends, left, strict=True):
        done = bool(r < 1e-3 * np.linalg.norm(y))
        why = "" if done else f"a residual of {r:.1e} is left"
        docket.judge(f"start {a}", Reading(beta, 0.0, "β", {"steps": took}), applies=done, why=why)
        for name, (at, _) in rivals.items():
            if at == a:
                docket.judge(name, Reading(beta, 0.0, "β"), applies=done, why=why)
        rows.append({"α": a, "|β − law| / |β|": float(np.linalg.norm(beta - said.value) / np.linalg.norm(said.value)),
                     "|β|₁": float(np.abs(beta).sum()), "to truth": float(np.linalg.norm(beta - truth)),
                     "to least |β|₂": float(np.linalg.norm(beta - two)), "to least |β|₁": float(np.linalg.norm(beta - one)),
                     "residual left": float(r)})  # fmt: skip
    return rows


def descend_diagonal(
    X: np.ndarray, y: np.ndarray, alphas: np.ndarray, *, most: int = 100_000
) -> tuple[np.ndarray, np.ndarray, int]:
    """w± of β = w₊² − w₋² from every start at once, by descent on ½ mean squares, until all residuals are small."""
    n, d = X.shape
    up = np.repeat(alphas[:, None], d, 1)
    down = up.copy()
    size = np.linalg.norm(X, 2) ** 2 / n
    rate = 0.06 / (size * (1 + alphas[:, None] ** 2))
    for step in range(1, most + 1):
        g = (y - (up * up - down * down) @ X.T) @ X / n
        up, down = up + rate * 2 * g * up, down - rate * 2 * g * down
        if step % 500 == 0 and np.abs(y - (up * up - down * down) @ X.T).max() < 5e-7 * np.linalg.norm(y):
            break
    beta = up * up - down * down
    return beta, np.abs(y - beta @ X.T).max(1), step


def _rises(docket: Docket, sets: int, seed: int) -> list[dict[str, Any]]:
    n, d = 60, 10
    half = np.linalg.cholesky(0.3 * np.ones((d, d)) + 0.7 * np.eye(d))
    data = []
    for s in range(sets):
        rng = np.random.default_rng((seed, 2, s))
        X = rng.standard_normal((n, d)) @ half.T
        beta = np.zeros(d)
        beta[:4] = 2, -1.3, 0.8, -0.45
        data.append((X, X @ beta + 0.1 * rng.standard_normal(n)))
    alone = []
    for s, (X, y) in enumerate(data):
        ask = {
            "x": X.tolist(),
            "y": y.tolist(),
            "alpha": TINY_START,
            "threshold": THRESHOLD,
            "apart": APART,
            "until": UNTIL,
        }
        for of in ("order", "times", "losses"):
            docket.seal(f"{of} {s}", alternating_gradient_flow(of=of, **ask), f"{of} of the rises, data {s}")
        who = docket.sealed[f"order {s}"].value.astype(int)
        alone.append(np.log(THRESHOLD**0.5 / TINY_START) / (2 * np.abs(X.T @ y / n))[who])
    every = np.concatenate(alone)
    rival = {"value": every, "tol": 0.1 * every, "law": "", "knobs": {}, "seal": ""}
    docket.seal(
        "alone", docket.sealed["times 0"], "times, all data, rival: each coordinate as if alone (must fail)", **rival
    )
    times, losses, rate = _watch_rises(data)
    rows, saws = [], []
    for s, (X, y) in enumerate(data):
        events = risings(X, y, TINY_START, THRESHOLD, UNTIL)
        kept = separated(events, APART, UNTIL)
        who = [e[1] for e in kept]
        saw = times[s][who]
        met = bool(np.isfinite(saw).all())
        why = "" if met else "a coordinate did not rise in the time it was trained for"
        read = Reading(saw if met else None, np.full(len(who), rate), "lr · step")
        docket.judge(f"times {s}", read, applies=met, why=why)
        saws.append(saw)
        docket.judge(
            f"order {s}", Reading(np.array(who)[np.argsort(saw)].astype(float), 0.0, "coordinate"), applies=met, why=why
        )
        ends = [min(e[0], UNTIL) for e in events[1:]] + [UNTIL]
        later = {e[1]: (e[0], end) for e, end in zip(events, ends, strict=True)}  # the plateau is read late on it
        rest = np.array([losses[s][int((0.25 * later[j][0] + 0.75 * later[j][1]) / rate)] for j in who])
        docket.judge(f"losses {s}", Reading(rest, 0.0, "½ mean square"))
        rows += [{"data": s, "coordinate": j, "time, law": e[0], "time": float(times[s][j]), "ratio": float(times[s][j] / e[0]),
                  "plateau, law": e[2], "plateau": float(x)} for j, e, x in zip(who, kept, rest, strict=True)]  # fmt: skip
    whole = np.concatenate(saws)
    docket.judge(
        "alone", Reading(whole, np.full(len(whole), rate), "lr · step"), applies=bool(np.isfinite(whole).all())
    )
    return rows


def _watch_rises(
    data: list[tuple[np.ndarray, np.ndarray]], *, rate: float = 2e-3
) -> tuple[np.ndarray, np.ndarray, float]:
    """Descend all from the tiny start; when each |β_i| first passes the threshold, and every loss."""
    X, y = np.stack([a for a, _ in data]), np.stack([b for _, b in data])
    n, d = X.shape[1:]
    G, h, c = X.transpose(0, 2, 1) @ X / n, (X * y[..., None]).mean(1), (y * y).mean(1)
    up = np.full((len(data), d), TINY_START)
    down, seen = up.copy(), np.full((len(data), d), np.inf)
    steps = int(UNTIL / rate) + 2
    losses = np.empty((len(data), steps))
    for k in range(steps):
        beta = up * up - down * down
        Gb = (G @ beta[..., None])[..., 0]
        losses[:, k] = (c - 2 * (h * beta).sum(1) + (beta * Gb).sum(1)) / 2
        new = (np.abs(beta) > THRESHOLD) & np.isinf(seen)
        seen[new] = k * rate
        g = 2 * rate * (h - Gb)
        up, down = up + g * up, down - g * down
    return seen, losses, rate


def _margins(docket: Docket, clouds: int, steps: int, seed: int) -> list[dict[str, Any]]:
    n, d, lr = 20, 10, 1.0
    rng = np.random.default_rng((seed, 3))
    y = np.sign(rng.standard_normal((clouds, n)))
    X = rng.standard_normal((clouds, n, d)) * 0.7
    X[:, :, 0] += 2 * y
    for s in range(clouds):
        ask = {"x": X[s].tolist(), "y": y[s].tolist()}
        said = docket.seal(f"growth {s}", max_margin(**ask), f"dw / d ln t, cloud {s}")
        docket.seal(f"loss {s}", max_margin(of="loss", **ask), f"lr · t · L(t), cloud {s}")
        least = np.linalg.lstsq(X[s], y[s])[0]
        least *= np.linalg.norm(said.value) / np.linalg.norm(least)
        rival = {"value": least, "law": "", "knobs": {}, "seal": ""}
        docket.seal(f"rival {s}", said, f"dw / d ln t, cloud {s}, rival: along least squares (must fail)", **rival)
    at = sorted({steps // 100, steps // 10, steps})
    kept = _descend_margins(X * y[..., None], lr, at)
    rows = []
    for s in range(clouds):
        hard = docket.sealed[f"growth {s}"].value
        growth, loss, w = (k[s] for k in kept[steps])
        late = bool(loss < 1e-3 * np.log(2))
        why = "" if late else f"the loss is still {loss:.2g}"
        docket.judge(f"growth {s}", Reading(growth, 0.0, "1"), applies=late, why=why)
        docket.judge(f"rival {s}", Reading(growth, 0.0, "1"), applies=late, why=why)
        docket.judge(f"loss {s}", Reading(float(lr * steps * loss), 0.0, "1"), applies=late, why=why)
        row = {"cloud": s, "1 − cos(w, ŵ) at last": float(1 - w @ hard / np.linalg.norm(w) / np.linalg.norm(hard))}
        for t in at:
            row[f"|growth − ŵ| / |ŵ| at {t:g}"] = float(np.linalg.norm(kept[t][0][s] - hard) / np.linalg.norm(hard))
        rows.append(row | {"lr t L / |ŵ|² at last": float(lr * steps * loss / (hard @ hard))})
    return rows


def _descend_margins(Z: np.ndarray, lr: float, at: list[int]) -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """All clouds at once: (growth over the last doubling, loss, w) after each of these numbers of steps."""
    w, half, out = np.zeros((len(Z), Z.shape[2])), {}, {}
    for t in range(1, at[-1] + 1):
        m = (Z @ w[..., None])[..., 0]
        w = w + lr * ((1 / (1 + np.exp(m)))[:, None] @ Z)[:, 0] / Z.shape[1]
        if 2 * t in at:
            half[2 * t] = w.copy()
        if t in at:
            loss = np.log1p(np.exp(-(Z @ w[..., None])[..., 0])).mean(1)
            out[t] = ((w - half[t]) / np.log(2), loss, w.copy())
    return out
