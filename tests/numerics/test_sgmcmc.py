import numpy as np
import pytest
import torch
from torch import Tensor

from strobe.numerics.chains import chained
from strobe.numerics.noise import Noise
from strobe.numerics.sgmcmc import Diverging, Metric, Target, hamiltonian, langevin, stiffness

H = torch.tensor([2.0, 1.0, 0.1, 0.001])


def quadratic(w: Tensor, t: int) -> tuple[Tensor, Tensor]:
    return (H * w.square()).sum(1) / 2, H * w


def crossing(w: Tensor, t: int) -> tuple[Tensor, Tensor]:
    """(w₁ w₂)², whose N E[ΔL] at N = 145, γ = 1 is 0.3614 by quadrature (specs/slt.md, section 0)."""
    a, b = w[:, 0], w[:, 1]
    return (a * b).square(), torch.stack([2 * a * b * b, 2 * a * a * b], 1)


def target(nbeta: float, gamma: float, chains: int, size: int) -> Target:
    one = torch.ones(chains, 1)
    return Target(torch.zeros(size), nbeta * one, gamma * one)


class Same:
    """Noise that any reader gets in the same order."""

    def __init__(self) -> None:
        self.g = torch.Generator().manual_seed(3)

    def fill(self, out: Tensor) -> Tensor:
        return out.normal_(generator=self.g)


