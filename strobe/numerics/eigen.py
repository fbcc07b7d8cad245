"""Largest eigenvalues of a symmetric operator, with an upper bound on what was missed."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

READY = 0.4  # the probe starts when the residuals promise this part of the tolerance
HOPELESS = 5.0  # and ends when what it found says they are this far from it
FOUND = 0.8  # a probe that meets this part of the k-th value may have found one more: its residuals come first
PAYS = 0.35  # a probe step that shrinks the bound by less is left for a residual


@dataclass(frozen=True, slots=True)
class Eigenpairs:
    """The k largest eigenvalues, descending: λᵢ lies in [valuesᵢ, valuesᵢ + errorsᵢ], up to rounding.

    values, errors, residuals, converged: (k,) on the CPU; vectors: (dim, k); basis: (dim, >= k), the vectors and
    some further Ritz vectors, to hand to the next call as `start`; ritz: (matvecs,) all Ritz values. `missed` bounds
    the probability that an eigenvalue hid from a random probe and the upper bounds are wrong; 1 without a probe.
    """

    values: Tensor
    vectors: Tensor
    errors: Tensor
    residuals: Tensor
    converged: Tensor
    basis: Tensor
    ritz: Tensor
    matvecs: int
    missed: float


def top_eigenpairs(
    matvec: Callable[[Tensor], Tensor],
    dim: int,
    k: int,
    *,
    start: Tensor | None = None,
    toward: Tensor | None = None,
    tol: float = 1e-3,
    missed: float = 1e-3,
    trust: float | None = None,
    patience: int | None = None,
    max_matvecs: int | None = None,
    guard: int = 0,
    generator: torch.Generator | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Eigenpairs:
    """The k largest (algebraic) eigenvalues of a symmetric operator, each with a two-sided bound.

    A Krylov space V grows from `start` (default: one Gaussian vector) along the Ritz residual of the worst pair.
    Ritz values bound the eigenvalues from below, θᵢ <= λᵢ. From above: if no eigenvalue of A on V^⊥ exceeds μ, then

        λᵢ <= λᵢ([[VᵀAV, Fᵀ], [F, μ I]])     F = (I − VVᵀ) A V     (Loewner order; about ‖rᵢ‖² / (θᵢ − μ))

    and μ comes from a probe: a fresh Gaussian vector g, projected to V^⊥, and j Lanczos steps from it. An
    eigenvector u in V^⊥ with eigenvalue μ above the probe's Ritz values has |uᵀg| <= ‖g‖ ∏βᵢ / ∏(μ − ritzᵢ), while
    uᵀg is a standard normal: that is as improbable as it is small. So a double eigenvalue, which one Krylov chain can
    not see twice, or one that has not emerged yet, is found by the probe and not passed over. The probability is at
    most `missed` that one above the k-th by more than tol hid, and 100 `missed` that one above μ did (then an error is above
    its bound, but of its order). For k = 1 the first chain bounds λ₁ itself, with `missed`.

    Args: matvec (dim,) -> (dim,); start (dim, s), any s >= 1, need not be orthogonal (vectors of a nearby
    operator: a warm start); toward (dim,), a vector likely to lie among the top eigenvectors, added to the first
    Gaussian at equal length (a shifted normal is near zero less often, by Anderson's inequality: the bounds hold);
    tol, the error allowed on each eigenvalue relative to itself, or rounding where that is more; guard, how many
    Ritz vectors beyond k to return in `basis`; max_matvecs, default 100 + 40 k; trust, a number: probe nothing and
    take μ = trust θ₁ on the caller's word, so that errors and converged are only as good as it, and `missed` is 1;
    patience, after so many products trust no more and probe. Memory: dim x matvecs.
    Stops unconverged, with wide `errors` and `converged` False, at max_matvecs.
    Raises ValueError for k outside 1..dim and FloatingPointError when matvec returns a non-finite vector.
    Ref: van Dorsselaer, Hochstenbach & van der Vorst 2000 (SIAM J. Matrix Anal. 22, 837) for the probe's
    polynomial, there applied to the whole operator and here to what is left of it.

    >>> d = 1 / torch.arange(1, 301)
    >>> got = top_eigenpairs(lambda v: d * v, 300, 2, tol=1e-3)
    >>> bool(got.converged.all()), [round(float(x), 3) for x in got.values]
    (True, [1.0, 0.5])
    """
    if not 1 <= k <= dim:
        raise ValueError(f"top_eigenpairs needs 1 <= k <= dim, got k = {k}, dim = {dim}")
    most = max(k, min(dim, max_matvecs if max_matvecs is not None else 100 + 40 * k))
    gen = generator if generator is not None else torch.Generator().manual_seed(0)

    def gauss(shift: Tensor | None = None) -> Tensor:
        g = torch.randn(dim, generator=gen, dtype=dtype, device=gen.device).to(device)
        size = 0.0 if shift is None else float(shift.norm())
        return g + shift.to(g) * (g.norm() / size) if shift is not None and size > 0 else g

    space = _Space(matvec, dim, dtype, torch.device(device))
    for column in [] if start is None else start.to(device, dtype).T:
        if space.m < most and space.add(column):
            space.given += 1
    whole = None if space.m else space.probe(gauss(toward))  # a chain in the whole space: it bounds λ₁ itself
    probe: _Chain | None = None
    mu = ceiling = math.inf
    doubt, hidden = min(100 * missed, 0.5), 1.0
    while True:
        if whole is not None:
            ceiling = min(ceiling, whole.level(missed))
        mu = min(mu, ceiling, math.inf if probe is None else probe.level(doubt))
        if trust is not None and patience is not None and space.m > patience:
            trust, mu, hidden = None, math.inf, 1.0
        if trust is not None:
            mu = trust * float(space.ritz()[0][0])
        theta, y, upper = space.bounds(k, mu)
        slack = space.rounding()
        errors = upper.clamp(max=max(ceiling, float(theta[0]))) - theta + slack
        edge = float(theta[-1]) + max(tol * abs(float(theta[-1])), 2 * slack)  # above this nothing may be passed over
        if probe is not None:
            hidden = min(hidden, probe.hidden(edge))
        if trust is not None or ceiling <= edge:
            hidden = min(hidden, missed)
        if space.m == dim:
            hidden = 0.0
        good = (errors <= (tol * theta.abs()).clamp_min(2 * slack)) & (hidden <= missed)
        if (space.m >= k and bool(good.all())) or space.m >= most:
            return space.result(k, guard, errors, good, hidden if trust is None else 1.0)
        size = theta.abs().clamp_min(slack)

        def error(level: float, theta: Tensor = theta, size: Tensor = size) -> Tensor:
            return (space.bounds(k, level)[2] - theta) / size

        hoped = error(max(space.tail(3), -math.inf if probe is None else probe.top()))
        if trust is not None:
            probing, hoped = False, error(mu)
        elif probe is not None:  # above the k-th value no residual, however small, can help
            now, ahead = probe.level(doubt), probe.level(doubt, ahead=True)
            blind = (hidden > missed or now > edge) and probe.top() < FOUND * float(theta[-1])
            pays = hidden > missed or now > edge or error(ahead).max() < PAYS * error(now).max()
            probing = blind or bool(pays and hoped.max() <= HOPELESS * tol)
        elif k == 1 and whole is not None:
            probing = False  # the one chain bounds λ₁ with fewer products than a second would take
        else:
            cheap = hidden <= missed and mu < edge and error(mu).max() * PAYS**4 < tol  # than a new probe
            probing = bool(space.m > k and hoped.max() <= READY * tol and not cheap)
        if probing:
            whole = None
            if probe is None or not probe.extend():
                probe = space.probe(gauss())
        else:
            probe = None
            if not space.expand(y[:, int(hoped.argmax())]):  # an invariant subspace: only a new direction can help
                whole, probe = None, space.probe(gauss())


class _Space:
    """An orthonormal basis V, the small matrix S = VᵀAV in float64, and the columns of F = (I − VVᵀ)AV not yet zero."""

    def __init__(self, matvec: Callable[[Tensor], Tensor], dim: int, dtype: torch.dtype, device: torch.device) -> None:
        self.matvec, self.m, self.given = matvec, 0, 0
        self.V = torch.empty(min(dim, 32), dim, dtype=dtype, device=device)
        self.S = torch.zeros(self.V.shape[0], self.V.shape[0], dtype=torch.float64)
        self.F: dict[int, Tensor] = {}
        self.beta: list[float] = []  # ‖fᵢ‖ when vector i came
        self._ritz: tuple[Tensor, Tensor] | None = None

    def add(self, q: Tensor) -> bool:
        """Orthonormalise q against V, multiply it, and grow S and F. False when q lies in V already."""
        V, first = self.V[: self.m], float(q.norm())
        after = first
        while True:
            before = after
            q = q - V.T @ (V @ q)
            after = float(q.norm())
            if not after > 10 * self._eps() * first:
                return False
            if after > 0.7 * before:  # else digits cancelled: once more (Parlett, Kahan)
                break
        q = q / after
        w = self.matvec(q)
        if self.m == len(self.V):
            more = min(self.V.shape[1] - self.m, self.m)
            self.V = torch.cat([self.V, torch.empty_like(self.V[:1]).expand(more, -1)])
            self.S = torch.nn.functional.pad(self.S, (0, more, 0, more))
        self.V[self.m] = q
        self.m += 1
        self._project(q, w.to(q))
        return True

    def _project(self, q: Tensor, w: Tensor) -> None:
        m, V = self.m, self.V[: self.m]
        s = V @ w
        f = w - V.T @ s  # what rounding leaves of V in f is taken out when f is added
        norm = float(f.norm())
        if not math.isfinite(norm):
            raise FloatingPointError(f"matrix-vector product {m} is not finite")
        self.S[:m, m - 1] = self.S[m - 1, :m] = s.double().cpu()
        self.beta.append(norm)
        self.F[m - 1] = f
        small = 30 * self._eps() * self.scale()
        for i, old in list(self.F.items()):
            if i < m - 1:
                old -= (old @ q) * q
            if float(old.norm()) <= small:  # its direction is rounding; squared, it can not move an eigenvalue
                del self.F[i]

    def expand(self, y: Tensor) -> bool:
        """Grow V by the residual of the Ritz vector V y. False when that residual is rounding."""
        if not self.F:
            return False
        return self.add(sum(float(y[i]) * f for i, f in self.F.items()))  # type: ignore[arg-type]

    def probe(self, g: Tensor) -> "_Chain":
        """A Lanczos chain from a Gaussian vector, in what V leaves."""
        V = self.V[: self.m]
        chain = _Chain(self, self.m, math.log(max(float((g - V.T @ (V @ g)).norm()), 1e-300)))
        self.add(g)
        return chain

    def ritz(self) -> tuple[Tensor, Tensor]:
        if self._ritz is None or len(self._ritz[0]) != self.m:
            theta, y = torch.linalg.eigh(self.S[: self.m, : self.m])
            self._ritz = theta.flip(0), y.flip(1)
        return self._ritz

    def bounds(self, k: int, mu: float) -> tuple[Tensor, Tensor, Tensor]:
        """The top Ritz values, their coordinates in V, and upper bounds if A <= mu on what V leaves."""
        theta, y = self.ritz()
        theta, y = theta[:k], y[:, :k]
        if math.isinf(mu):
            return theta, y, torch.full_like(theta, math.inf)
        L = self._root()
        a = len(L)
        model = torch.block_diag(self.S[: self.m, : self.m], mu * torch.eye(a, dtype=torch.float64))
        model[self.m :, : self.m], model[: self.m, self.m :] = L, L.T
        upper = torch.linalg.eigvalsh(model).flip(0)[: len(theta)]
        rest = self.V.shape[1] > self.m + a
        return theta, y, torch.maximum(upper.clamp_min(mu) if rest else upper, theta)

    def _root(self) -> Tensor:
        """L with LᵀL = FᵀF, (alive columns, m)."""
        L = torch.zeros(len(self.F), self.m, dtype=torch.float64)
        if self.F:
            f = torch.stack(list(self.F.values()))
            d, u = torch.linalg.eigh((f @ f.T).double().cpu())
            L[:, list(self.F)] = d.clamp_min(0).sqrt()[:, None] * u.T
        return L

    def tail(self, n: int) -> float:
        """A guess at the largest eigenvalue on what V leaves: the top Ritz value of the last n vectors not given."""
        i = max(self.given, self.m - n)
        return float(torch.linalg.eigvalsh(self.S[i : self.m, i : self.m])[-1]) if i < self.m else 0.0

    def scale(self) -> float:
        return float(self.ritz()[0].abs().max())

    def rounding(self) -> float:
        return max(16 * self._eps() * self.scale(), torch.finfo(self.V.dtype).tiny)

    def _eps(self) -> float:
        return torch.finfo(self.V.dtype).eps

    def result(self, k: int, guard: int, errors: Tensor, converged: Tensor, missed: float) -> Eigenpairs:
        theta, y = self.ritz()
        basis = self.V[: self.m].T @ y[:, : k + guard].to(self.V)
        residuals = (self._root() @ y[:, :k]).norm(dim=0)
        return Eigenpairs(theta[:k], basis[:, :k], errors, residuals, converged, basis, theta, self.m, missed)


class _Chain:
    """Lanczos vectors from `first` on, started by a Gaussian vector whose projected length was exp(log)."""

    def __init__(self, space: _Space, first: int, log: float) -> None:
        self.space, self.first, self.log = space, first, log

    def extend(self) -> bool:
        """One more step. False when the chain's residual is rounding: it has seen all it can."""
        last = self.space.F.get(self.space.m - 1)
        return last is not None and self.space.add(last)

    def ritz(self) -> Tensor:
        """Its own Ritz values, ascending."""
        i, m = self.first, self.space.m
        return torch.linalg.eigvalsh(self.space.S[i:m, i:m])

    def logs(self) -> list[float]:
        """ln of the start's length and of each residual's: summed, the norm of the chain's polynomial at the start."""
        return [self.log] + [math.log(max(b, 1e-300)) for b in self.space.beta[self.first : self.space.m]]

    def top(self) -> float:
        """Its largest Ritz value: what V leaves reaches at least this."""
        return float(self.ritz()[-1])

    def hidden(self, value: float) -> float:
        """The probability that this chain saw nothing of an eigenvalue as large as `value`, if V left one there."""
        ritz = self.ritz()
        if not len(ritz) or float(ritz[-1]) >= value:
            return 1.0
        length = sum(self.logs()) - float((value - ritz).log().sum())
        return min(1.0, math.sqrt(2 / math.pi) * math.exp(min(0.0, length)))

    def level(self, missed: float, *, ahead: bool = False) -> float:
        """The μ above which an eigenvalue stays unseen by this chain with probability at most `missed`.

        `ahead` guesses it for one step more, with the last step's coefficients again.
        """
        ritz, logs = self.ritz().numpy(), self.logs()
        if not len(ritz):
            return math.inf
        if ahead:
            logs.append(logs[-1])
            ritz = np.append(ritz, float(self.space.S[self.space.m - 1, self.space.m - 1]))
        want = sum(logs) + math.log(math.sqrt(2 / math.pi) / missed)
        low = float(ritz.max())
        high = low + math.exp(want / len(ritz))
        for _ in range(40):
            mid = (low + high) / 2
            if float(np.log(np.maximum(mid - ritz, 1e-300)).sum()) < want:
                low = mid
            else:
                high = mid
        return high
