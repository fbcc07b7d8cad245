"""Fit L = E + A / N^α + B / D^β by variable projection: only the two exponents are searched, the rest is least squares."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize, nnls

GRID = np.linspace(0.05, 1.5, 16)


@dataclass(frozen=True, slots=True)
class ScalingFit:
    """The five numbers, their standard errors, and the draws of the bootstrap behind them: (draws, 5)."""

    floor: float
    a: float
    b: float
    alpha: float
    beta: float
    err: dict[str, float]
    draws: np.ndarray

    def loss(self, n: np.ndarray, d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(predicted loss, its standard error by the bootstrap) at sizes n and d."""
        at = lambda p: p[0] + p[1] * np.asarray(n, float) ** -p[3] + p[2] * np.asarray(d, float) ** -p[4]  # noqa: E731
        return at((self.floor, self.a, self.b, self.alpha, self.beta)), np.std([at(p) for p in self.draws], axis=0)


def fit(n: np.ndarray, d: np.ndarray, loss: np.ndarray, *, draws: int = 100, seed: int = 0) -> ScalingFit:
    """Least squares of relative residuals, with standard errors by the bootstrap over runs.

        min over α, β of  min over E, A, B >= 0 of  Σ ((E + A n^−α + B d^−β) / L − 1)²

    Args: n, d, loss, one of each for a run: parameters, examples, loss; draws of the bootstrap.
    Regime: noise about proportional to the loss; n and d not both a function of the other (a range of at least a factor of 3 in each,
    a correlation of the logarithms below 0.95).
    Raises `ValueError` for fewer than 8 runs or 2 draws, sizes and losses that are not positive, or runs outside the regime.
    Ref: the form, Hoffmann et al., arXiv:2203.15556, equation 10; the way, arXiv:2603.22339.

    >>> n, d = (x.ravel() for x in np.meshgrid([1e6, 1e7, 1e8], [1e8, 1e9, 1e10]))
    >>> found = fit(n, d, 1.7 + 400 * n**-0.34 + 410 * d**-0.28, draws=2)
    >>> round(found.alpha, 3), round(found.beta, 3), round(found.floor, 3)
    (0.34, 0.28, 1.7)
    """
    n, d, loss = (np.asarray(x, float) for x in (n, d, loss))
    if len(loss) < 8 or not (len(n) == len(d) == len(loss)):
        raise ValueError(
            f"a scaling fit needs at least 8 runs, each with n, d and loss; got {len(n)}, {len(d)}, {len(loss)}"
        )
    if not all((x > 0).all() and np.isfinite(x).all() for x in (n, d, loss)):
        raise ValueError("sizes and losses must be positive numbers")
    if draws < 2:
        raise ValueError(f"a standard error needs at least 2 draws, got {draws}")
    for name, x in (("n", n), ("d", d)):
        if x.max() < 3 * x.min():
            raise ValueError(
                f"{name} spans a factor of {x.max() / x.min():.2g}: below 3 its exponent is not identified"
            )
    if abs(np.corrcoef(np.log(n), np.log(d))[0, 1]) > 0.95:
        raise ValueError(
            "n and d grow together in these runs: their two terms cannot be told apart; vary one at a fixed other"
        )
    best = _fit(n, d, loss, None)
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, len(n), (draws, len(n)))
    again = np.array([_fit(n[i], d[i], loss[i], best[3:]) for i in picks])
    err = dict(zip(("floor", "a", "b", "alpha", "beta"), again.std(0, ddof=1).tolist(), strict=True))
    floor, a, b, alpha, beta = best.tolist()
    return ScalingFit(floor, a, b, alpha, beta, err, again)


def _fit(n: np.ndarray, d: np.ndarray, loss: np.ndarray, start: np.ndarray | None) -> np.ndarray:
    logs = np.log(n) - np.log(n).mean(), np.log(d) - np.log(d).mean()

    def inner(p: np.ndarray) -> tuple[np.ndarray, float]:
        columns = np.stack([np.ones_like(loss), np.exp(-p[0] * logs[0]), np.exp(-p[1] * logs[1])], 1) / loss[:, None]
        found, rest = nnls(columns, np.ones(len(loss)))
        return found, float(rest)

    if start is None:
        start = np.array(min(((a, b) for a in GRID for b in GRID), key=lambda p: inner(np.array(p))[1]))
    got = minimize(lambda p: inner(p)[1], start, method="Nelder-Mead", bounds=[(1e-3, 3), (1e-3, 3)],
                   options={"xatol": 1e-5, "fatol": 1e-12})  # fmt: skip
    (e, a, b), _ = inner(got.x)
    return np.array([e, a * np.exp(got.x[0] * np.log(n).mean()), b * np.exp(got.x[1] * np.log(d).mean()), *got.x])
