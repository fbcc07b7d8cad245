"""The cut in two groups: brute force over all cuts, two humps of very different size, and where there is none."""

import numpy as np
import pytest

from strobe.numerics.two_groups import two_groups


def test_it_leaves_the_least_spread_inside_the_groups() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        x = np.sort(rng.gamma(1.0, size=25))
        inside = [((x[:k] - x[:k].mean()) ** 2).sum() + ((x[k:] - x[k:].mean()) ** 2).sum() for k in range(1, 25)]
        best = int(np.argmin(inside)) + 1
        assert (x < two_groups(rng.permutation(x))).sum() == best


def test_one_in_fifty_is_found() -> None:
    rng = np.random.default_rng(1)
    x = np.concatenate([rng.gamma(1.0, 0.2, 980), rng.normal(4.0, 0.7, 20)])
    assert ((x > two_groups(x)) == (np.arange(1000) >= 980)).mean() > 0.99


def test_one_hump_is_cut_all_the_same_and_one_value_is_refused() -> None:
    assert two_groups(np.linspace(0, 1, 101)) == pytest.approx(0.5, abs=0.01)
    with pytest.raises(ValueError, match="two distinct finite numbers"):
        two_groups(np.ones(4))
    with pytest.raises(ValueError, match="two distinct finite numbers"):
        two_groups(np.array([0.0, np.inf]))
