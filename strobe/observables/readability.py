"""How well a concept can be read at a site: by a line and by a kernel, on held-out inputs; and how one moment's line reads another."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strobe.core.capture import Activations, Forward, capture
from strobe.core.cards import observable
from strobe.core.data import two_kinds
from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot
from strobe.numerics.bake_off import areas, bake_off, folds_of
from strobe.numerics.probes import closed_forms, ridge_path
from strobe.numerics.rfm import Span

LABELS = ("line", "kernel")


@observable(
    symbol="A", of="snapshot", cost="a forward pass of the inputs and an eigendecomposition", ref="arXiv:1610.01644"
)
def readability(
    snap: Snapshot, *, site: str, inputs: Any = None, labels: Sequence[Any] | Tensor | None = None, positions: str | int = "last",
    groups: Sequence[Any] | None = None, forward: Forward | None = None, folds: int = 5, reference: Sequence[float] | None = None,
    seed: int = 0,
) -> Reading:  # fmt: skip
    """Held-out area under the ROC curve of a concept, by ridge regression and by a Laplace kernel: when it can be read, when by a line.

    Two numbers, `line` and `kernel` (`numerics.probes.closed_forms`: fixed settings, so that moments can be compared); with `reference`,
    a direction of another moment (`line_direction`), a third, `direction (cosine)`: this moment's direction with it, how far it drifted.
    Args: inputs, as `capture` takes them (token sequences, say), and labels, two values, the larger is "on"; by default the first two of
    the data; groups, what stays on one side of a split.
    Err: deviation over the draw of the examples (bootstrap within folds); of the cosine, the jackknife over the folds, the reference
    being given. `how["direction"]`: that of ridge on all, of length 1.
    Regime: at least 10 inputs of each kind. It leaves out that other inputs of the concept may look different.
    Raises `BadOption`, and as `capture` does.
    Ref: Alain and Bengio, arXiv:1610.01644 (linear probes); the kernel beside it: arXiv:2502.03708.
    """
    if inputs is None or labels is None:
        if inputs is not None or labels is not None or not isinstance(snap.data, tuple | list) or len(snap.data) < 2:
            raise BadOption("give inputs= and labels=, or neither where the data are (inputs, labels)")
        inputs, labels = snap.data[:2]
    acts = capture(snap.model, inputs, [site], positions=positions, forward=forward)
    y = enough(labels, len(acts.example))
    fold, names = _folds(y, acts, groups, folds, seed)
    span = Span.of(acts[site])
    _means, line, kernel = closed_forms(span, fold, y[None])
    got = bake_off(np.stack([line[0], kernel[0]]), y, fold, names, resamples=400, rng=np.random.default_rng(seed))
    v = line_direction(acts[site], y)
    value, err = got.value, np.nanstd(got.draws, axis=1)
    how = {"labels": list(LABELS), "examples": len(y), "direction": v.tolist()}
    if reference is not None:
        u = torch.as_tensor(reference, dtype=torch.float64)
        if u.shape != v.shape or not float(u.norm()) > 0:
            raise BadOption(
                f"reference is a direction of {len(v)} numbers, as many as {site} has; got {tuple(u.shape)}"
            )
        without = [
            float(line_direction(acts[site][fold != f], y[fold != f]).double() @ _unit(u)) for f in np.unique(fold)
        ]
        value = np.append(value, float(v.double() @ _unit(u)))
        err = np.append(err, np.std(without) * (len(without) - 1) ** 0.5)
        how["labels"] = [*LABELS, "direction (cosine)"]
    return Reading(value, err, "area", how)


def line_direction(rows: Tensor, y: np.ndarray) -> Tensor:
    """The direction (d,) of ridge regression on all rows (n, d), of length 1: what `readability` compares between moments."""
    signs = torch.from_numpy(np.where(y, 1.0, -1.0))
    span = Span.of(rows)
    return _unit(span.lift(ridge_path(span.Z, signs[None], [0.1])[0])[0])


def transfer(
    moments: Sequence[Activations],
    labels: Sequence[Any],
    site: str,
    *,
    groups: Sequence[Any] | None = None,
    folds: int = 5,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """(areas, cosines), both (m, m): the line fitted at one moment, read at another: checkpoints, branches, languages.

    Entry (i, j) is the area of moment i's ridge direction on moment j, on examples it was not fitted on; cosines are those of the
    directions fitted on all. An area below ½ says that the concept's direction turned around. All moments are of the same inputs.
    """
    y = enough(labels, len(moments[0].example))
    fold, _ = _folds(y, moments[0], groups, folds, seed)
    rows = [m[site].double() - m[site].double().mean(0) for m in moments]
    if len({x.shape for x in rows}) > 1:
        raise BadOption(
            f"the moments have shapes {sorted({tuple(x.shape) for x in rows})}: they must be of the same inputs and site"
        )
    signs = torch.from_numpy(np.where(y, 1.0, -1.0))[None]
    scores = np.zeros((len(rows), len(rows), len(y)))
    for f in np.unique(fold):
        train, hold = (torch.from_numpy(np.flatnonzero(m)) for m in (fold != f, fold == f))
        lines = torch.stack([ridge_path(x[train], signs[:, train], [0.1])[0, 0] for x in rows])
        for j, x in enumerate(rows):
            scores[:, j, hold.numpy()] = (lines @ x[hold].T).numpy()
    whole = torch.stack([_unit(ridge_path(x, signs, [0.1])[0, 0]) for x in rows])
    return areas(scores, y, fold), (whole @ whole.T).numpy()


def enough(labels: Any, n: int) -> np.ndarray:
    """Which are on. Raises `BadOption`, also for fewer than ten of a kind."""
    on = two_kinds(labels, n)
    if min(on.sum(), (~on).sum()) < 10:
        raise BadOption(
            f"there are {int(on.sum())} inputs with the concept and {int((~on).sum())} without; give 10 of each or more"
        )
    return on


def _folds(
    y: np.ndarray, acts: Activations, groups: Sequence[Any] | None, folds: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    given = acts.example.numpy() if groups is None else np.asarray([str(g) for g in groups])
    if len(given) != len(y):
        raise BadOption(f"there are {len(y)} rows and {len(given)} groups")
    try:
        return folds_of(y, given, folds, np.random.default_rng(seed)), given
    except ValueError as e:
        raise BadOption(f"the inputs cannot be split: {e}") from e


def _unit(v: Tensor) -> Tensor:
    return v / v.norm().clamp_min(1e-30)
