"""Do networks learn the same examples first? Agreement and order of what several trainings get right."""

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata


@dataclass(frozen=True, slots=True)
class Order:
    """learned (nets, n): the first epoch from which an example stays right, `epochs` where it never does.

    rho, err: mean Spearman correlation of that between pairs of nets, and its jackknife error over nets. At the epoch whose mean accuracy
    is nearest `at`: ratio, the variance over examples of the share of nets that are right, over that of nets that err independently;
    unanimous: the share of examples that more than 90% or fewer than 10% of the nets get right, and the same of independent nets.
    """

    learned: np.ndarray
    rho: float
    err: float
    accuracy: float
    ratio: float
    unanimous: tuple[float, float]


def learning_order(right: np.ndarray, *, at: float = 0.8, draws: int = 200, seed: int = 0) -> Order:
    """Of right (nets, epochs, n), true where a net has an example right after an epoch.

    Regime: nets of one kind; `at` is taken as 0.5 where no epoch reaches it.
    Raises ValueError without two nets, two epochs and two examples.
    Ref: Hacohen, Choshen and Weinshall 2020 (arXiv:1905.10854), TP-agreement.

    >>> same = np.array([[[0, 1, 0], [1, 1, 0], [1, 1, 1]]] * 3, bool)
    >>> round(learning_order(same).rho, 3), learning_order(same).learned[0].tolist()
    (1.0, [1, 0, 2])
    """
    right = np.asarray(right, bool)
    if right.ndim != 3 or min(right.shape) < 2:
        raise ValueError(f"right is (nets, epochs, examples), two of each or more, got {right.shape}")
    nets, epochs, n = right.shape
    wrong = ~right[:, ::-1]
    learned = np.where(wrong.any(1), epochs - wrong.argmax(1), 0)
    ranks = rankdata(learned, axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    size = np.linalg.norm(ranks, axis=1)
    cos = ranks @ ranks.T / np.maximum(np.outer(size, size), 1e-300)
    off = cos[~np.eye(nets, dtype=bool)].reshape(nets, nets - 1)
    rho = float(off.mean())
    left = [(off.sum() - 2 * off[i].sum()) / max((nets - 1) * (nets - 2), 1) for i in range(nets)]
    err = float(np.sqrt((nets - 1) * np.var(left))) if nets > 2 else float("nan")
    mean = right.mean((0, 2))
    epoch = int(np.abs(mean - (at if mean.max() > at else 0.5)).argmin())
    now = right[:, epoch]
    apart = np.random.default_rng(seed).random((draws, nets, n)) < now.mean(1)[None, :, None]
    share, free = now.mean(0), apart.mean(1)

    def agreed(p: np.ndarray) -> float:
        return float(((p > 0.9) | (p < 0.1)).mean())

    ratio = float(share.var() / max(free.var(1).mean(), 1e-300))
    return Order(learned, rho, err, float(mean[epoch]), ratio, (agreed(share), agreed(free)))
