"""Density, trace, diagonal, blocks, Gauss-Newton and Fisher: each against the dense matrix, and where it must refuse."""

import numpy as np
import pytest
import torch
from reference.dense import dense_hessian
from torch import Tensor, nn
from torch.func import functional_call, jacrev
from torch.nn.functional import cross_entropy

from strobe.core.errors import BadOption, Diverged, SiteNotFound
from strobe.core.snapshot import Snapshot
from strobe.observables.block_sharpness import block_sharpness
from strobe.observables.curvature_operator import curvature_operator
from strobe.observables.gradient_covariance import gradient_covariance
from strobe.observables.hessian_trace import HessianTraceTracker, hessian_diagonal, hessian_trace
from strobe.observables.sharpness import SharpnessTracker, sharpness
from strobe.observables.spectral_density import spectral_density

KINDS = ("hessian", "gauss_newton", "empirical_fisher")


def loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
    return cross_entropy(model(data[0]), data[1])


SPLIT = {"outputs": lambda m, d: m(d[0]), "loss_of_outputs": lambda z, d: cross_entropy(z, d[1])}


def kind(of: str) -> dict:
    return {"of": of, **(SPLIT if of == "gauss_newton" else {})}


def trained(steps: int = 30, width: int = 12, n: int = 60) -> Snapshot:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(5, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 4)
    ).double()
    x = torch.randn(n, 5, dtype=torch.float64)
    data = (x, (x[:, :4] + 0.5 * torch.randn(n, 4)).argmax(1))
    opt = torch.optim.SGD(net.parameters(), lr=0.5)
    for _ in range(steps):
        opt.zero_grad()
        loss(net, data).backward()
        opt.step()
    opt.zero_grad()
    return Snapshot(net, loss, data, steps)


def dense(snap: Snapshot, of: str) -> Tensor:
    """The slow, obvious ones: Jacobians by jacrev, of logits and of single losses."""
    if of == "hessian":
        return dense_hessian(snap)
    params, (x, y) = snap.params(), snap.data

    def flat(j: dict[str, Tensor]) -> Tensor:
        pairs = zip(j.values(), params.values(), strict=True)
        return torch.cat([v.reshape(*v.shape[: v.ndim - p.ndim], -1) for v, p in pairs], -1)

    if of == "empirical_fisher":
        g = flat(jacrev(lambda p: cross_entropy(functional_call(snap.model, p, (x,)), y, reduction="none"))(params))
        return g.T @ g / len(x)
    jac = flat(jacrev(lambda p: functional_call(snap.model, p, (x,)))(params))  # (n, 4, P)
    prob = snap.model(x).softmax(-1).detach()
    inner = torch.diag_embed(prob) - prob[:, :, None] * prob[:, None]
    return torch.einsum("nap,nab,nbq->pq", jac, inner, jac) / len(x)


@pytest.mark.parametrize("of", KINDS)
def test_products_are_those_of_the_dense_matrix_also_of_a_part(of: str) -> None:
    snap = trained()
    full = dense(snap, of)
    with curvature_operator(snap, **kind(of)) as a:
        got = torch.stack([a(e) for e in torch.eye(a.dim, dtype=torch.float64)])
    assert torch.allclose(got, full, atol=1e-10)
    for part, take in (
        ("2.*", slice(72, 228)),
        (["2:param.weight/3@0[1]", "4.bias"], [*range(72 + 48, 72 + 96), *range(276, 280)]),
    ):
        with curvature_operator(snap, **kind(of), part=part) as a:
            got = torch.stack([a(e) for e in torch.eye(a.dim, dtype=torch.float64)])
        assert torch.allclose(got, full[take][:, take], atol=1e-10)


@pytest.mark.parametrize("of", KINDS)
def test_eigenvalues_trace_diagonal_and_density_agree_with_the_dense_matrix(of: str) -> None:
    snap = trained()
    full = dense(snap, of)
    values = torch.linalg.eigvalsh(full).numpy()
    top = sharpness(snap, k=3, **kind(of))
    assert top.how["converged"]
    assert np.allclose(top.value, values[::-1][:3], rtol=1e-3)
    readings = [hessian_trace(snap, **kind(of), vectors=8, seed=s) for s in range(20)]
    z = [(r.value - values.sum()) / r.err for r in readings]
    assert np.mean(np.abs(z) < 3) >= 0.9
    assert abs(np.mean(z)) < 1.0
    diag = hessian_diagonal(snap, **kind(of), probes=20)
    assert np.mean(np.abs(diag.value - full.diagonal().numpy()) <= 3 * diag.err + 1e-12) > 0.97
    got = spectral_density(snap, **kind(of), probes=6, steps=40, width=0.05 * values[-1])
    grid, size = np.array(got.how["grid"]), got.how["width"]
    truth = (np.exp(-(((values[:, None] - grid) / size) ** 2) / 2) / (size * np.sqrt(2 * np.pi))).mean(0)
    assert np.abs(got.value - truth).sum() < 0.1 * truth.sum()
    assert np.mean(np.abs(got.value - truth) <= 3 * got.err + 1e-3 * truth.max()) > 0.95
    assert np.allclose(got.how["found"][:3], values[::-1][:3], rtol=1e-2)


