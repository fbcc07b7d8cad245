"""The largest eigenvalues of the loss Hessian, cold or tracked along a run."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from strobe.core.cards import observable
from strobe.core.errors import BadOption, Diverged
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot
from strobe.numerics.eigen import Eigenpairs, top_eigenpairs
from strobe.observables.curvature_operator import OutputLoss, Outputs, Part, curvature_operator, parameters_in

GUARDS = (2, 8)  # vectors kept beyond k, at least and at most: what overtakes the k-th is mostly one of them
CLOSE = 0.8  # vectors are kept of values above this part of the k-th: they may overtake it
TURNS = 15  # residuals a turning call may add before it is bounded after all


@observable(symbol="λ₁", of="snapshot", cost="15 to 50 Hessian-vector products", ref="arXiv:2103.00065")
def sharpness(
    snap: Snapshot,
    *,
    k: int = 1,
    tol: float = 1e-3,
    missed: float = 1e-3,
    max_hvps: int | None = None,
    start: Tensor | None = None,
    of: str = "hessian",
    outputs: Outputs | None = None,
    loss_of_outputs: OutputLoss | None = None,
    part: Part = None,
    seed: int = 0,
) -> Reading:
    """The k largest (algebraic) eigenvalues λ₁ >= ... >= λ_k of the Hessian of the loss.

        λᵢ(H)    H = ∂² loss / ∂θ²,  θ all trainable parameters,  by Rayleigh-Ritz on a Krylov space of H

    Args: k; tol, the error allowed on each eigenvalue relative to itself; missed, see Err; max_hvps, default
    100 + 40 k; start, a (parameters, any) matrix of nearby eigenvectors (`SharpnessTracker` keeps them for you);
    of, outputs, loss_of_outputs, part as for `curvature_operator`: of="gauss_newton" or "empirical_fisher" instead of the
    Hessian, and of the block of one layer or piece ("blocks.0.*"; `block_sharpness` takes all).
    The value is a float for k = 1 and a descending array of k otherwise.
    Err: a bound, not a standard error: λᵢ lies in [value, value + bound], and err is the larger of that bound
    (`how["bounds"]`, rounding inside) and tol |λᵢ| / 4, for another seed may stop elsewhere below tol. With probability
    `missed` at most, for the worst spectrum, an eigenvalue above the k-th hid from the random vectors; the draw is
    new for each seed and step. Leaves out that the data stand for a population. `how["converged"]` is bound <= tol |λᵢ|
    for all i; it is False, and err wide, where max_hvps ran out.
    Cost: one gradient with a graph kept, and `how["hvps"]` products of two gradients each. Memory: hvps x parameters.
    Regime: a twice differentiable loss; ReLU counts as linear between its kinks. Raises `BadOption` without trainable
    parameters and `Diverged` where the Hessian is not finite.
    Ref: arXiv:2103.00065 for the quantity; `strobe.numerics.eigen` for the bound. Departure: the authors take
    λ of largest magnitude by LOBPCG or power iteration without a bound.

    >>> net = torch.nn.Linear(2, 1, bias=False)
    >>> snap = Snapshot(net, lambda m, x: m(x).square().sum(), torch.diag(torch.tensor([1.0, 3.0])))
    >>> print(sharpness(snap))
    18 ± 0.0045 loss/θ²
    """
    kind = {"of": of, "outputs": outputs, "loss_of_outputs": loss_of_outputs, "part": part}
    return _reading(_solve(snap, kind, k, tol, missed, max_hvps, start, seed, 0, None), k, tol, "loss/θ²")


@observable(symbol="λ₁(P⁻¹H)", of="snapshot", cost="15 to 50 Hessian-vector products", ref="arXiv:2207.14484")
def preconditioned_sharpness(
    snap: Snapshot,
    *,
    preconditioner: dict[str, Tensor],
    k: int = 1,
    tol: float = 1e-3,
    missed: float = 1e-3,
    max_hvps: int | None = None,
    start: Tensor | None = None,
    seed: int = 0,
) -> Reading:
    """The k largest eigenvalues of P⁻¹H, for a diagonal P > 0: what adaptive methods feel as sharpness.

        λᵢ(P^(-1/2) H P^(-1/2))    for Adam after t steps:  P = (1 − β₁ᵗ) (√(v / (1 − β₂ᵗ)) + ε)

    Args: preconditioner, the diagonal of P by parameter name, shaped like the parameters; the others as for
    `sharpness`, as are Err, Cost and Regime. Raises `BadOption` for a name or shape that does not fit, or P <= 0.
    Ref: arXiv:2207.14484, equation 2 and section 3.

    >>> net = torch.nn.Linear(2, 1, bias=False)
    >>> snap = Snapshot(net, lambda m, x: m(x).square().sum(), torch.diag(torch.tensor([1.0, 3.0])))
    >>> P = {"weight": torch.tensor([[1.0, 100.0]])}
    >>> round(preconditioned_sharpness(snap, preconditioner=P).value, 4)
    2.0
    """
    params = snap.params()
    if set(preconditioner) != set(params):
        odd = sorted(set(preconditioner) ^ set(params))
        raise BadOption(f"the preconditioner needs one tensor for each trainable parameter; {odd[0]!r} is in one only")
    for name, p in params.items():
        given = preconditioner[name]
        if given.shape != p.shape:
            raise BadOption(f"the preconditioner of {name} has shape {tuple(given.shape)}, not {tuple(p.shape)}")
        if not bool((given > 0).all()):
            raise BadOption(f"the preconditioner of {name} is not positive everywhere; for Adam add eps, after a step")
    scale = torch.cat([preconditioner[name].detach().to(p).reshape(-1) for name, p in params.items()]).rsqrt()
    return _reading(_solve(snap, {}, k, tol, missed, max_hvps, start, seed, 0, scale), k, tol, "1/lr")


class SharpnessTracker:
    """`sharpness` along a run: most calls only turn the eigenvectors of the last; every `proof`-th is bounded anew.

    A turning call starts from `basis`, k + 2 to k + 8 vectors, and grows it along their residuals until the bound of
    `sharpness` is below tol, with the level of the rest of the spectrum, relative to λ₁, as the last call left it and
    no probe: `how["missed"]` is then 1, for an eigenvalue that came up from the rest is only seen by the next bounded
    call. Where the vectors turned too far, or the model has another size, the call is bounded.
    Made to be watched: `rec.watch(SharpnessTracker(), every=1, k=1)`; a call takes the options of `sharpness`, and
    names itself so, for `sharpness` recomputes the number.
    Err: as for `sharpness` in a bounded call; in a turning one twice the bound that trusts that level.
    Cost: `how["hvps"]`; at k = 1 and every step about half of a bounded call, which is in the mean. Regime: as for `sharpness`.

    >>> net = torch.nn.Linear(2, 1, bias=False)
    >>> snap = Snapshot(net, lambda m, x: m(x).square().sum(), torch.diag(torch.tensor([1.0, 3.0])))
    >>> track = SharpnessTracker()
    >>> round(track(snap).value, 4), round(track(snap).value, 4)
    (18.0, 18.0)
    """

    card = sharpness.card  # type: ignore[attr-defined]

    def __init__(self, *, proof: int = 10) -> None:
        self.proof, self.since, self.trust = proof, 0, 1.0
        self.basis: Tensor | None = None
        self.__name__ = self.__qualname__ = "sharpness"

    def __call__(
        self,
        snap: Snapshot,
        *,
        k: int = 1,
        tol: float = 1e-3,
        missed: float = 1e-3,
        max_hvps: int | None = None,
        of: str = "hessian",
        outputs: Outputs | None = None,
        loss_of_outputs: OutputLoss | None = None,
        part: Part = None,
        seed: int = 0,
    ) -> Reading:
        kind = {"of": of, "outputs": outputs, "loss_of_outputs": loss_of_outputs, "part": part}
        dim = parameters_in(snap, part)
        self.since += 1
        known = self.basis if self.basis is not None and len(self.basis) == dim else None
        width = 0 if known is None else known.shape[1]
        turning, crowded = width > k and self.since < self.proof, width == k + GUARDS[1]
        got: Eigenpairs | None = None
        spent = 0
        if turning:  # among many copies of one value a probe finds the next for long: there give up, and begin anew
            most, patience = (width + TURNS, None) if crowded else (max_hvps, width + TURNS)
            got = _solve(snap, kind, k, tol / 2, missed, most, known, seed, GUARDS[1], None, self.trust, patience)
            if crowded and not bool(got.converged.all()):
                spent, got, turning = got.matvecs, None, False
        if got is None:
            got = _solve(snap, kind, k, tol, missed, max_hvps, None, seed, GUARDS[1], None)
        rest = got.ritz / max(abs(float(got.values[0])), 1e-300)
        if got.missed < 1 or not turning:
            near = int((got.ritz[k:] > CLOSE * got.ritz[k - 1]).sum())
            self.since, width = 0, k + min(max(near, GUARDS[0]), GUARDS[1])
            self.trust = float(rest[min(width, len(rest) - 1)])
        elif got.matvecs <= width + 1 and width > k + GUARDS[0]:  # more vectors than it took; the one left is known
            width -= 1
            self.trust = max(self.trust, float(rest[width]))
        self.basis = got.basis[:, :width]
        honest = replace(got, matvecs=got.matvecs + spent, errors=got.errors * (2 if self.since else 1))
        return _reading(honest, k, tol, "loss/θ²")


def _solve(
    snap: Snapshot,
    kind: dict[str, Any],
    k: int,
    tol: float,
    missed: float,
    most: int | None,
    start: Tensor | None,
    seed: int,
    guard: int,
    scale: Tensor | None,
    trust: float | None = None,
    patience: int | None = None,
) -> Eigenpairs:
    if not (tol > 0 and 0 < missed < 1):
        raise BadOption(f"sharpness needs tol > 0 and 0 < missed < 1, got {tol} and {missed}")
    with curvature_operator(snap, **kind) as a, torch.no_grad():
        dim, slope = a.dim, a.gradient
        if not 1 <= k <= dim:
            raise BadOption(f"sharpness takes 1 <= k <= {dim}, the number of parameters; got k = {k}")
        if start is not None and (start.ndim != 2 or len(start) != dim):
            raise BadOption(f"start is a ({dim}, s) matrix of vectors, got shape {tuple(start.shape)}")
        product = a.product if scale is None else lambda v: scale * a(scale * v)
        toward = slope if scale is None or slope is None else scale * slope  # saves about 2 products in 30
        try:
            return top_eigenpairs(
                product,
                dim,
                k,
                start=start,
                toward=toward,
                tol=tol,
                missed=missed,
                trust=trust,
                patience=patience,
                max_matvecs=most,
                guard=guard,
                generator=torch.Generator().manual_seed(seed + 1_000_003 * snap.step),
                device=a.device,
                dtype=a.dtype,
            )
        except FloatingPointError as e:
            raise Diverged(
                f"sharpness at step {snap.step}: {e}; the loss or its gradient is NaN or infinite there: "
                f"look at an earlier step, or lower the learning rate"
            ) from e


def _reading(got: Eigenpairs, k: int, tol: float, unit: str) -> Reading:
    # another seed stops elsewhere below tol: with this floor, twice err covers their spread
    err = torch.maximum(got.errors, tol / 4 * got.values.abs())
    how: dict[str, Any] = {
        "converged": bool(got.converged.all()),
        "each": got.converged.tolist(),
        "hvps": got.matvecs,
        "bounds": got.errors.tolist(),
        "residuals": got.residuals.tolist(),
        "missed": got.missed,
    }
    if k == 1:
        return Reading(float(got.values[0]), float(err[0]), unit, how)
    return Reading(got.values.numpy(), err.numpy(), unit, how)
