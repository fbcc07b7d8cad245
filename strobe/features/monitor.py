"""A concept watched at all sites at once: one score, a threshold with a promised rate of false alarms, and an alarm for what leaks."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from strobe.core.capture import Activations
from strobe.core.data import two_kinds
from strobe.core.errors import BadOption
from strobe.core.tap import tap
from strobe.features.concept import Concept
from strobe.features.concept_table import ConceptTable
from strobe.features.methods import METHODS, Shelf
from strobe.numerics.auc import auc
from strobe.numerics.bake_off import bake_off, folds_of
from strobe.numerics.probes import logistic_path
from strobe.numerics.rfm import Span

STACK = 1e-2  # penalty of the logistic regression that joins the sites


@dataclass(frozen=True, slots=True, eq=False)
class Monitor:
    """One concept a site, joined by weights: score = Σ weight (concept score − middle) / spread + bias.

    threshold: of the promised rate of false alarms `rate`, for examples drawn like those it was fitted on; caught: share of the concept's
    examples above it, held out, with its 95% interval; auroc, err: held out, of the joined score; by_site: of each site alone.
    """

    concepts: tuple[Concept, ...]
    weight: Tensor
    middle: Tensor
    spread: Tensor
    bias: float
    threshold: float
    rate: float
    caught: tuple[float, float, float]
    auroc: float
    err: float
    by_site: dict[str, tuple[float, float]]

    def score(self, rows: Activations | dict[str, Tensor]) -> Tensor:
        """(n,) of activations at the monitor's sites."""
        parts = torch.stack([c.score(rows[c.site]) for c in self.concepts], -1)
        return ((parts - self.middle.to(parts)) / self.spread.to(parts)) @ self.weight.to(parts) + self.bias

    @contextmanager
    def watch(self, model: nn.Module, *, alarm: Callable[[int, float], None] | None = None) -> Iterator["Watch"]:
        """Score each example of every forward pass inside the block, at its last token; `alarm(call, score)` above the threshold."""
        seen = Watch()
        with tap(model, [c.site for c in self.concepts]) as got:

            def after(module: nn.Module, args: Any, out: Any) -> None:
                rows = {s: x[:, -1] if x.ndim == 3 else x for s, x in got.items()}
                now = self.score(rows)
                seen.scores.append(now)
                for value in now[now > self.threshold].tolist():
                    seen.alarms.append((len(seen.scores) - 1, value))
                    if alarm is not None:
                        alarm(len(seen.scores) - 1, value)

            handle = model.register_forward_hook(after)
            try:
                yield seen
            finally:
                handle.remove()

    def drift(self, moments: Sequence[Activations], labels: Any) -> list[dict[str, float]]:
        """The monitor as it is, at other moments (checkpoints, branches): area, its error, shares of false alarms and of the caught.

        A fresh fit at the same moment (`fit_monitor`) says whether the concept went or only its direction. Raises `BadOption`.
        """
        found = []
        for m in moments:
            y = two_kinds(labels, len(m.example))
            score = self.score(m).numpy()
            area, err = auc(score, y)
            above = score > self.threshold
            found.append(
                {"auroc": area, "err": err, "false": float(above[~y].mean()), "caught": float(above[y].mean())}
            )
        return found

    def against(self, judge: Any, acts: Activations, labels: Any, *, seed: int = 0) -> dict[str, tuple[float, float]]:
        """The monitor beside a judge of the same fresh examples: areas of both with errors, and `gain`, monitor − judge, paired.

        judge (n,): its score of each example, larger for the concept: of what the model wrote, say, or another model's opinion.
        Err: bootstrap over examples. Raises `BadOption` for another number of scores, or one that is not finite.
        """
        y = two_kinds(labels, len(acts.example))
        said = np.asarray(judge, float)
        if said.shape != y.shape or not np.isfinite(said).all():
            raise BadOption(f"the judge gives one finite score an example, {len(y)} of them, got shape {said.shape}")
        scores = np.stack([self.score(acts).double().numpy(), said])
        got = bake_off(scores, y, np.zeros(len(y), int), acts.example.numpy(), rng=np.random.default_rng(seed))
        rows = [*zip(got.value, got.draws, strict=True), (got.value[0] - got.value[1], got.draws[0] - got.draws[1])]
        return {
            k: (float(v), float(np.nanstd(d))) for k, (v, d) in zip(("monitor", "judge", "gain"), rows, strict=True)
        }

    def masks(self, acts: Activations, ids: Sequence[int], weight: float = 0.0) -> dict[str, Any]:
        """The plain edit that leaves training examples with the concept out of a fork: `run.fork(step, edits=[monitor.masks(acts, ids)])`.

        acts: the examples, one row each, as the model at hand reads them; ids, as the loop gives them to `rec.weigh`; weight: what each
        above the threshold counts. Raises `BadOption` for another number of ids, and where none is above.
        """
        score = self.score(acts)
        if len(ids) != len(score):
            raise BadOption(f"there are {len(score)} rows of activations and {len(ids)} ids: one for each row")
        above = [str(int(i)) for i, on in zip(ids, (score > self.threshold).tolist(), strict=True) if on]
        if not above:
            raise BadOption("no example is above the monitor's threshold: there is nothing to leave out")
        return {"act": "examples", "weights": dict.fromkeys(above, float(weight))}

    def leaks(self, bound: float, bound_err: float = 0.0) -> str | None:
        """A sentence where the monitor knows more than the text can say: an area above the Bayes bound by three standard errors."""
        err = math.hypot(self.err, bound_err)
        if self.auroc <= bound + 3 * err:
            return None
        return (
            f"Leak alarm: the monitor's area {self.auroc:.3f} is above the bound {bound:.3f} by "
            f"{(self.auroc - bound) / max(err, 1e-12):.1f} standard errors: what it reads is not in the text, or the bound is wrong."
        )