@pytest.mark.parametrize("memory", [0.0, 0.7])
def test_the_stack_does_what_one_chain_after_another_does(memory: float) -> None:
    chains, draws, eps = 3, 20, 0.004
    to = Target(
        torch.tensor([0.1, 0.2, 0.0, -0.1]),
        torch.tensor([[50.0], [100.0], [145.0]]),
        torch.tensor([[1.0], [2.0], [5.0]]),
    )
    metric = torch.tensor([1.0, 0.5, 2.0, 1.0])
    w = torch.zeros(chains, 4)
    got = langevin(
        quadratic, w, to, step=torch.full((3, 1), eps), metric=metric, draws=draws, noise=Same(), memory=memory
    )  # type: ignore[arg-type]
    stream = Same()
    noises = [stream.fill(torch.empty(chains, 4)) for _ in range(draws + 1)]
    for c in range(chains):  # the formula, one number after another
        x, v = [0.0] * 4, noises[0][c].tolist()
        for t in range(draws):
            assert got.losses[c, t] == pytest.approx(
                sum(h * a * a for h, a in zip(H.tolist(), x, strict=True)) / 2, rel=1e-4
            )
            for i in range(4):
                s = (eps * float(metric[i])) ** 0.5
                force = float(to.nbeta[c]) * float(H[i]) * x[i] + float(to.gamma[c]) * (x[i] - float(to.center[i]))
                v[i] -= s * force
                x[i] += s / 2 * v[i]
                v[i] = memory * v[i] + (1 - memory**2) ** 0.5 * float(noises[t + 1][c, i])
                x[i] += s / 2 * v[i]
        assert got.w[c].tolist() == pytest.approx(x, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("memory", [0.0, 0.8])
@pytest.mark.parametrize("eps", [0.0014, 0.0055])  # a = ε N h / 2 of the stiffest: 0.2 and 0.8
def test_quadratics_are_exact_at_any_stable_step(eps: float, memory: float) -> None:
    n, gamma = 145.0, 10.0
    to = target(n, gamma, 400, 4)
    w = torch.randn(400, 4) / (n * H + gamma).sqrt()
    got = langevin(
        quadratic,
        w,
        to,
        step=torch.full((400, 1), eps),
        metric=torch.ones(4),
        draws=2000,
        noise=Noise(1),
        memory=memory,
    )
    c = chained(n * got.losses)
    exact = float((n * H / (n * H + gamma)).sum()) / 2
    usual = float((n * H / (n * H + gamma) / (1 - eps * (n * H + gamma) / 4)).sum()) / 2
    assert abs(c.mean - exact) < max(3 * c.err, 0.004 * exact)
    if eps > 0.005:
        assert usual > 1.2 * exact  # what the usual step would give


@pytest.mark.parametrize("sampler", ["langevin", "with memory", "hamiltonian", "mala"])
def test_a_singular_crossing_is_the_quadratures(sampler: str) -> None:
    to, w, one = target(145, 1, 64, 2), torch.zeros(64, 2), torch.ones(64, 1)
    if sampler.startswith(("lang", "with")):
        memory = 0.8 if sampler == "with memory" else 0.0
        got = langevin(
            crossing, w, to, step=0.001 * one, metric=torch.ones(2), draws=14000, noise=Noise(2), memory=memory
        )
    else:
        leaps = 1 if sampler == "mala" else None
        got = hamiltonian(
            crossing,
            w,
            to,
            step=0.12 * one,
            metric=torch.ones(2),
            draws=8000 if leaps else 800,
            noise=Noise(2),
            leaps=leaps,
        )
        assert got.accept is not None
        assert 0.6 < got.accept.mean() < 0.99
    c = chained(145 * got.losses[:, got.losses.shape[1] // 8 :])
    assert c.err < 0.025
    assert abs(c.mean - 0.3614) < 3 * c.err


def test_hamiltonian_steps_adapt_to_their_acceptance() -> None:
    to, step = target(145, 10, 50, 4), torch.full((50, 1), 1e-3)
    w = torch.zeros(50, 4)
    hamiltonian(quadratic, w, to, step=step, metric=torch.ones(4), draws=150, noise=Noise(0), adapt=True)
    got = hamiltonian(quadratic, w, to, step=step, metric=torch.ones(4), draws=200, noise=Noise(1))
    assert 0.7 < got.accept.mean() < 0.92


def test_a_chain_that_leaves_is_named() -> None:
    to = target(145, 1, 4, 4)
    step = torch.tensor([[1e-4], [1e-4], [1.0], [1e-4]])
    with pytest.raises(Diverging, match="chain 2 left at draw") as e:
        langevin(
            quadratic, torch.zeros(4, 4), to, step=step, metric=torch.ones(4), draws=400, noise=Noise(0), limit=1e6
        )
    assert e.value.chain == 2
    assert np.isfinite(e.value.last)
    with pytest.raises(Diverging):
        hamiltonian(
            lambda w, t: (w.sum(1) * torch.nan, w),
            torch.zeros(4, 4),
            to,
            step=step,
            metric=torch.ones(4),
            draws=2,
            noise=Noise(0),
        )


def test_temperatures_run_beside_one_another() -> None:
    n = torch.tensor([30.0, 300.0, 3000.0]).repeat_interleave(100)[:, None]
    to = Target(torch.zeros(4), n, torch.full((300, 1), 5.0))
    step = 1 / (n * 2 + 5)
    got = langevin(quadratic, torch.zeros(300, 4), to, step=step, metric=torch.ones(4), draws=4000, noise=Noise(4))
    for i, nbeta in enumerate((30.0, 300.0, 3000.0)):
        x = nbeta * got.losses[100 * i : 100 * (i + 1), 1000:]
        exact = float((nbeta * H / (nbeta * H + 5)).sum()) / 2
        assert abs(x.mean() - exact) < 0.05 * exact + 3 * chained(x).err


def test_stiffness_is_the_largest_eigenvalue() -> None:
    g = torch.Generator().manual_seed(0)
    a = torch.randn(6, 6, generator=g)
    a = a @ a.T + torch.diag(torch.tensor([30.0, 0, 0, 0, 0, 0]))
    metric = torch.rand(6, generator=g) + 0.1
    to = target(20, 3, 2, 6)
    start = torch.randn(2, 6, generator=g)
    got, along = stiffness(
        lambda w, t: ((w @ a * w).sum(1) / 2, w @ a), torch.zeros(2, 6), to, metric, start=start, turns=30
    )
    root = metric.sqrt()
    true = float(torch.linalg.eigvalsh(root[:, None] * (20 * a + 3 * torch.eye(6)) * root)[-1])
    assert got[:, 0].tolist() == pytest.approx([true, true], rel=0.02)
    again, _ = stiffness(
        lambda w, t: ((w @ a * w).sum(1) / 2, w @ a), torch.zeros(2, 6), to, metric, start=along, turns=2
    )
    assert again[:, 0].tolist() == pytest.approx([true, true], rel=0.02)


def test_the_metric_is_the_variance_of_what_stands_alone() -> None:
    to, w = target(100, 2, 200, 4), torch.zeros(200, 4)
    learn = Metric(to, torch.ones(4))

    def seeing(v: Tensor, t: int) -> tuple[Tensor, Tensor]:
        loss, grad = quadratic(v, t)
        learn.see(v, grad)
        return loss, grad

    langevin(seeing, w, to, step=torch.full((200, 1), 0.004), metric=torch.ones(4), draws=300, noise=Noise(0))
    assert learn.value(torch.ones(4)).tolist() == pytest.approx((1 / (100 * H + 2)).tolist(), rel=1e-3)


def test_a_metric_of_zero_freezes() -> None:
    w = torch.zeros(8, 4)
    metric = torch.tensor([1.0, 0.0, 1.0, 0.0])
    langevin(
        quadratic, w, target(145, 1, 8, 4), step=torch.full((8, 1), 0.004), metric=metric, draws=50, noise=Noise(0)
    )
    assert not w[:, [1, 3]].any()
    assert w[:, [0, 2]].all()


def test_noise_is_normal_and_its_own_for_each_seed() -> None:
    x = Noise(0).fill(torch.empty(500, 1001)).double()
    assert abs(float(x.mean())) < 0.006
    for power, moment in ((2, 1.0), (4, 3.0), (6, 15.0)):
        assert float(x.pow(power).mean()) == pytest.approx(moment, rel=0.02)
    assert abs(float((x[:, 1:] * x[:, :-1]).mean())) < 0.006
    one, two = Noise(1), Noise(1)
    a = one.fill(torch.empty(3, 5))
    assert torch.equal(a, two.fill(torch.empty(3, 5)))
    assert not torch.equal(a, one.fill(torch.empty(3, 5)))
    assert not torch.equal(a, Noise(2).fill(torch.empty(3, 5)))
    assert Noise(0).fill(torch.empty(7, dtype=torch.float64)).dtype == torch.float64
