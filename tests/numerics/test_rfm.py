"""The span form is the dense algorithm; offsets, scale and rotation change nothing; concepts at once are concepts one by one."""

import pytest
import torch
from reference.rfm import dense_rfm
from torch import Tensor

from strobe.numerics.auc import auc
from strobe.numerics.rfm import Span, rfm


def states(n: int, d: int, seed: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Rows with a power-law spectrum in a basis of their own, and that basis: what a residual stream looks like."""
    basis = torch.linalg.qr(torch.randn(d, min(d, 64), generator=torch.Generator().manual_seed(99)))[0]
    z = torch.randn(n, basis.shape[1], generator=torch.Generator().manual_seed(seed))
    X = z * torch.arange(1, basis.shape[1] + 1) ** -0.5 @ basis.T
    return (X + 0.02 * torch.randn(n, d, generator=torch.Generator().manual_seed(seed + 1))).to(dtype), basis


def even(X: Tensor, basis: Tensor) -> Tensor:
    """On where |projection| is large, of either sign: nothing linear."""
    p = X @ basis[:, 1]
    return (p.abs() > p.abs().median()).float()


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize(("n", "d", "size"), [(60, 90, 1.0), (60, 90, 30.0), (90, 30, 1.0)])
def test_the_span_form_is_the_dense_one(n: int, d: int, size: float, centred: bool) -> None:
    X, basis = states(n, d, 0)
    X, y = X * size, even(X, basis)
    new = states(30, d, 11)[0] * size
    truth = dense_rfm(X, y, new, bandwidth=2.0, ridge=1e-3, iterations=3, centred=centred)
    got = list(rfm(Span.of(X), y, bandwidth=2.0, iterations=3, centred=centred, scale="max"))
    for one, (agop, f) in zip(got, truth, strict=True):
        top = torch.linalg.eigh(agop)[1][:, -1]
        mine = one.span.lift(one.agop.directions[0, :1])[0].double()
        assert float(abs(mine @ top)) > 0.99999
        assert float((one.predict(*one.span.project(new))[0] - f).norm() / f.norm()) < 2e-3
        full = (one.span.lift(one.agop.directions[0]).double().T * one.agop.weights[0]) @ one.span.lift(
            one.agop.directions[0]
        ).double()
        assert float((full * agop).sum() / (full.norm() * agop.norm())) > 0.99999


def test_it_finds_a_concept_of_both_signs_where_a_line_finds_nothing() -> None:
    X, basis = states(700, 128, 3)
    y = even(X, basis)
    span = Span.of(X[:400])
    *_, last = rfm(span, y[:400] - y[:400].mean(), bandwidth=0.5, iterations=4, centred=True)
    score = last.predict(*span.project(X[400:]))[0]
    assert auc(score.numpy(), y[400:].numpy())[0] > 0.95
    assert float((span.lift(last.agop.directions[0, :1])[0] @ basis[:, 1]) ** 2) > 0.9
    assert float(last.agop.linearity[0]) < 0.1
    line = X[:400][y[:400] == 1].mean(0) - X[:400][y[:400] == 0].mean(0)
    assert abs(auc((X[400:] @ line).numpy(), y[400:].numpy())[0] - 0.5) < 0.1


def test_linearity_of_a_line_is_near_one_and_centring_takes_the_line_away() -> None:
    X, basis = states(300, 64, 5)
    y = torch.randn(300, generator=torch.Generator().manual_seed(9)).sign()
    X = X + 0.5 * y[:, None] * basis[:, 20]
    span = Span.of(X)
    plain, taken = (next(rfm(span, y, bandwidth=30.0, iterations=0, centred=c)) for c in (False, True))
    assert float(plain.agop.linearity[0]) > 0.5
    along = [abs(float(span.lift(r.agop.directions[0, :1])[0] @ basis[:, 20])) for r in (plain, taken)]
    assert along[0] > 0.9 > along[1] + 0.2


def test_concepts_at_once_are_concepts_one_by_one() -> None:
    X, basis = states(80, 120, 1)
    Y = torch.stack([even(X, basis), (X @ basis[:, 3]).sign(), (X @ basis[:, :2]).prod(1).sign()])
    span = Span.of(X)
    *_, together = rfm(span, Y, bandwidth=1.0, iterations=3)
    for c, y in enumerate(Y):
        *_, alone = rfm(Span.of(X), y, bandwidth=1.0, iterations=3)
        assert float((together.agop.directions[c, 0] @ alone.agop.directions[0, 0]).abs()) > 0.9999
        assert torch.allclose(together.agop.linearity[c], alone.agop.linearity[0], rtol=1e-3)
        Z, far = span.project(X[:9] + 0.01)
        assert torch.allclose(together.predict(Z, far)[c], alone.predict(Z, far)[0], atol=2e-3)


@pytest.mark.parametrize("change", ["offset", "scale", "rotation"])
def test_what_a_concept_does_not_depend_on(change: str) -> None:
    X, basis = states(120, 150, 2, torch.float64)
    y = even(X, basis.double())
    turn = torch.linalg.qr(torch.randn(150, 150, generator=torch.Generator().manual_seed(4), dtype=torch.float64))[0]
    away = 1000 * X.std() * torch.randn(150, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    new = {"offset": X + away, "scale": 37 * X, "rotation": X @ turn}[change].float()
    X = X.float()
    *_, old = rfm(Span.of(X), y, bandwidth=1.0, iterations=3)
    *_, got = rfm(Span.of(new), y, bandwidth=1.0, iterations=3)
    v, w = (r.span.lift(r.agop.directions[0, :1])[0] for r in (old, got))
    v = v @ turn.float() if change == "rotation" else v
    assert float(abs(v @ w)) > 0.9999
    assert abs(float(old.agop.linearity[0] - got.agop.linearity[0])) < 1e-3


def test_a_part_of_a_span_is_the_span_of_the_part() -> None:
    X, basis = states(90, 100, 8, torch.float64)
    index = torch.arange(0, 90, 2)
    y = even(X, basis.double())[index]
    *_, part = rfm(Span.of(X).part(index), y, bandwidth=1.0, iterations=2)
    *_, own = rfm(Span.of(X[index]), y, bandwidth=1.0, iterations=2)
    a, b = (r.span.lift(r.agop.directions[0, :1])[0] for r in (part, own))
    assert float(abs(a @ b)) > 1 - 1e-9


def test_both_kinds_of_coordinates_are_coordinates() -> None:
    X, _ = states(50, 80, 3)
    tight = X.clone()
    tight[7] = tight[3]  # a twin: the Gram matrix has no Cholesky factor worth having
    for rows, coordinates in ((X, 49), (tight, 48)):
        span = Span.of(rows)
        assert span.Z.shape[1] == coordinates
        assert torch.allclose(span.distances, torch.cdist(rows.double(), rows.double()).float(), atol=2e-3)
        V = span.lift(torch.eye(coordinates))
        assert torch.allclose(V @ V.T, torch.eye(coordinates), atol=2e-3)
        assert torch.allclose(span.Z @ V, rows - rows.mean(0), atol=1e-4)


def test_bad_options_are_refused() -> None:
    X, _ = states(20, 30, 0)
    with pytest.raises(ValueError, match="finite"):
        Span.of(X.masked_fill(X > 1, float("nan")))
    with pytest.raises(ValueError, match="bandwidth > 0"):
        next(rfm(Span.of(X), torch.ones(20), bandwidth=-1.0))
    with pytest.raises(ValueError, match=r"\(concepts, 20\)"):
        next(rfm(Span.of(X), torch.ones(19), bandwidth=1.0))
