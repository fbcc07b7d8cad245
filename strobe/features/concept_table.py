"""What a bake-off says: the table, and in sentences whether the concept is there, where, and whether it is a line."""

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from strobe.core.errors import BadOption, near
from strobe.features.concept import Concept
from strobe.features.methods import METHODS, Fitted, Shelf
from strobe.numerics.bake_off import Areas

LINEAR = ("means", "ridge", "logistic", "lda", "pca")
CLEAR = 0.01  # area: what a method that bends must gain over the lines to count


@dataclass(frozen=True, slots=True)
class Row:
    """One method at one site: held-out area under the ROC curve with its 95% interval, and how well halves of the data agree on it."""

    site: str
    method: str
    auroc: float
    low: float
    high: float
    stability: float
    setting: dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class ConceptTable:
    """The table, and what it says. `concept()` gives the best, `concept(site, method)` another.

    there: whether labels dealt at random do as well (p); auroc: of the best, corrected for having chosen it (value, low, high); linear:
    True, False, or None where the data cannot tell; linearity: share of the AGOP of a kernel of bandwidth 1
    that the mean gradient makes: 0.9 and more for lines, below 0.8 for what has both signs, but 0.9 for noise too: not a test, the gain is;
    rank: directions that the gradients of RFM have.
    """

    rows: tuple[Row, ...]
    p: float
    null: float
    auroc: tuple[float, float, float]
    there: bool
    linear: bool | None
    gain: tuple[float, float, float]
    linearity: float
    rank: float
    best: Row
    as_good: tuple[Row, ...]
    leaks: tuple[str, ...]
    make: Callable[[str, str, Mapping[str, float]], Concept]

    def row(self, site: str, method: str) -> Row:
        """Raises `BadOption` with near misses."""
        for r in self.rows:
            if (r.site, r.method) == (site, method):
                return r
        raise BadOption(
            f"no {method!r} at {site!r} was compared; {near(f'{site} {method}', [f'{r.site} {r.method}' for r in self.rows])}"
        )

    def concept(self, site: str | None = None, method: str | None = None) -> Concept:
        """Fitted on all examples. Default: the best method at its site, at another site the best there."""
        mine = [r for r in self.rows if (site is None or r.site == site) and (method is None or r.method == method)]
        row = self.best if site is None and method is None else max(mine, key=lambda r: r.auroc, default=None)
        row = row if row is not None else self.row(str(site), str(method))
        return self.make(row.site, row.method, row.setting)

    def said(self) -> str:
        """What it says, in sentences."""
        b, (a, low, high) = self.best, self.auroc
        if not self.there:
            text = [
                f"Not there: labels dealt at random reach {self.null:.2f} in one of twenty deals, the best of the table {b.auroc:.2f} "
                f"(p = {self.p:.2g})."
            ]
        else:
            others = len(self.as_good) - 1
            text = [
                f"There: {b.method} at {b.site}, area {a:.3f} ({low:.3f} to {high:.3f}) on held-out examples, p = {self.p:.2g}."
            ]
            text += (
                [f"{others} other {'entries of the table are' if others > 1 else 'entry of the table is'} as good."]
                if others
                else []
            )
            gained = (
                f"the kernels gain {self.gain[0]:+.3f} ({self.gain[1]:+.3f} to {self.gain[2]:+.3f}) over the best line"
            )
            text.append({
                True: f"Linear: {gained}.", False: f"Not linear: {gained}.", None: f"Linear or not, these examples cannot tell: {gained}.",
            }[self.linear])  # fmt: skip
        return " ".join([*text, *self.leaks])


def judged(
    rows: tuple[Row, ...], got: Areas, shelves: dict[str, Shelf], null: np.ndarray, true: float, leaks: tuple[str, ...]
) -> ConceptTable:
    """The verdict of areas `got`, in the order of `rows`; `null` and `true`: the largest areas of dealt and of true labels."""
    order = int(got.value.argmax())
    best, draws = rows[order], got.draws
    p = (1 + int((null >= true).sum())) / (1 + len(null)) if len(null) else math.nan
    there = bool(p <= 0.05 or not len(null)) and best.low > 0.5

    def lead(i: int, j: int) -> tuple[float, float, float]:
        low, high = np.nanquantile(draws[i] - draws[j], [0.025, 0.975])
        return float(got.value[i] - got.value[j]), float(low), float(high)

    as_good = tuple(r for i, r in enumerate(rows) if i == order or lead(order, i)[1] <= 0)
    lines, bends = ([i for i, r in enumerate(rows) if (r.method in LINEAR) == want] for want in (True, False))
    gain, linear = (math.nan,) * 3, None
    if lines and bends:
        gain = lead(max(bends, key=lambda i: got.value[i]), max(lines, key=lambda i: got.value[i]))
        linear = False if gain[1] > CLEAR else True if gain[2] < 5 * CLEAR else None
    shelf, all_rows = shelves[best.site], torch.arange(len(shelves[best.site].y))
    bend = next((r.setting for r in rows if (r.site, r.method) == (best.site, "rfm")), {})
    linearity = METHODS["kernel"].fitted(shelf, all_rows, {"bandwidth": 1.0}).linearity
    rank = METHODS["rfm"].fitted(shelf, all_rows, bend).rank

    def make(site: str, method: str, setting: Mapping[str, float]) -> Concept:
        fitted = METHODS[method].fitted(shelves[site], torch.arange(len(shelves[site].y)), dict(setting))
        return concept_of(
            shelves[site], fitted, site, {"method": method, "setting": dict(setting), "examples": len(shelf.y)}
        )

    low = got.chosen
    if leaks:
        warnings.warn(leaks[0], stacklevel=4)
    return ConceptTable(
        rows, p, float(np.quantile(null, 0.95)) if len(null) else math.nan, low, there, linear if there else None, gain,
        linearity, rank, best, as_good, leaks, make,
    )  # fmt: skip


def concept_of(shelf: Shelf, fitted: Fitted, site: str, facts: dict[str, Any]) -> Concept:
    """A method's directions in the network's own coordinates, with the units a dose is given in."""
    span, on = shelf.span, shelf.y > 0
    E = span.lift(fitted.directions)
    Q, R = torch.linalg.qr(E.T.double())
    directions = (Q * R.diagonal().sign()).T.float()
    mean = span.mean.float()
    along = (span.Z @ fitted.directions[0]) / fitted.directions[0].norm()
    if float(along[on].mean()) < float(along[~on].mean()) and not fitted.machine:
        directions, along = -directions, -along
    within = torch.cat([along[on] - along[on].mean(), along[~on] - along[~on].mean()])
    weight = span.lift(fitted.weight[None])[0].float() if fitted.weight is not None else None
    score = fitted.score(torch.arange(len(shelf.y)))
    cut = float(torch.as_tensor(score)[on].mean() + torch.as_tensor(score)[~on].mean()) / 2
    return Concept(
        site, directions, mean, norm=float(span.rows.norm(dim=1).mean()), gap=abs(float(along[on].mean() - along[~on].mean())),
        spread=float(within.std()), weight=weight, bias=0.0 if weight is None else fitted.bias - float(weight.double() @ span.mean),
        machine=fitted.machine_rows(span), bandwidth=fitted.bandwidth, threshold=cut, facts=facts,
    )  # fmt: skip
