"""Learning curves of Bayes prediction for small models: the posteriors of many data sets, drawn side by side."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strobe.laws.known_rlct import tanh_rlct
from strobe.laws.rlct_linear import reduced_rank_rlct
from strobe.laws.rlct_regular import regular_rlct
from strobe.numerics.chains import chained
from strobe.numerics.noise import Noise
from strobe.numerics.sgmcmc import Target, hamiltonian
from strobe.systems.reduced_rank import reduced_rank

PRECISION = 1.0  # of the prior, N(0, 1) on every parameter
CELLS = 8  # inputs of the tanh network, each as often


Matrices = tuple[Tensor, Callable[[Tensor], Tensor]]  # W (R, o, i) of w (R, P), and ∂W -> ∂w


@dataclass(frozen=True)
class Model:
    """y = W(w) x + ε, for a linear map W of inputs x: normal ones, or (`cells`) one of the unit vectors, each as often."""

    name: str
    parameters: int
    rlct: float
    multiplicity: int
    truth: Tensor
    of: Callable[[Tensor], Matrices]
    start: Tensor  # parameters of the truth
    cells: bool = False

    def data(self, n: int, g: torch.Generator) -> tuple[Tensor, Tensor]:
        """What the posterior sees of n examples: mean of x xᵀ and of y xᵀ."""
        o, i = self.truth.shape
        if self.cells:  # n / i at every input; their means are enough
            return torch.eye(i) / i, (self.truth + torch.randn(o, i, generator=g) * (i / n) ** 0.5) / i
        x = torch.randn(n, i, generator=g)
        return x.T @ x / n, (self.truth @ x.T + torch.randn(o, n, generator=g)) @ x / n

    def fresh(self, n: int, g: torch.Generator) -> Tensor:
        """New inputs, (i, n)."""
        i = self.truth.shape[1]
        return torch.eye(i)[:, torch.randint(i, (n,), generator=g)] if self.cells else torch.randn(i, n, generator=g)


def _factored(inputs: int, hidden: int, outputs: int, rank: int) -> Model:
    """W = B A: `reduced_rank` with its truth."""
    facts = reduced_rank(inputs=inputs, hidden=hidden, outputs=outputs, rank=rank, samples=1).facts
    cut = outputs * hidden

    def of(w: Tensor) -> Matrices:
        B, A = w[:, :cut].view(-1, outputs, hidden), w[:, cut:].view(-1, hidden, inputs)
        return B @ A, lambda d: torch.cat([(d @ A.mT).flatten(1), (B.mT @ d).flatten(1)], 1)

    root = facts["truth"].sqrt()
    start = torch.cat([root[:, :hidden].flatten(), root[:hidden].flatten()])
    say = {
        k: reduced_rank_rlct(widths=(inputs, hidden, outputs), rank=rank, of=k).value for k in ("llc", "multiplicity")
    }
    return Model(f"reduced rank {inputs}-{hidden}-{outputs}, rank {rank}", facts["parameters"], say["llc"],
                 int(say["multiplicity"]), facts["truth"], of, start)  # fmt: skip


def _tanh(hidden: int) -> Model:
    """f = Σ a tanh(b x) on eight inputs from -2 to 2, the truth 0."""
    x = torch.linspace(-2, 2, CELLS)

    def of(w: Tensor) -> Matrices:
        a, b = w[:, :hidden], w[:, hidden:]
        t = (b[:, :, None] * x).tanh()

        def back(d: Tensor) -> Tensor:
            slope = d * (1 - t * t) * a[:, :, None] * x
            return torch.cat([(d * t).sum(2), slope.sum(2)], 1)

        return a[:, None] @ t, back

    say = {k: tanh_rlct(hidden=hidden, of=k).value for k in ("llc", "multiplicity")}
    return Model(f"tanh 1-{hidden}-1, truth 0", 2 * hidden, say["llc"], int(say["multiplicity"]), torch.zeros(1, CELLS), of,
                 torch.zeros(2 * hidden), cells=True)  # fmt: skip


def _regression(inputs: int, outputs: int) -> Model:
    """W = w: the regular model, for which λ is d/2."""
    size = inputs * outputs
    of = lambda w: (w.view(-1, outputs, inputs), lambda d: d.flatten(1))  # noqa: E731
    value, truth = regular_rlct(directions=size).value, torch.ones(outputs, inputs)
    return Model(f"linear regression {inputs}-{outputs}, regular", size, value, 1, truth, of, torch.ones(size))


def models() -> list[Model]:
    """The three singular ones, and the regular."""
    return [_factored(3, 2, 3, 1), _factored(2, 2, 2, 0), _tanh(2), _regression(3, 2)]


@dataclass
class Curve:
    """n G of each data set, (sizes, sets): of Bayes prediction, of one draw in the mean, of the mean function, of the MAP."""

    bayes: np.ndarray
    draw: np.ndarray
    mean: np.ndarray
    best: np.ndarray
    rhat: float
    accept: float


class _Stack:
    """The losses of many copies, each on its own data set: L = ½ tr W S Wᵀ - tr W Cᵀ, which is L up to a constant."""

    def __init__(self, model: Model, sizes: tuple[int, ...], sets: int, g: torch.Generator) -> None:
        self.model = model
        drawn = [model.data(n, g) for n in sizes for _ in range(sets)]
        self.S, self.C = (torch.stack([d[k] for d in drawn]) for k in (0, 1))
        self.n = torch.tensor(sizes, dtype=torch.float32).repeat_interleave(sets)[:, None]

    def times(self, copies: int) -> "_Stack":
        """The same, each data set so many times over."""
        more = object.__new__(_Stack)
        more.model = self.model
        more.S, more.C, more.n = (x.repeat_interleave(copies, 0) for x in (self.S, self.C, self.n))
        return more

    def __call__(self, w: Tensor, draw: int = 0) -> tuple[Tensor, Tensor]:
        W, back = self.model.of(w)
        d = W @ self.S - self.C
        return ((d - self.C) * W).sum((1, 2)) / 2, back(d)

    def best(self, steps: int = 4000) -> Tensor:
        """The maximum a posteriori of each, by descent with momentum from near the truth."""
        g = torch.Generator().manual_seed(0)
        w = self.model.start + 0.1 * torch.randn(len(self.n), self.model.parameters, generator=g)
        v = torch.zeros_like(w)
        for _ in range(steps):
            v.mul_(0.98).sub_(self(w)[1] + PRECISION / self.n * w, alpha=0.05)
            w.add_(v)
        return w


def learning_curve(
    model: Model, *, sizes: tuple[int, ...], sets: int, draws: int, chains: int = 2, fresh: int = 400, seed: int = 0
) -> Curve:
    """G of `sets` data sets at each n, all sampled in one stack: `chains` of so many Hamiltonian `draws` each.

        G = ½ E_w tr Δ Σ Δᵀ - E_X[ log E_w e^{-f} + E_w f ],     f = -ε·Δx + ½ |Δx|²,  Δ = W(w) - truth

    Beyond its first term, which is exact, G is of second order in Δ: on `fresh` new examples it is known to a few percent.
    """
    g = torch.Generator().manual_seed(seed)
    data = _Stack(model, sizes, sets, g)
    best = data.best()
    stack, w = data.times(chains), best.repeat_interleave(chains, 0)
    target = Target(torch.zeros(model.parameters), stack.n, torch.full_like(stack.n, PRECISION))
    keep: list[Tensor] = []

    def visit(w: Tensor, t: int) -> None:
        if t % max(draws // 200, 1) == 0:
            keep.append(model.of(w)[0] - model.truth)

    options: dict[str, Any] = {
        "step": 0.2 / stack.n.sqrt(),
        "metric": torch.ones(model.parameters),
        "noise": Noise(seed),
    }
    w = hamiltonian(stack, w, target, draws=max(draws // 4, 20), seed=seed, adapt=True, **options).w
    got = hamiltonian(stack, w, target, draws=draws, seed=seed + 1, visit=visit, **options)
    o, i = model.truth.shape
    delta = torch.stack(keep).view(len(keep), len(sizes), sets, chains, o, i)
    n, each = np.array(sizes)[:, None], model.truth.new_full((len(sizes), sets), 0.0)
    for k in range(len(sizes)):
        for s in range(sets):
            each[k, s] = _beyond(delta[:, k, s].reshape(-1, o, i), model.fresh(fresh, g), g)
    weight = 1 / i if model.cells else 1.0
    half = lambda d: (d.square().sum((-1, -2)) * weight / 2).double().numpy()  # noqa: E731
    single = half(delta)
    last = single[:, -1].transpose(1, 2, 0)
    rhat = float(np.quantile([chained(x).rhat for x in last], 0.95)) if len(keep) >= 8 else np.inf
    apart = model.of(best)[0] - model.truth
    accept = 0.0 if got.accept is None else float(got.accept.mean())
    return Curve(n * (single.mean((0, 3)) - each.double().numpy()), n * single.mean((0, 3)), n * half(delta.mean((0, 3))),
                 n * half(apart).reshape(len(sizes), sets), rhat, accept)  # fmt: skip


def _beyond(delta: Tensor, x: Tensor, g: torch.Generator) -> Tensor:
    """E_X[log E_w e^{-f} + E_w f] over new inputs x (i, T)."""
    dx = delta @ x
    f = (dx * (dx / 2 - torch.randn(dx.shape[1:], generator=g))).sum(1)
    return (torch.logsumexp(-f, 0) - np.log(len(f)) + f.mean(0)).mean()


def spectrum(model: Model) -> np.ndarray:
    """Eigenvalues of the Hessian of the population's loss at the truth, (P,), rising."""
    i = model.truth.shape[1]
    S = torch.eye(i, dtype=torch.float64) / (i if model.cells else 1)

    def loss(w: Tensor) -> Tensor:
        d = model.of(w[None])[0][0] - model.truth.double()
        return ((d @ S) * d).sum() / 2

    found: np.ndarray = torch.linalg.eigvalsh(torch.autograd.functional.hessian(loss, model.start.double())).numpy()
    return found
