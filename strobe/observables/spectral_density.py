"""How many eigenvalues a network's curvature has where: the spectral density, with its error."""

from typing import Any

import numpy as np
import torch

from strobe.core.cards import observable
from strobe.core.errors import BadOption, Diverged
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot
from strobe.numerics.lanczos_quadrature import Quadrature, lanczos_quadrature
from strobe.observables.curvature_operator import OutputLoss, Outputs, Part, curvature_operator


@observable(symbol="ρ(λ)", of="snapshot", cost="probes x steps Hessian-vector products", ref="arXiv:1901.10159")
def spectral_density(
    snap: Snapshot,
    *,
    of: str = "hessian",
    outputs: Outputs | None = None,
    loss_of_outputs: OutputLoss | None = None,
    part: Part = None,
    probes: int = 4,
    steps: int = 40,
    points: int = 200,
    span: tuple[float, float] | None = None,
    width: float | None = None,
    seed: int = 0,
) -> Reading:
    """The density ρ of the eigenvalues of the curvature, an array (points,) on the grid `how["grid"]`; ∫ρ dλ = 1.

        ρ(λ) = 1/P Σᵢ N(λ; λᵢ, width²)      by Lanczos quadrature: what the first chain found counts 1/P each, and
                                            the rest is a mean over chains from random vectors orthogonal to these

    Args: of, outputs, loss_of_outputs, part as for `curvature_operator` (Hessian of all parameters by default; "gauss_newton",
    "empirical_fisher"; a layer or a block by parameter names); probes, at least 4, and steps of each; span (low, high) and
    points of the grid, by default all nodes and three widths more; width of the smoothing in units of λ, by default what the
    chains resolve (twice their range over steps) and at least 1.5 points of the grid. A width below what `steps` can resolve
    shows single nodes as peaks, and `err` says so.
    Err: the standard error over the probes, enlarged for being few, and what 20% shorter chains would change, pointwise; it leaves
    out the draw of the data. `how["found"]` are the eigenvalues resolved one by one, descending.
    Cost: probes x steps products. Memory: P x (steps + found). Regime: a twice differentiable loss for "hessian".
    Raises `BadOption`, `SiteNotFound`, and `Diverged` where a product is not finite.
    Ref: Ghorbani, Krishnan and Xiao, arXiv:1901.10159. Departure: found eigenpairs are split off, so outliers have exact weights.

    >>> net = torch.nn.Linear(300, 1, bias=False)
    >>> scale = torch.linspace(1, 2, 300).sqrt().diag()
    >>> got = spectral_density(Snapshot(net, lambda m, x: m(x).square().sum() / 2, scale), probes=8)
    >>> grid, rho = got.how["grid"], got.value
    >>> round(float(np.trapezoid(rho, grid)), 2), round(float(np.interp(1.5, grid, rho)), 1)
    (1.0, 1.0)
    """
    if points < 2 or (span is not None and not span[0] < span[1]) or not (width is None or width > 0):
        raise BadOption(f"needs points >= 2, span low < high and width > 0, got {points}, {span} and {width}")
    got = quadrature_of(snap, of, outputs, loss_of_outputs, part, probes, steps, seed)
    low, high = span if span is not None else got.range()
    rest = np.concatenate([x for x in got.nodes if len(x)] or [got.found])  # what the chains spread over
    least = max(1e-6 * max(abs(low), abs(high)), 1e-30)
    size = width if width is not None else max(2 * np.ptp(rest) / steps, 1.5 * (high - low) / points, least)
    if span is None:
        low, high = low - 3 * size, high + 3 * size
    grid = np.linspace(low, high, points)

    def bumps(x: np.ndarray) -> np.ndarray:
        return np.asarray(np.exp(-(((x[:, None] - grid) / size) ** 2) / 2) / (size * np.sqrt(2 * np.pi)))

    value, err = got.mean(bumps)
    how: dict[str, Any] = {
        "grid": grid.tolist(), "width": size, "found": np.sort(got.found)[::-1].tolist(), "parameters": got.dim,
        "products": got.matvecs, "probes": len(got.nodes), "of": of,
    }  # fmt: skip
    return Reading(value, err, "θ²/loss", how)


def quadrature_of(
    snap: Snapshot, of: str, outputs: Outputs | None, loss_of_outputs: OutputLoss | None, part: Part, probes: int,
    steps: int, seed: int,
) -> Quadrature:  # fmt: skip
    """The chains behind the density. Raises `BadOption`, `Diverged`."""
    if probes < 4 or steps < 2:
        raise BadOption(
            f"spectral_density needs probes >= 4 (the error is their spread) and steps >= 2, got {probes} and {steps}"
        )
    with (
        curvature_operator(snap, of=of, outputs=outputs, loss_of_outputs=loss_of_outputs, part=part) as a,
        torch.no_grad(),
    ):
        gen = torch.Generator().manual_seed(seed + 1_000_003 * snap.step)
        try:
            return lanczos_quadrature(
                a, a.dim, probes=probes, steps=steps, generator=gen, dtype=a.dtype, device=a.device
            )
        except FloatingPointError as e:
            raise Diverged(
                f"spectral_density at step {snap.step}: {e}: look at an earlier step, or lower the learning rate"
            ) from e
