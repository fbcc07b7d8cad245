from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from strobe.core.errors import BadOption
from strobe.core.snapshot import Snapshot
from strobe.observables.essential_dynamics import essential_dynamics
from strobe.observables.trajectory_pca import trajectory_pca

STEPS = [int(t) for t in np.unique(np.round(np.logspace(0, 4, 60)))]


class Turning:
    """A run whose outputs go along u until step 100 and along v from then on; `far` shifts the whole path by w."""

    def __init__(self, seed: int = 0, examples: int = 64, noise: float = 0.0, far: float = 0.0) -> None:
        g = torch.Generator().manual_seed(seed)
        self.net, self.x, self.noise, self.far = (
            nn.Linear(6, 2, bias=False),
            torch.randn(examples, 6, generator=g),
            noise,
            far,
        )
        frame = torch.linalg.qr(torch.randn(12, 3, generator=torch.Generator().manual_seed(9)))[0]
        self.frame, self.g = frame.T.reshape(3, 2, 6), g

    def stored(self) -> list[int]:
        return [0, *STEPS]

    def walk(self, steps: list[int]) -> Iterator[Snapshot]:
        for t in steps:
            a = np.log10(max(t, 1))
            with torch.no_grad():
                w = min(a, 2.0) * self.frame[0] + max(a - 2, 0.0) * self.frame[1] + self.far * self.frame[2]
                self.net.weight.copy_(w + self.noise * torch.randn(2, 6, generator=self.g))
            yield Snapshot(self.net, lambda m, d: m(d[0]).sum(), (self.x,), t)


def test_a_corner_is_a_form_and_both_arms_are_straight() -> None:
    found = essential_dynamics(Turning(), components=2)
    path = found.how["paths"]["run"]
    assert sum(found.how["explained"]) == pytest.approx(1.0)
    assert [round(np.log10(f["step"]), 1) for f in path["forms"]] == [2.0]
    assert np.rad2deg(path["forms"][0]["turned"]) == pytest.approx(90, abs=25)  # not isometric: x is a sample
    curvature = np.array(path["curvature"])
    x = np.log10(path["steps"])
    assert curvature[np.abs(x - 2) > 0.6].max() < 0.05 * curvature.max()
    assert found.value.shape == (len(STEPS), 2)


def test_joint_axes_are_those_of_all_rows_together_and_tell_runs_apart() -> None:
    runs = {"here": Turning(), "there": Turning(far=9.0)}
    found = essential_dynamics(runs, components=3)
    first = np.array([r == "here" for r in found.how["run"]])
    assert abs(found.value[first, 0].mean() - found.value[~first, 0].mean()) > 5 * found.value[first, 0].std()
    assert list(found.how["paths"]) == ["here", "there"]
    rows = torch.stack(
        [s.model(runs["here"].x).detach().reshape(-1).clone() for r in runs.values() for s in r.walk(STEPS)]
    ).double()
    u, s, _ = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    assert np.allclose(np.abs(found.how["scores"]), (u[:, :3] * s[:3]).abs().numpy() / np.sqrt(128), atol=1e-5)


def test_one_run_has_the_scores_of_trajectory_pca() -> None:
    joint, alone = essential_dynamics(Turning(), components=2), trajectory_pca(Turning(), components=2, steps=STEPS)
    assert np.allclose(joint.how["scores"], alone.value, atol=1e-5)
    assert np.allclose(joint.err, alone.err, atol=1e-5)


def test_err_over_probes_is_honest_and_noise_is_in_the_residual() -> None:
    found = [essential_dynamics(Turning(seed), components=2) for seed in range(8)]
    spread = np.std([f.value for f in found], axis=0)
    assert (spread <= 2 * np.mean([f.err for f in found], axis=0)).mean() > 0.9
    assert (
        essential_dynamics(Turning(noise=0.1), components=2).how["residual"]["run"]
        > 3 * found[0].how["residual"]["run"]
    )


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(BadOption, match="needs 5 steps of 'run'"):
        essential_dynamics(Turning(), steps=[1, 2, 3])
    with pytest.raises(BadOption, match="at least 2 components"):
        essential_dynamics(Turning(), components=1)
    other = Turning()
    other.net = nn.Linear(6, 3, bias=False)
    other.frame = torch.zeros(3, 3, 6)
    other.walk = lambda steps: (Snapshot(other.net, None, (other.x,), t) for t in steps)  # type: ignore[assignment, method-assign, arg-type]
    with pytest.raises(BadOption, match="differ in shape"):
        essential_dynamics({"a": Turning(), "b": other})