def test_gauss_newton_of_a_linear_model_is_its_hessian_and_elsewhere_it_is_not() -> None:
    torch.manual_seed(0)
    snap = Snapshot(nn.Linear(6, 4), loss, (torch.randn(40, 6), torch.randint(4, (40,))))
    assert sharpness(snap, **kind("gauss_newton")).value == pytest.approx(sharpness(snap).value, rel=1e-3)
    rough = trained(0)
    assert abs(sharpness(rough, **kind("gauss_newton")).value / sharpness(rough).value - 1) > 0.01


def test_more_vectors_are_a_smaller_error_faster_than_plain_and_the_whole_space_none() -> None:
    snap = trained()
    few, many = hessian_trace(snap, vectors=10), hessian_trace(snap, vectors=40)
    assert many.err < 0.35 * few.err  # plain means fall to 0.5
    small = Snapshot(nn.Linear(3, 2), loss, (torch.randn(9, 3), torch.randint(2, (9,))))
    exact = dense_hessian(small).trace().item()
    assert hessian_trace(small, vectors=20).value == pytest.approx(exact, rel=1e-5)
    assert hessian_trace(small, vectors=20).err == 0


def test_traces_of_all_parts_come_from_one_set_of_probes() -> None:
    snap = trained()
    diagonal = dense_hessian(snap).diagonal()
    truth = [diagonal[a:b].sum().item() for a, b in ((0, 72), (72, 228), (228, 280))]
    got = hessian_trace(snap, parts="modules", vectors=30)
    assert got.how["labels"] == ["0", "2", "4"]
    assert got.how["sizes"] == [72, 156, 52]
    assert (np.abs(got.value - truth) <= 3 * got.err).all()
    one = hessian_trace(snap, part="2.*", vectors=30)
    assert abs(one.value - truth[1]) <= 3 * one.err


def test_a_block_is_a_principal_submatrix() -> None:
    snap = trained()
    full = dense_hessian(snap)
    got = block_sharpness(snap)
    truth = [torch.linalg.eigvalsh(full[a:b, a:b])[-1].item() for a, b in ((0, 72), (72, 228), (228, 280))]
    assert np.allclose(got.value, truth, rtol=1e-3)
    assert got.value.max() <= sharpness(snap).value * 1.001
    again = block_sharpness(snap, parts={"later": ["2.*", "4.*"]}, **kind("gauss_newton"))
    g = dense(snap, "gauss_newton")[72:, 72:]
    assert again.value[0] == pytest.approx(torch.linalg.eigvalsh(g)[-1].item(), rel=1e-3)


def test_known_eigenvalues_have_exact_weight_and_a_double_one_counts_twice() -> None:
    """60 directions at 1, two at 9 and one at 20: loss = Σ λᵢ wᵢ² / 2."""
    lam = torch.cat([torch.linspace(0.5, 1.5, 297), torch.tensor([9.0, 9.0, 20.0])])
    net = nn.Linear(300, 1, bias=False)
    snap = Snapshot(net, lambda m, s: (s * m.weight[0].square()).sum() / 2, lam)
    got = spectral_density(snap, probes=8, steps=30, span=(-2.0, 24.0), points=1041, width=0.1)
    grid = np.array(got.how["grid"])
    mass = lambda a, b: np.trapezoid(np.where((grid > a) & (grid < b), got.value, 0), grid)  # noqa: E731
    assert mass(19, 21) * 300 == pytest.approx(1, rel=1e-3)
    assert mass(8, 10) * 300 == pytest.approx(2, abs=1.3)  # the second copy is left to the probes
    assert mass(0, 2.5) * 300 == pytest.approx(297, rel=0.01)
    assert got.how["found"][0] == pytest.approx(20, rel=1e-4)


