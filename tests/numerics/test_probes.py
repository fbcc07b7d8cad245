"""Each direction is the one its formula, or scikit-learn, gives; all turn and scale with the rows."""

import numpy as np
import pytest
import torch
from sklearn.covariance import LedoitWolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor

from strobe.numerics.probes import (
    _lbfgs,
    _newton,
    difference_of_means,
    discriminant,
    logistic_path,
    principal_difference,
    ridge_path,
    shrinkage,
    within,
)


def groups(n: int, k: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    gen = torch.Generator().manual_seed(seed)
    y = torch.where(torch.rand(n, generator=gen) > 0.4, 1.0, -1.0)
    Z = torch.randn(n, k, generator=gen, dtype=torch.float64) * torch.arange(1, k + 1) ** -0.5
    return Z + 0.8 * y[:, None] * torch.eye(k, dtype=torch.float64)[2] + 3, y


def cos(a: Tensor, b: Tensor) -> float:
    return float(torch.as_tensor(a) @ torch.as_tensor(b) / torch.as_tensor(a).norm() / torch.as_tensor(b).norm())


@pytest.mark.parametrize(("n", "k"), [(60, 20), (40, 90)])
def test_against_scikit_learn(n: int, k: int) -> None:
    Z, y = groups(n, k)
    X, t = Z.numpy(), y.numpy()
    s = float(((Z - Z.mean(0)) ** 2).sum() / n)
    mine = ridge_path(Z, y[None], [0.01, 1.0])[:, 0]
    for v, p in zip(mine, (0.01, 1.0), strict=True):
        assert np.allclose(v, Ridge(alpha=p * s * n).fit(X, t).coef_, atol=1e-9)
    assert shrinkage(Z, y) == pytest.approx(
        LedoitWolf(assume_centered=True).fit(within(Z, y).numpy()).shrinkage_, rel=1e-6
    )
    truth = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage(Z, y), priors=[0.5, 0.5])
    truth.covariance_estimator = None
    assert (
        cos(
            discriminant(Z, y),
            torch.from_numpy(
                np.linalg.solve(
                    _mixed(within(Z, y).numpy(), shrinkage(Z, y)), (Z[y > 0].mean(0) - Z[y < 0].mean(0)).numpy()
                )
            ),
        )
        > 1 - 1e-9
    )
    v, b = logistic_path(Z, y, [0.1, 0.001])
    for i, p in enumerate((0.1, 0.001)):
        fit = LogisticRegression(C=1 / (p * s * n), tol=1e-10, max_iter=5000).fit(X, t)
        assert cos(v[i], torch.from_numpy(fit.coef_[0])) > 0.9999
        assert float(b[i]) == pytest.approx(float(fit.intercept_[0]), rel=0.02, abs=0.02)


@pytest.mark.parametrize("apart", [0.8, 6.0])  # and where the groups are separable
def test_newton_in_the_span_is_lbfgs(apart: float) -> None:
    Z, y = groups(70, 60)
    Z = Z + (apart - 0.8) * y[:, None] * torch.eye(60, dtype=torch.float64)[2]
    y, X, penalties = y.double(), (Z - Z.mean(0)) / 2, [1.0, 1e-2, 1e-4]
    one, other = _newton(X, y, penalties), _lbfgs(X, y, penalties)

    def loss(v: Tensor, b: Tensor, p: float) -> float:
        return float(torch.nn.functional.softplus(-y * (X @ v + b)).mean() + p / 2 * v @ v)

    for p in penalties:
        assert loss(*one[p], p) <= loss(*other[p], p) + 1e-12
        assert cos(one[p][0], other[p][0]) > 0.9999
        assert float(one[p][1]) == pytest.approx(float(other[p][1]), abs=0.01 * (1 + float(other[p][1].abs())))


def _mixed(W: np.ndarray, delta: float) -> np.ndarray:
    S = W.T @ W / len(W)
    return (1 - delta) * S + delta * np.trace(S) / len(S) * np.eye(len(S))


def test_rows_that_are_all_the_same_give_no_direction() -> None:
    for k in (3, 40):
        assert not ridge_path(torch.ones(20, k), groups(20, 3)[1][None], [1e-3, 1.0]).any()


def test_labellings_at_once_are_labellings_one_by_one() -> None:
    Z, y = groups(50, 30)
    Y = torch.stack([y, -y, y[torch.randperm(50, generator=torch.Generator().manual_seed(1))]])
    many = ridge_path(Z, Y, [0.1])[0]
    assert all(torch.allclose(many[i], ridge_path(Z, Y[i : i + 1], [0.1])[0, 0]) for i in range(3))
    assert torch.allclose(difference_of_means(Z, Y)[2], Z[Y[2] > 0].mean(0) - Z[Y[2] < 0].mean(0))


def test_all_turn_and_scale_with_the_rows() -> None:
    Z, y = groups(60, 25)
    Q = torch.linalg.qr(torch.randn(25, 25, generator=torch.Generator().manual_seed(2), dtype=torch.float64))[0]

    def all_(Z: Tensor) -> list[Tensor]:
        pairs = principal_difference(Z, y, torch.Generator().manual_seed(0))
        return [
            difference_of_means(Z, y[None])[0],
            ridge_path(Z, y[None], [0.1])[0, 0],
            discriminant(Z, y),
            pairs,
            logistic_path(Z, y, [0.01])[0][0],
        ]

    for a, b in zip(all_(Z), all_(40 * (Z @ Q) + 1e3), strict=True):
        assert cos(a @ Q, b) > 1 - 1e-5


def test_the_principal_difference_follows_what_varies_most_not_the_concept() -> None:
    Z, y = groups(400, 40, seed=3)
    Z[:, 0] *= 20
    v = principal_difference(Z, y, torch.Generator().manual_seed(0))
    assert abs(float(v[0])) > 0.99 > 0.5 > abs(float(v[2]))
    assert abs(cos(discriminant(Z, y), torch.eye(40, dtype=torch.float64)[2])) > 0.85
