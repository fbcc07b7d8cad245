"""The methods of a bake-off, each with its settings, on rows in their own span: fitted, chosen, judged in the same way."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strobe.numerics.bake_off import areas
from strobe.numerics.probes import (
    difference_of_means,
    discriminant,
    logistic_path,
    principal_difference,
    ridge_path,
)
from strobe.numerics.rfm import Iterate, Span, rfm

PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)  # of ridge, in units of the mean square of a row
LIGHT = (1e-4, 1e-3, 1e-2)  # of logistic
BANDWIDTHS = (0.3, 1.0, 3.0)  # in root mean squared distances
ITERATIONS = 3
ROUGH = 32  # eigenvectors of a metric while settings are tried and halves compared; a fit takes as many as there are
KEPT = 8  # directions of a metric that a concept carries

Setting = dict[str, float]


@dataclass(frozen=True, slots=True, eq=False)
class Shelf:
    """Rows in their span, and the label of each: 1 or −1."""

    span: Span
    y: Tensor
    seed: int = 0

    _last: list[tuple[Tensor, Span]] = field(default_factory=list, repr=False)

    def part(self, index: Tensor) -> tuple[Tensor, Tensor]:
        return self.span.Z[index], self.y[index]

    def span_of(self, index: Tensor) -> Span:
        """The span of some rows; that of the last ones asked for is kept, with the factors that machines of one bandwidth share."""
        if not self._last or not torch.equal(self._last[0][0], index):
            self._last[:] = [(index, self.span.part(index))]
        return self._last[0][1]


@dataclass(frozen=True, eq=False)
class Fitted:
    """A method's score, z·weight + bias or that of a kernel machine, and its directions (p, k) in coordinates of the span, towards on."""

    shelf: Shelf
    weight: Tensor | None = None
    bias: float = 0.0
    machine: Iterate | None = None

    @cached_property
    def directions(self) -> Tensor:
        """(p, k), made when asked for: of a machine the leading ones of its gradients."""
        if self.machine is None:
            assert self.weight is not None
            return self.weight[None]
        found = self.machine.agop
        E = found.directions[0][:KEPT]
        return torch.cat([-E[:1], E[1:]]) if float(E[0] @ found.mean[0]) < 0 else E

    @property
    def linearity(self) -> float:
        """Share of the mean squared gradient that the mean gradient makes."""
        return 1.0 if self.machine is None else float(self.machine.agop.linearity[0])

    @property
    def rank(self) -> float:
        """Directions that the gradients have: (Σ w)² / Σ w² of their weights."""
        if self.machine is None:
            return 1.0
        w = self.machine.agop.weights[0]
        return float(w.sum() ** 2 / w.square().sum().clamp_min(1e-30))

    def score(self, index: Tensor) -> np.ndarray:
        """Of rows of the shelf."""
        Z = self.shelf.span.Z[index]
        if self.machine is not None:
            return self.machine.predict(Z)[0].double().numpy()
        assert self.weight is not None
        return np.asarray((Z @ self.weight).double().numpy() + self.bias)

    @property
    def bandwidth(self) -> float:
        return 1.0 if self.machine is None else self.machine.bandwidth

    def machine_rows(self, span: Span) -> dict[str, Tensor]:
        """The kernel's rows for activations less the mean: through M^(1/2) where a metric was learned, else the rows themselves."""
        m = self.machine
        if m is None:
            return {}
        if m.root is None:
            return {"rows": span.lift(m.span.Z).float(), "alpha": m.alpha[0].float()}
        return {
            "metric": span.lift(m.root[0]).float(),
            "rows": (m.span.Z @ m.root[0].T).float(),
            "alpha": m.alpha[0].float(),
        }


@dataclass(frozen=True, slots=True)
class Method:
    """tried(shelf, train, ask): each setting with its scores of the rows `ask`; fitted(shelf, rows, setting, rough)."""

    tried: Callable[[Shelf, Tensor, Tensor], Iterable[tuple[Setting, np.ndarray]]]
    fitted: Callable[..., Fitted]


def _plain(make: Callable[[Shelf, Tensor, Tensor], Tensor]) -> Method:
    def fitted(shelf: Shelf, index: Tensor, setting: Setting, rough: int | None = None) -> Fitted:
        return Fitted(shelf, make(shelf, *shelf.part(index)))

    return Method(lambda shelf, train, ask: [({}, np.zeros(len(ask)))], fitted)


