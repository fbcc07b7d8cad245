"""The area under the ROC curve: brute force over pairs, an honest error, and what cannot be ranked."""

import numpy as np
import pytest

from strobe.numerics.auc import auc


def test_it_is_the_share_of_pairs_in_order() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores = rng.integers(0, 12, 40).astype(float)  # many ties
        positive = rng.random(40) < 0.4
        a, b = scores[positive][:, None], scores[~positive][None]
        assert auc(scores, positive)[0] == pytest.approx(((a > b) + 0.5 * (a == b)).mean())
    assert auc(np.array([1.0, 2, 3, 4]), np.array([False, False, True, True])) == (1.0, 0.0)


def test_its_error_is_the_spread_over_samples() -> None:
    rng = np.random.default_rng(1)
    positive = np.arange(200) < 60
    found = np.array([auc(rng.normal(size=200) + 1.2 * positive, positive) for _ in range(400)])
    # two normals 1.2 apart: A = Phi(1.2 / sqrt 2) = 0.8019
    assert found[:, 0].mean() == pytest.approx(0.8019, abs=4 * found[:, 0].std() / 20)
    assert found[:, 1].mean() == pytest.approx(found[:, 0].std(), rel=0.1)


def test_what_cannot_be_ranked_is_refused() -> None:
    with pytest.raises(ValueError, match="two examples of each kind, got 1 positive"):
        auc(np.arange(3.0), np.array([True, False, False]))
    with pytest.raises(ValueError, match="must be finite"):
        auc(np.array([0, 1, 2, np.nan]), np.array([True, False, True, False]))