@dataclass(slots=True)
class Watch:
    """What a monitor saw: scores (batch,) of each forward pass, and the passes above the threshold."""

    scores: list[Tensor] = field(default_factory=list)
    alarms: list[tuple[int, float]] = field(default_factory=list)


def fit_monitor(
    acts: Activations, labels: Any, table: ConceptTable, *, rate: float = 0.05, groups: Sequence[Any] | None = None,
    folds: int = 5, seed: int = 0,
) -> Monitor:  # fmt: skip
    """The best method of the bake-off at each site, joined by a logistic regression on scores of examples that the parts have not seen.

    Threshold: the ⌈(m + 1)(1 − rate)⌉-th lowest held-out score of m examples without the concept, so that a fresh one is above it with
    probability at most `rate` (split conformal; exact for exchangeable examples). The area of the joined score is held out at both
    levels: the regression is fitted on the other folds.
    Raises `BadOption` where there are too few examples without the concept for the rate.
    Ref: stacking: Wolpert 1992; the threshold: Vovk et al. 2005, section 4.
    """
    if not 0 < rate < 1:
        raise BadOption(f"rate is the share of false alarms, between 0 and 1, got {rate}")
    y = two_kinds(labels, len(acts.example))
    sites = list(dict.fromkeys(r.site for r in table.rows))
    best = {s: max((r for r in table.rows if r.site == s), key=lambda r: r.auroc) for s in sites}
    _, names = np.unique(
        acts.example.numpy() if groups is None else np.asarray([str(g) for g in groups]), return_inverse=True
    )
    fold = folds_of(y, names, folds, np.random.default_rng(seed))
    signs = torch.where(torch.from_numpy(y), 1.0, -1.0)
    held = np.zeros((len(y), len(sites)))
    for j, site in enumerate(sites):
        shelf = Shelf(Span.of(acts[site]), signs, seed)
        for f in np.unique(fold):
            train, test = (torch.from_numpy(np.flatnonzero(m)) for m in (fold != f, fold == f))
            held[test.numpy(), j] = METHODS[best[site].method].fitted(shelf, train, best[site].setting).score(test)
    middle, spread = held.mean(0), held.std(0) + 1e-12
    flat = torch.from_numpy((held - middle) / spread)
    joined = np.zeros(len(y))
    for f in np.unique(fold):
        v, b = logistic_path(flat[fold != f], signs[fold != f], [STACK])
        joined[fold == f] = (flat[fold == f] @ v[0] + b[0]).numpy()
    off = np.sort(joined[~y])
    k = math.ceil((len(off) + 1) * (1 - rate))
    if k > len(off):
        raise BadOption(
            f"a rate of {rate:g} needs {math.ceil(1 / rate) - 1} examples without the concept, there are {len(off)}: give more, or "
            "a higher rate"
        )
    v, b = logistic_path(flat, signs, [STACK])
    caught = int((joined[y] > off[k - 1]).sum())
    area, err = auc(joined, y)
    return Monitor(
        tuple(table.concept(s, best[s].method) for s in sites), v[0], torch.from_numpy(middle), torch.from_numpy(spread), float(b[0]),
        float(off[k - 1]), rate, wilson(caught, int(y.sum())), area, err, {s: auc(held[:, j], y) for j, s in enumerate(sites)},
    )  # fmt: skip


def wilson(hits: int, n: int, z: float = 1.96) -> tuple[float, float, float]:
    """A share with its 95% interval. Ref: Wilson 1927."""
    p = hits / n
    middle, half = (
        (p + z * z / (2 * n)) / (1 + z * z / n),
        z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)),
    )
    return p, max(middle - half, 0.0), min(middle + half, 1.0)
