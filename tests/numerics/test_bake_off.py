"""Areas are those of `auc`; intervals those of DeLong; folds keep groups whole."""

import numpy as np
import pytest

from strobe.numerics.auc import auc
from strobe.numerics.bake_off import areas, bake_off, dealt_areas, folds_of


def drawn(n: int, shift: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    on = np.arange(n) % 2 == 0
    return rng.standard_normal((3, n)) + shift * on * np.array([0, 1, 2])[:, None], on


def test_one_fold_is_the_plain_area_with_delongs_interval() -> None:
    s, on = drawn(300, 0.7)
    got = bake_off(s, on, np.zeros(300, int), np.arange(300), resamples=2000, rng=np.random.default_rng(0))
    for i in range(3):
        value, err = auc(s[i], on)
        assert got.value[i] == pytest.approx(value, abs=1e-6)
        assert areas(s, on, np.zeros(300))[i] == pytest.approx(value)
        assert (got.high[i] - got.low[i]) / 2 == pytest.approx(1.96 * err, rel=0.12)
    assert got.chosen[0] == pytest.approx(got.value[2], abs=0.01)


def test_pairs_are_of_one_fold_and_ties_are_halves() -> None:
    s = np.array([[1.0, 0.0, 100.0, 101.0, 0.0, 0.0]])
    on = np.array([True, False, True, False, True, False])
    fold = np.array([0, 0, 1, 1, 2, 2])
    assert areas(s, on, fold)[0] == pytest.approx((1 + 0 + 0.5) / 3)
    assert areas(s, on, np.zeros(6))[0] == pytest.approx((5 / 2 + 2 + 0 * 1 + 0.5 + 0.5 - 1) / 9, abs=0.3)


def test_a_labelling_of_its_own_for_each_score() -> None:
    s, on = drawn(60, 1.0)
    deals = np.stack([np.random.default_rng(i).permutation(on) for i in range(3)])
    fold = np.arange(60) % 3
    assert dealt_areas(s, deals, fold) == pytest.approx([float(areas(s[i], deals[i], fold)) for i in range(3)])


def test_groups_stay_whole_and_each_fold_has_both_kinds() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 30, 200)
    on = rng.random(200) < 0.3
    fold = folds_of(on, groups, 5, rng)
    assert all(len(set(fold[groups == g])) == 1 for g in range(30))
    assert all(set(on[fold == f]) == {True, False} for f in range(5))
    with pytest.raises(ValueError, match="of each kind in each"):
        folds_of(np.arange(20) < 2, np.arange(20), 5, rng)


def test_drawing_groups_widens_the_interval_of_what_hangs_together() -> None:
    rng = np.random.default_rng(1)
    group = np.repeat(np.arange(20), 10)
    on = group % 2 == 0
    s = (rng.standard_normal(20)[group] + 0.5 * on + 0.1 * rng.standard_normal(200))[None]
    zero = np.zeros(200, int)
    loose = bake_off(s, on, zero, np.arange(200), rng=np.random.default_rng(0))
    tight = bake_off(s, on, zero, group, rng=np.random.default_rng(0))
    assert tight.high[0] - tight.low[0] > 2 * (loose.high[0] - loose.low[0])
    with pytest.raises(ValueError, match="must be finite"):
        bake_off(s * np.nan, on, zero, group, rng=rng)
