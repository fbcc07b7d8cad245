"""Sharpness: closed forms, the dense Hessian, an honest error over seeds, every odd model, no trace."""

import gc
import json

import numpy as np
import pytest
import torch
from reference.dense import dense_hessian, dense_top
from torch import Tensor, nn

from strobe.core.errors import BadOption, Diverged, StrobeError
from strobe.core.snapshot import Snapshot
from strobe.observables.sharpness import SharpnessTracker, preconditioned_sharpness, sharpness


def mse(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
    return (model(data[0]) - data[1]).square().mean()


class Odd(nn.Module):
    """Batch norm, dropout, tied weights, an unused, a frozen and a linear parameter, and fused attention."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.drop = nn.Linear(6, 6), nn.BatchNorm1d(6), nn.Dropout(0.5)
        self.tied = nn.Linear(6, 6, bias=False)
        self.tied.weight = self.a.weight
        self.unused, self.linear = nn.Linear(2, 2), nn.Parameter(torch.zeros(2))
        self.frozen = nn.Parameter(torch.ones(6), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        h = self.drop(self.norm(torch.tanh(self.a(x)))) * self.frozen
        q = h.view(-1, 1, 2, 3)
        h = h + nn.functional.scaled_dot_product_attention(q, q, q).flatten(1)
        return self.tied(h)


def odd_loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
    assert isinstance(model, Odd)
    return mse(model, data) + 0.1 * model.linear.sum()


def data(n: int = 24, d: int = 6) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=g), torch.randn(n, d, generator=g)


def odd(mode: str = "eval") -> Snapshot:
    torch.manual_seed(1)
    return Snapshot(Odd(), odd_loss, data(), mode=mode)


def mlp(seed: int = 0, steps: int = 0) -> Snapshot:
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 6))
    snap = Snapshot(net, mse, data(), steps)
    opt = torch.optim.SGD(net.parameters(), lr=0.3)
    for _ in range(steps):
        opt.zero_grad()
        mse(net, snap.data).backward()
        opt.step()
    opt.zero_grad()
    return snap


def test_a_least_squares_problem_has_the_spectrum_of_its_data() -> None:
    """loss = mean over n of (x·w − y)²: H = 2 XᵀX / n, whatever w is."""
    x = torch.randn(50, 8, generator=torch.Generator().manual_seed(3))
    net = nn.Linear(8, 1, bias=False)
    known = torch.linalg.eigvalsh(2 * (x.T @ x).double() / 50).flip(0)
    got = sharpness(Snapshot(net, mse, (x, torch.randn(50, 1))), k=3)
    assert np.allclose(got.value, known[:3], rtol=1e-5)
    assert got.how["converged"]
    assert got.unit == "loss/θ²"


def test_the_two_layer_linear_saddle_has_fourfold_singular_values() -> None:
    """½‖M − BA‖² at A = B = 0 with 4 hidden units: H = [[0, −M], [−Mᵀ, 0]] ⊗ I₄, eigenvalues ±s of M, each 4 times."""
    m = torch.diag(torch.tensor([3.0, 2.0, 1.0]))
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.Linear(4, 3, bias=False))
    for p in net.parameters():
        nn.init.zeros_(p)
    snap = Snapshot(net, lambda f, target: 0.5 * (f(torch.eye(3)) - target).square().sum(), m)
    for seed in range(8):
        got = sharpness(snap, k=6, seed=seed)
        assert np.allclose(got.value, [3, 3, 3, 3, 2, 2], rtol=1e-3)
        assert got.how["converged"]


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_the_operator_agrees_with_the_slow_one_on_an_odd_model(mode: str) -> None:
    snap = odd(mode)
    snap = Snapshot(snap.model.double(), odd_loss, tuple(x.double() for x in snap.data), mode=mode)
    params = snap.params()
    g = torch.Generator().manual_seed(5)
    v = {k: torch.randn(p.shape, generator=g, dtype=torch.float64) for k, p in params.items()}
    flat = torch.cat([v[k].reshape(-1) for k in params])
    slow = snap.hvp(v)
    with snap.hvp_operator() as hvp:
        fast, again = hvp(flat), hvp(flat)
    assert torch.allclose(fast, torch.cat([slow[k].reshape(-1) for k in params]), rtol=1e-9, atol=1e-12)
    assert torch.equal(fast, again)
    assert not any(snap.model.get_parameter(k).grad is not None for k in params)


def test_an_odd_model_against_its_dense_hessian() -> None:
    snap = odd()
    got = sharpness(snap, k=4)
    known = dense_top(dense_hessian(snap), 4).numpy()
    assert (np.abs(got.value - known) <= 2 * got.err + 1e-6).all()
    assert np.allclose(got.value, known, rtol=1e-3)


@pytest.mark.parametrize(("k", "steps"), [(1, 0), (1, 60), (4, 0), (4, 60)])
def test_the_error_is_honest_over_seeds_and_against_the_truth(k: int, steps: int) -> None:
    snap = mlp(steps=steps)
    known = dense_top(dense_hessian(snap), k).numpy()
    readings = [sharpness(snap, k=k, seed=s) for s in range(8)]
    values, errs = np.array([r.value for r in readings]), np.array([r.err for r in readings])
    assert (values.std(axis=0) <= 2 * errs.min(axis=0)).all()
    assert (np.abs(values - known) <= 2 * errs + 1e-6 * abs(known[0])).all()
    assert (np.abs(values - known) <= 1e-3 * np.abs(known)).all()
    assert all(r.how["converged"] for r in readings)


def test_unconverged_is_said_and_its_error_still_holds() -> None:
    snap = mlp(steps=60)
    known = dense_top(dense_hessian(snap), 3).numpy()
    got = sharpness(snap, k=3, max_hvps=5)
    assert got.how["hvps"] == 5
    assert got.how["converged"] is False
    assert (np.abs(got.value - known) <= got.err).all()
    assert got.err.max() > 0.01 * known[0]


@pytest.mark.parametrize("k", [1, 3])
def test_the_tracked_number_agrees_with_the_cold_one_at_every_step(k: int) -> None:
    snap, track, cold_cost, warm_cost = mlp(), SharpnessTracker(proof=10), 0, 0
    opt = torch.optim.SGD(snap.model.parameters(), lr=0.3)
    for step in range(25):
        now = Snapshot(snap.model, mse, snap.data, step)
        warm, cold = track(now, k=k), sharpness(now, k=k)
        assert warm.how["converged"]
        assert (np.abs(np.subtract(warm.value, cold.value)) <= np.add(warm.err, cold.err)).all()
        cold_cost += cold.how["hvps"]
        warm_cost += warm.how["hvps"]
        opt.zero_grad()
        mse(snap.model, snap.data).backward()
        opt.step()
    assert warm_cost < 0.75 * cold_cost
    other = Snapshot(nn.Linear(6, 6), mse, data())
    assert np.allclose(track(other, k=k).value, sharpness(other, k=k).value, rtol=1e-3)  # another model: starts cold


def test_a_tracker_finds_an_eigenvalue_that_came_from_below_by_its_next_bounded_call() -> None:
    """A new direction overtakes everything it follows; only a probe can know."""
    torch.manual_seed(0)
    net = nn.Linear(40, 1, bias=False)
    scale = torch.linspace(1, 0.2, 40)
    track = SharpnessTracker(proof=3)
    seen = []
    for step in range(6):
        rows = scale.clone()
        rows[30] = 3.0 if step else rows[30]
        snap = Snapshot(net, lambda m, x: (m.weight * x).square().sum(), rows[None])
        seen.append(track(snap).value)
    assert seen[0] == pytest.approx(2.0, rel=1e-3)
    assert seen[-1] == pytest.approx(18.0, rel=1e-3)


def test_preconditioned_is_the_plain_one_in_other_coordinates() -> None:
    snap = mlp(steps=20)
    params = snap.params()
    g = torch.Generator().manual_seed(2)
    pre = {k: 0.1 + torch.rand(p.shape, generator=g) for k, p in params.items()}
    root = torch.cat([pre[k].reshape(-1) for k in params]).rsqrt()
    known = dense_top(root[:, None] * dense_hessian(snap) * root, 3).numpy()
    assert np.allclose(preconditioned_sharpness(snap, preconditioner=pre, k=3).value, known, rtol=1e-3)
    ones = {k: torch.ones_like(p) for k, p in params.items()}
    assert preconditioned_sharpness(snap, preconditioner=ones).value == sharpness(snap).value
    with pytest.raises(BadOption, match=r"'0\.bias' is in one only"):
        preconditioned_sharpness(snap, preconditioner={k: v for k, v in ones.items() if k != "0.bias"})
    with pytest.raises(BadOption, match="not positive"):
        preconditioned_sharpness(snap, preconditioner={k: 0 * v for k, v in ones.items()})
    with pytest.raises(BadOption, match="shape"):
        preconditioned_sharpness(snap, preconditioner={k: v.reshape(-1)[:1] for k, v in ones.items()})


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_it_leaves_no_trace_and_repeats_bit_equal(mode: str) -> None:
    snap = odd(mode)
    snap.model.train(mode == "eval")  # the other mode, to be put back
    before = {k: v.clone() for k, v in snap.model.state_dict().items()}
    fired: list[int] = []
    snap.model.a.weight.register_hook(lambda g: fired.append(1))
    random = torch.random.get_rng_state()
    first = sharpness(snap)
    assert torch.equal(torch.random.get_rng_state(), random)
    assert all(torch.equal(v, before[k]) for k, v in snap.model.state_dict().items())
    assert all(p.grad is None for p in snap.model.parameters())
    assert snap.model.training == (mode == "eval")
    assert not fired
    assert sharpness(snap) == first
    json.dumps(first.how)


def test_the_graph_is_freed_also_after_an_exception() -> None:
    def tensors() -> int:
        gc.collect()
        return sum(issubclass(type(o), Tensor) for o in gc.get_objects())

    snap = mlp()
    sharpness(snap)
    before = tensors()
    for _ in range(3):
        sharpness(snap)
        with pytest.raises(KeyError), snap.hvp_operator():
            raise KeyError
    assert tensors() <= before + 1
    with snap.hvp_operator() as hvp:
        pass
    with pytest.raises(StrobeError, match="closed"):
        hvp(torch.zeros(1))


def test_it_refuses_what_has_no_hessian() -> None:
    frozen = nn.Linear(2, 2).requires_grad_(False)
    with pytest.raises(BadOption, match="requires_grad"):
        sharpness(Snapshot(frozen, mse, data(d=2)))
    with pytest.raises(BadOption, match="does not depend"):
        sharpness(Snapshot(nn.Linear(6, 6), lambda m, d: mse(m, d).detach(), data()))
    with pytest.raises(BadOption, match="1 <= k <= 42"):
        sharpness(Snapshot(nn.Linear(6, 6), mse, data()), k=0)
    with pytest.raises(BadOption, match="matrix of vectors"):
        sharpness(mlp(), start=torch.zeros(3, 1))
    with pytest.raises(BadOption, match="tol > 0"):
        sharpness(mlp(), tol=0)
    snap = mlp()
    with snap.hvp_operator() as hvp, pytest.raises(BadOption, match="flat vector"):
        hvp(torch.zeros(3))
    broken = mlp()
    with torch.no_grad():
        broken.model[0].weight.fill_(torch.nan)  # type: ignore[index, operator, union-attr]
    with pytest.raises(Diverged, match="step 0"):
        sharpness(broken)


def test_a_linear_loss_has_none() -> None:
    snap = Snapshot(nn.Linear(3, 1), lambda m, x: m(x).sum(), torch.ones(2, 3))
    got = sharpness(snap)
    assert got.value == 0.0