@pytest.mark.parametrize("small", [True, False])
def test_errors_of_the_density_are_honest_over_seeds(small: bool) -> None:
    snap = trained(width=4 if small else 12)
    ask = {"probes": 6, "steps": 25, "span": (-0.5, 3.0), "width": 0.05, "points": 60}
    rows = [spectral_density(snap, **ask, seed=s) for s in range(12)]
    values, errs = np.stack([r.value for r in rows]), np.stack([r.err for r in rows])
    assert (values.std(0, ddof=1) <= 2 * errs.mean(0) + 1e-9).mean() > 0.95


def test_trackers_of_trace_and_gauss_newton_follow_a_run_for_less() -> None:
    snap = trained(0)
    trace, top = HessianTraceTracker(), SharpnessTracker()
    opt = torch.optim.SGD(snap.model.parameters(), lr=0.3)
    for step in range(8):
        now = Snapshot(snap.model, loss, snap.data, step)
        truth = dense_hessian(now).trace().item()
        got = trace(now, sketch=8, probes=12)
        assert abs(got.value - truth) <= 4 * got.err
        assert got.how["products"] == (20 if step else 28)
        gn = top(now, **kind("gauss_newton"))
        assert gn.value == pytest.approx(sharpness(now, **kind("gauss_newton")).value, rel=2e-3)
        opt.zero_grad()
        loss(snap.model, snap.data).backward()
        opt.step()


def test_a_model_that_vmap_cannot_take_has_a_fisher_matrix_too() -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(5, 4).double()

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) if float(x.sum()) > -1e9 else x

    torch.manual_seed(0)
    snap = Snapshot(Branch(), loss, trained(0).data)
    with curvature_operator(snap, of="empirical_fisher") as a:
        got = torch.stack([a(e) for e in torch.eye(a.dim, dtype=torch.float64)])
    assert torch.allclose(got, dense(snap, "empirical_fisher"), atol=1e-10)


def test_gradient_covariance_is_the_dense_one() -> None:
    snap = trained()
    params, (x, y) = snap.params(), snap.data
    g = jacrev(lambda p: cross_entropy(functional_call(snap.model, p, (x,)), y, reduction="none"))(params)
    rows = torch.cat([v.reshape(60, -1) for v in g.values()], 1)
    truth = torch.linalg.eigvalsh(torch.cov(rows.T)).flip(0)[:3].numpy()
    got = gradient_covariance(snap, k=3, chunks=60)
    assert np.allclose(got.value, truth, rtol=1e-8)
    assert got.how["trace"] == pytest.approx(torch.cov(rows.T).trace().item(), rel=1e-8)
    with pytest.raises(BadOption, match="1 <= k < chunks"):
        gradient_covariance(snap, k=60, chunks=60)
    with pytest.raises(BadOption, match="number of examples"):
        gradient_covariance(snap, chunks=61)


def test_it_refuses_what_it_cannot_mean() -> None:
    snap = trained()
    with pytest.raises(BadOption, match="splits the loss in two"):
        sharpness(snap, of="gauss_newton")
    with pytest.raises(BadOption, match="another function"):
        sharpness(
            snap, of="gauss_newton", outputs=SPLIT["outputs"], loss_of_outputs=lambda z, d: 2 * cross_entropy(z, d[1])
        )
    with pytest.raises(BadOption, match='is "gauss_newton"'):
        hessian_trace(snap, of="fisher")
    with pytest.raises(BadOption, match="belong to"):
        hessian_trace(snap, **SPLIT)
    with pytest.raises(BadOption, match="mean of the losses"):
        hessian_trace(Snapshot(snap.model, lambda m, d: len(d[0]) * loss(m, d), snap.data), of="empirical_fisher")
    with pytest.raises(SiteNotFound, match="no trainable parameter"):
        spectral_density(snap, part="blocks.*")
    with pytest.raises(BadOption, match="at least 8"):
        hessian_trace(snap, vectors=2)
    with pytest.raises(BadOption, match="probes >= 4"):
        hessian_diagonal(snap, probes=2)
    with pytest.raises(BadOption, match="not both"):
        hessian_trace(snap, part="0.*", parts="modules")
    for bad in ({"probes": 3}, {"steps": 1}, {"span": (1.0, 0.0)}, {"width": 0.0}, {"points": 1}):
        with pytest.raises(BadOption):
            spectral_density(snap, **bad)
    with torch.no_grad():
        snap.model[0].weight.fill_(torch.nan)  # type: ignore[index, operator, union-attr]
    for observable in (spectral_density, hessian_trace, hessian_diagonal):
        with pytest.raises(Diverged):
            observable(snap)
