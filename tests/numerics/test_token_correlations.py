import numpy as np
import pytest

from strobe.numerics.token_correlations import token_correlations

V, KEEP = 4, 0.7


def sticky(count: int, seed: int) -> np.ndarray:
    """Each token is the one before it with probability 0.7, or anything: C_n = 0.7^n (I / V − 11ᵀ / V²)."""
    rng = np.random.default_rng(seed)
    first = np.maximum.accumulate(np.where(rng.random(count) < KEEP, 0, np.arange(count)))
    return rng.integers(V, size=count)[first]


@pytest.mark.parametrize(("norm", "unit"), [("operator", 1 / V), ("frobenius", (V - 1) ** 0.5 / V)])
def test_a_markov_chain_has_the_correlations_of_its_eigenvalue(norm: str, unit: float) -> None:
    lags = np.array([1, 2, 4, 8])
    value, err = token_correlations(sticky(400_000, 0), V, lags.tolist(), norm=norm)
    assert np.abs(value - unit * KEEP**lags).max() < 3 * err.max() + 1e-3
    assert (err < 0.01).all()


@pytest.mark.parametrize("norm", ["operator", "frobenius"])
def test_independent_tokens_have_none_where_the_naive_norm_has_its_floor(norm: str) -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(32, size=20_000)
    values = np.array([token_correlations(rng.permutation(x), 32, [1], norm=norm)[0][0] for _ in range(8)])
    p, pairs = (
        np.bincount(x, minlength=32) / len(x),
        np.bincount(x[:-1] * 32 + x[1:], minlength=1024).reshape(32, 32) / (len(x) - 1),
    )
    naive = np.linalg.norm(pairs - np.outer(p, p), 2 if norm == "operator" else "fro")
    assert np.abs(values).mean() < 0.6 * naive
    assert abs(values.mean()) < 3 * values.std(ddof=1) / 8**0.5 + 0.1 * naive


def test_its_error_is_the_spread_over_streams() -> None:
    runs = [token_correlations(sticky(20_000, s), V, [1, 4]) for s in range(12)]
    spread = np.std([v for v, _ in runs], 0, ddof=1)
    ratio = np.mean([e for _, e in runs], 0) / spread
    assert ((ratio > 0.5) & (ratio < 2)).all()


def test_pairs_stay_inside_their_windows() -> None:
    windows = np.repeat(np.arange(2), 60)[:, None].repeat(5, 1)  # each window one token over and over
    windows = windows[np.random.default_rng(0).permutation(120)]
    assert token_correlations(windows, 2, [4])[0][0] == pytest.approx(0.5, abs=0.05)
    flat = token_correlations(windows.ravel(), 2, [5])[0][0]
    assert abs(flat) < 0.2


def test_bad_arguments_are_refused() -> None:
    x = np.arange(100) % 3
    for bad in (
        {"vocab": 2},
        {"distances": [0]},
        {"distances": [50]},
        {"norm": "nuclear"},
        {"blocks": 1},
        {"norm": "frobenius", "blocks": 2},
    ):
        with pytest.raises(ValueError, match="norm is|ids in|distances are"):
            token_correlations(x, **{"vocab": 3, "distances": [1]} | bad)  # type: ignore[arg-type]
