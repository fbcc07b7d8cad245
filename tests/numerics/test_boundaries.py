import itertools

import numpy as np
import pytest

from strobe.numerics.boundaries import agreement, matched, supported


def test_matching_agrees_with_trying_all_pairings() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        a, b = np.sort(rng.uniform(0, 1, 3)), np.sort(rng.uniform(0, 1, 4))
        reach = np.full((3, 4), 0.15)
        best = max(sum(abs(a[i] - b[j]) <= 0.15 for i, j in enumerate(p)) for p in itertools.permutations(range(4), 3))
        pairs = matched(a, b, reach)
        assert len(pairs) == best
        assert all(abs(a[i] - b[j]) <= 0.15 for i, j in pairs)


def test_support_and_spread_of_places_that_come_and_go() -> None:
    rng = np.random.default_rng(1)
    again = [np.array([1 + 0.05 * rng.standard_normal()] + ([2.0] if i % 4 == 0 else [])) for i in range(400)]
    support, err = supported(np.array([1.0, 2.0]), again, 0.3, 1e6)
    assert support == pytest.approx([1.0, 0.25], abs=1e-3)
    assert err[0] == pytest.approx(0.05, rel=0.2)
    assert supported(np.zeros(0), again, 0.3, 4.0)[0].shape == (0,)


def test_coming_again_in_a_crowd_is_no_support() -> None:
    rng = np.random.default_rng(3)
    crowd = [rng.uniform(0, 4, 30) for _ in range(200)]
    assert (supported(rng.uniform(0, 4, 30), crowd, 0.2, 4.0)[0] < 0.5).all()


def test_chance_is_what_places_at_random_do() -> None:
    """One place of reach r in an interval of length 1, away from its ends: a random one agrees with probability 2r."""
    one = np.array([0.5]), np.array([0.05]), np.ones(1)
    found = agreement(one, one, 0.0, 1.0, draws=4000)
    assert found.share == 1.0
    assert found.chance == pytest.approx(2 * 2 * 0.05 * np.sqrt(2), abs=0.03)
    assert found.p == pytest.approx(found.chance, abs=0.03)


def test_unrelated_sets_have_uniform_p_and_equal_ones_a_small_one() -> None:
    rng = np.random.default_rng(2)

    def places(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return x, np.full(len(x), 0.02), np.ones(len(x))

    ps = [
        agreement(places(rng.uniform(0, 4, 5)), places(rng.uniform(0, 4, 5)), 0, 4, draws=200, seed=i).p
        for i in range(60)
    ]
    assert np.mean(np.array(ps) < 0.05) <= 0.15
    a = rng.uniform(0, 4, 5)
    assert agreement(places(a), places(a + 0.01), 0, 4).p < 0.01


def test_unsure_places_make_the_share_uncertain() -> None:
    sure = np.array([1.0, 2.0]), np.full(2, 0.02), np.ones(2)
    unsure = np.array([1.0, 2.0]), np.full(2, 0.02), np.full(2, 0.5)
    assert agreement(sure, unsure, 0, 4).err > agreement(sure, sure, 0, 4).err + 0.1