def _ridge_tried(shelf: Shelf, train: Tensor, ask: Tensor) -> Iterable[tuple[Setting, np.ndarray]]:
    Z, y = shelf.part(train)
    for p, v in zip(PENALTIES, ridge_path(Z, y[None], PENALTIES)[:, 0], strict=True):
        yield {"penalty": p}, (shelf.span.Z[ask] @ v).numpy()


def _ridge(shelf: Shelf, index: Tensor, setting: Setting, rough: int | None = None) -> Fitted:
    Z, y = shelf.part(index)
    return Fitted(shelf, ridge_path(Z, y[None], [setting.get("penalty", 0.1)])[0, 0])


def _logistic_tried(shelf: Shelf, train: Tensor, ask: Tensor) -> Iterable[tuple[Setting, np.ndarray]]:
    v, b = logistic_path(*shelf.part(train), LIGHT)
    for i, p in enumerate(LIGHT):
        yield {"penalty": p}, (shelf.span.Z[ask] @ v[i] + b[i]).numpy()


def _logistic(shelf: Shelf, index: Tensor, setting: Setting, rough: int | None = None) -> Fitted:
    v, b = logistic_path(*shelf.part(index), [setting.get("penalty", 1e-3)])
    return Fitted(shelf, v[0], float(b[0]))


def _machines(
    shelf: Shelf, index: Tensor, L: float, centred: bool, iterations: int, rough: int | None = None
) -> Iterable[Iterate]:
    y = shelf.y[index]
    size: dict[str, Any] = {} if rough is None else {"rank": rough, "missed": 1.0}
    return rfm(shelf.span_of(index), y - y.mean(), bandwidth=L, iterations=iterations, centred=centred, **size)


def _kernel_tried(shelf: Shelf, train: Tensor, ask: Tensor) -> Iterable[tuple[Setting, np.ndarray]]:
    for L in BANDWIDTHS:
        for m in _machines(shelf, train, L, False, 0):
            yield {"bandwidth": L}, m.predict(shelf.span.Z[ask])[0].numpy()


def _kernel(shelf: Shelf, index: Tensor, setting: Setting, rough: int | None = None) -> Fitted:
    *_, last = _machines(shelf, index, setting.get("bandwidth", 1.0), False, 0, rough)
    return Fitted(shelf, machine=last)


def _rfm_tried(shelf: Shelf, train: Tensor, ask: Tensor) -> Iterable[tuple[Setting, np.ndarray]]:
    """Every bandwidth with the gradients as they are, then centred at the bandwidth that did best."""
    on = shelf.y[ask].numpy() > 0
    best = (-1.0, BANDWIDTHS[0])

    def run(L: float, centred: bool) -> Iterable[tuple[Setting, np.ndarray]]:
        for t, m in enumerate(_machines(shelf, train, L, centred, ITERATIONS, ROUGH)):
            if t:  # the first is the plain kernel
                yield (
                    {"bandwidth": L, "centred": float(centred), "iterations": t},
                    m.predict(shelf.span.Z[ask])[0].numpy(),
                )

    for L in BANDWIDTHS:
        for setting, score in run(L, False):
            best = max(best, (float(areas(score, on, np.zeros(len(on)))), L))
            yield setting, score
    yield from run(best[1], True)


def _rfm(shelf: Shelf, index: Tensor, setting: Setting, rough: int | None = None) -> Fitted:
    L, centred, steps = (setting.get(k, v) for k, v in (("bandwidth", 1.0), ("centred", 0.0), ("iterations", 2)))
    *_, last = _machines(shelf, index, L, bool(centred), int(steps), rough)
    return Fitted(shelf, machine=last)


METHODS: dict[str, Method] = {
    "means": _plain(lambda shelf, Z, y: difference_of_means(Z, y[None])[0]),
    "ridge": Method(_ridge_tried, _ridge),
    "logistic": Method(_logistic_tried, _logistic),
    "lda": _plain(lambda shelf, Z, y: discriminant(Z, y)),
    "pca": _plain(lambda shelf, Z, y: principal_difference(Z, y, torch.Generator().manual_seed(shelf.seed))),
    "kernel": Method(_kernel_tried, _kernel),
    "rfm": Method(_rfm_tried, _rfm),
}
