"""M* by hand, the expansion that it comes from, and one mode whose curve is known."""

import numpy as np
import pytest

from strobe.core.errors import BadOption
from strobe.laws.word_embeddings import target, word_embedding_modes
from strobe.studies.closed_forms import overlap, train_even


def test_the_target_is_where_word2vec_expanded_to_second_order_is_least() -> None:
    """−P ln σ(z) − pp ln σ(−z) ≈ const − (P − pp) z/2 + (P + pp) z²/8, least at z = M*."""
    P = np.array([[0.3, 0.1, 0.05], [0.1, 0.1, 0.1], [0.05, 0.1, 0.1]])
    P /= P.sum()
    m, alone = target(P), np.outer(P.sum(1), P.sum(1))
    z = 1e-4
    loss = lambda z: P * np.log1p(np.exp(-z)) + alone * np.log1p(np.exp(z))  # noqa: E731
    slope, bend = (loss(z) - loss(-z)) / (2 * z), (loss(z) - 2 * loss(0) + loss(-z)) / z**2
    assert np.allclose(-slope / bend, m, atol=1e-5)
    assert np.allclose(target(alone), 0)
    for bad in ([[1.0, 2.0], [0.0, 1.0]], [[-1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 0.0]]):
        with pytest.raises(BadOption):
            target(bad)


def test_modes_rise_when_said_and_with_few_dimensions_they_do_not() -> None:
    rng = np.random.default_rng(0)
    q = np.linalg.qr(rng.standard_normal((40, 40)))[0]
    lam = np.concatenate([[6.0, 5.0, 4.0, 3.0], -np.linspace(0, 1, 36)])
    m, top, lr = (q * lam) @ q.T, q[:, :4], 0.003

    def far(size: int) -> np.ndarray:
        w = 1e-5 * np.random.default_rng(1).standard_normal((size, 40))
        said = word_embedding_modes(eigenvalues=lam[:4].tolist(), starts=np.square(w @ top).sum(0).tolist(), lr=lr)
        half, w = train_even(w, m, top, lam[:4], lr, int(1.5 * said.value.max()))
        if size >= 4:
            assert overlap(w.T @ w, m, 4) == pytest.approx(1, abs=1e-3)
        return np.asarray(np.abs(half - said.value) / said.tol)

    assert far(60).max() < 1
    assert far(4).max() > 1  # four modes in four dimensions stand in each other's way
