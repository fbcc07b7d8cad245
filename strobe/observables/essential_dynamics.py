"""Several runs in one picture: joint principal components of what their checkpoints say on one fixed batch."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from strobe.core.cards import observable
from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.numerics.local_polynomials import local_polynomials, log_widths
from strobe.numerics.osculating import osculating, turns
from strobe.observables.trajectory_pca import probe_outputs, scores_of


@observable(symbol="γ(t)", of="run", cost="one forward per stored step", ref="arXiv:2402.02364")
def essential_dynamics(
    runs: Any, *, components: int = 3, steps: Sequence[int] | None = None, data: Any = None,
    outputs: Callable[[nn.Module, Any], Tensor] | None = None, width: float = 0.15, turn: float = 0.5, groups: int = 16,
) -> Reading:  # fmt: skip
    """Smooth paths γ of one run or several in the common principal axes of their outputs, with osculating circles.

        rows: outputs of every run r at every step t on one batch; X_c = X − mean over all rows; X_c X_cᵀ = U Λ Uᵀ
        γ_r(t) = local quadratic fit in log t of the scores U √Λ, of Gaussian width  `width` · (1 + log10 t) / (1 + log10 T)
        κ = |γ' ∧ γ''| / |γ'|³;  centre f(t) = γ + n/κ: there the form potential Φ_f(t) = ½ |γ(t) − f|² has Φ' = Φ'' = 0

    Args: `runs` one run (anything with `stored()` and `walk(steps)`), or a mapping of names to runs of models with the
    same outputs; `steps` (default: what each has stored, from step 1 on); `data` the batch, by default the first run's
    probe; `outputs(model, data)` -> tensor whose first dimension counts examples; `width` in decades, at the last step;
    `turn`: radians by which a path must turn about a maximum of κ for it to be a candidate form.
    Value: γ, an array (rows, components), runs one after another. Err: jackknife over groups of examples, of the scores
    themselves; what one step of training adds to a score by chance is in `how["residual"]`, the r.m.s. about γ.
    how: `steps` and `run` of each row, `explained`, and for each run in `paths`: `steps`, `curvature`, `centres`
    (the evolute), and `forms`: candidates, the centres at maxima of κ (vertices: there Φ''' = 0 too, the evolute has a
    cusp), with the angle turned and the distance 1/κ from the path.
    Cost: one forward per step; memory rows x outputs floats. Regime: a projection: what is said of forms holds in the
    plane that is shown, and `explained` says how much of the motion that is. Joint axes show what the runs differ in.
    Raises `BadOption` for fewer than 5 steps of a run, outputs of different sizes, or one example only.
    Ref: Hoogland et al., arXiv:2402.02364 (essential dynamics, forms); Carroll et al., arXiv:2501.17745 (joint PCA);
    departures: local fits in place of Gaussian means, so that there are derivatives; any number of components.

    >>> net = nn.Linear(2, 2, bias=False)
    >>> class Round:
    ...     def stored(self): return [1, 3, 10, 30, 100, 300, 1000]
    ...     def walk(self, steps):
    ...         from strobe.core.snapshot import Snapshot
    ...         for t in steps:
    ...             a = torch.tensor(np.log10(t)); net.weight.data = torch.stack([a.cos(), a.sin()])[:, None].float().repeat(1, 2)
    ...             yield Snapshot(net, None, (torch.eye(2),), t)
    >>> path = essential_dynamics(Round(), components=2, width=0.5).how["paths"]["run"]
    >>> round(path["curvature"][3] ** -1, 1)                            # a circle of radius 1, an r.m.s. over 4 outputs
    0.5
    """
    given = dict(runs) if isinstance(runs, Mapping) else {"run": runs}
    if not given or components < 2:
        raise BadOption(f"essential_dynamics needs a run and at least 2 components, got {len(given)} and {components}")
    rows: list[Tensor] = []
    at: dict[str, list[int]] = {}
    for name, run in given.items():
        at[name] = [t for t in (run.stored() if steps is None else steps) if t >= 1]
        if len(at[name]) < 5:
            raise BadOption(f"essential_dynamics needs 5 steps of {name!r} from step 1 on, got {len(at[name])}")
        for snap in run.walk(at[name]):
            data = snap.data if data is None else data
            rows.append(probe_outputs(snap, outputs, data))
    if len({r.shape for r in rows}) > 1:
        raise BadOption(f"the runs' outputs differ in shape, {sorted({tuple(r.shape) for r in rows})}: pass outputs=")
    x = torch.stack(rows)
    count = len(rows)
    rows.clear()  # half of the memory
    scores, err, share = scores_of(x.sub_(x.mean(0, keepdim=True)), min(components, count - 1), groups)
    smooth, paths, rest, start = np.empty_like(scores), {}, {}, 0
    for name, its in at.items():
        mine = slice(start, start + len(its))
        start += len(its)
        smooth[mine], paths[name] = _path(np.array(its, float), scores[mine], width, turn)
        rest[name] = float(np.sqrt(np.square(scores[mine] - smooth[mine]).mean()))
    how = {
        "steps": [t for its in at.values() for t in its], "run": [n for n, its in at.items() for _ in its], "explained": share,
        "scores": scores.tolist(), "width": width, "residual": rest, "paths": paths, "examples": int(x.shape[1]),
        "labels": [f"PC {i + 1}" for i in range(scores.shape[1])],
    }  # fmt: skip
    return Reading(smooth, err, "", how)


def inside(x: np.ndarray, places: np.ndarray, width: float) -> np.ndarray:
    """Which places on a path at x = log10 t have 1.5 widths (or spacings) of it on both sides.

    Nearer to an end a fit has points on one side only, and the noise of the last steps alone turns it around.
    """
    spacing = np.interp(places, x[1:], np.diff(x))
    wide = width * (1 + np.maximum(places, 0)) / (1 + max(float(x[-1]), 0.0))
    margin = 1.5 * np.maximum(wide, spacing)
    return np.asarray((places - x[0] >= margin) & (x[-1] - places >= margin))


def _path(steps: np.ndarray, scores: np.ndarray, width: float, turn: float) -> tuple[np.ndarray, dict[str, Any]]:
    x = np.log10(steps)
    grid = np.linspace(x[0], x[-1], max(200, 2 * len(x)))
    fit = local_polynomials(x, grid, log_widths(grid, width)) @ scores
    circles = osculating(*fit)
    places, angles = turns(grid, circles, turn)
    forms, there = [], inside(x, places, width)
    for p, angle in zip(places[there], angles[there], strict=True):
        i = int(np.argmin(np.abs(grid - p)))
        forms.append(
            {"step": float(10**p), "at": circles.centre[i].tolist(), "turned": float(angle), "distance": float(1 / circles.curvature[i])}
        )  # fmt: skip
    mine = local_polynomials(x, x, log_widths(x, width)) @ scores
    own = osculating(*mine)
    return mine[0], {
        "steps": steps.astype(int).tolist(), "curvature": own.curvature.tolist(), "centres": own.centre.tolist(), "forms": forms,
    }  # fmt: skip
