from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from strobe.core.errors import BadOption
from strobe.core.snapshot import Snapshot
from strobe.observables.trajectory_pca import trajectory_pca


class Path3:
    """A run whose outputs move on a known plane: weight(t) = a(t) u + b(t) v."""

    def __init__(self, seed: int = 0, examples: int = 64) -> None:
        g = torch.Generator().manual_seed(seed)
        self.net, self.x = nn.Linear(6, 2, bias=False), torch.randn(examples, 6, generator=g)
        frame = torch.linalg.qr(torch.randn(12, 2, generator=torch.Generator().manual_seed(9)))[0]
        self.frame = frame.T.reshape(2, 2, 6)

    def stored(self) -> list[int]:
        return list(range(12))

    def walk(self, steps: list[int]) -> Iterator[Snapshot]:
        for t in steps:
            with torch.no_grad():
                self.net.weight.copy_(3 * t * self.frame[0] + np.sin(t) * self.frame[1])
            yield Snapshot(self.net, lambda m, d: m(d[0]).sum(), (self.x,), t)


def test_parameters_agree_with_a_plain_svd() -> None:
    run = Path3()
    found = trajectory_pca(run, of="params", components=2)
    rows = torch.stack([s.params()["weight"].reshape(-1).clone() for s in run.walk(run.stored())]).double()
    u, s, _ = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    assert np.allclose(np.abs(found.value), (u[:, :2] * s[:2]).abs().numpy() / np.sqrt(12), atol=1e-6)
    assert sum(found.how["explained"]) == pytest.approx(1.0)
    assert (found.value[-1] > 0).all()


def test_err_over_probes_is_honest() -> None:
    found = [trajectory_pca(Path3(seed), components=1) for seed in range(8)]
    spread = np.std([f.value for f in found], axis=0)
    assert (spread <= 2 * np.mean([f.err for f in found], axis=0)).mean() > 0.9


def test_too_few_steps_are_refused() -> None:
    with pytest.raises(BadOption, match="at least 3 stored steps"):
        trajectory_pca(Path3(), steps=[1, 2])
