"""Learning curves: gradients against autograd, the regular posterior in closed form, the singular one against Gibbs sampling."""

import numpy as np
import pytest
import torch

from strobe.studies.learning_curves import PRECISION, Model, _Stack, learning_curve, models, spectrum

MODELS = {m.name: m for m in models()}


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_the_gradient_written_out_is_that_of_autograd_and_the_start_is_the_truth(model: Model) -> None:
    g = torch.Generator().manual_seed(0)
    stack = _Stack(model, (50,), 3, g)
    w = torch.randn(3, model.parameters, generator=g)
    own = stack(w)[1].clone()
    leaf = w.clone().requires_grad_()
    W = model.of(leaf)[0]
    (((W @ stack.S) * W).sum() / 2 - (stack.C * W).sum()).backward()
    assert leaf.grad is not None
    torch.testing.assert_close(own, leaf.grad)
    torch.testing.assert_close(model.of(model.start[None])[0][0], model.truth)


def test_the_regular_posterior_is_exact_data_set_by_data_set() -> None:
    """y | x ~ N(Ŵ x, 1 + xᵀ P x), P = (n S + 1)⁻¹: its G is an average over x alone, here of 20,000."""
    model, g = MODELS["linear regression 3-2, regular"], torch.Generator().manual_seed(3)
    got = learning_curve(model, sizes=(60, 200), sets=6, draws=2400, chains=4, fresh=4000, seed=3)
    stack = _Stack(model, (60, 200), 6, g)
    x = torch.randn(20_000, 3, generator=g).double()
    gaps: list[float] = []
    for k in range(12):
        n, S, C = float(stack.n[k]), stack.S[k].double(), stack.C[k].double()
        P = torch.linalg.inv(n * S + PRECISION * torch.eye(3))
        off = (x @ (n * C @ P - model.truth).T).square().sum(1)
        v = 1 + ((x @ P) * x).sum(1)
        G = (v.log() + (2 + off) / (2 * v) - 1).mean()  # two outputs
        assert got.bayes.ravel()[k] == pytest.approx(n * float(G), abs=0.4)  # what new examples leave: 0.1
        gaps.append(got.bayes.ravel()[k] - n * float(G))
        each = ((n * C @ P - model.truth).square().sum() / 2 + torch.trace(P)) * n
        assert got.draw.ravel()[k] == pytest.approx(float(each), rel=0.05)
    assert abs(np.mean(gaps)) < 0.1
    assert got.best.ravel() == pytest.approx(got.mean.ravel(), rel=0.1, abs=0.15)


def test_the_singular_posterior_is_that_of_gibbs_sampling() -> None:
    """Given A, B is normal row by row, and given B, A is: exact draws, 1,500 sweeps of 48 chains."""
    model, chains = MODELS["reduced rank 2-2-2, rank 0"], 48
    got = learning_curve(model, sizes=(100,), sets=2, draws=2000, chains=16, seed=5)
    stack, rng = _Stack(model, (100,), 2, torch.Generator().manual_seed(5)), np.random.default_rng(0)
    for k in range(2):
        S, C = (z[k].double().numpy() * 100 for z in (stack.S, stack.C))
        A, seen = rng.normal(size=(chains, 2, 2)), []
        for sweep in range(1500):
            At = A.transpose(0, 2, 1)
            V = np.linalg.inv(A @ S @ At + PRECISION * np.eye(2))
            B = C @ At @ V + rng.normal(size=A.shape) @ np.linalg.cholesky(V).transpose(0, 2, 1)
            Bt = B.transpose(0, 2, 1)
            V = np.linalg.inv(np.einsum("mij,kl->mikjl", Bt @ B, S).reshape(-1, 4, 4) + PRECISION * np.eye(4))
            move = np.linalg.cholesky(V) @ rng.normal(size=(chains, 4, 1)) + V @ (Bt @ C).reshape(-1, 4, 1)
            A = move.reshape(-1, 2, 2)
            if sweep > 200:
                seen.append(((B @ A) ** 2).sum((1, 2)).mean())
        assert got.draw[0, k] == pytest.approx(100 * np.mean(seen) / 2, rel=0.04)


def test_new_examples_in_number_change_little() -> None:
    model = MODELS["reduced rank 3-2-3, rank 1"]
    few, many = (learning_curve(model, sizes=(200,), sets=20, draws=200, fresh=n).bayes for n in (200, 4000))
    assert np.std(few - many) < 0.6  # against 2 of the data sets
    assert few.mean() == pytest.approx(many.mean(), abs=3 * np.std(few - many) / 20**0.5)


def test_the_hessian_is_flat_where_the_model_is_singular() -> None:
    flat = {name: int((np.abs(spectrum(m)) < 1e-6).sum()) for name, m in MODELS.items()}
    assert list(flat.values()) == [7, 8, 4, 0]  # 12 less the dimension of 3 x 3 matrices of rank 1; all; all; none
