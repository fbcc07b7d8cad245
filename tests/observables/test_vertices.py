from typing import Any

import numpy as np
import pytest

from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.observables.essential_dynamics import essential_dynamics
from strobe.observables.vertices import vertices

X = np.linspace(0, 4, 60)


def path(seed: int = 0, noise: float = 0.02, corners: tuple[float, ...] = (1.5, 3.0)) -> Reading:
    """A path that turns by 90 degrees at each corner, with noise."""
    y = np.zeros((60, len(corners) + 1))
    for i, (a, b) in enumerate(zip((0.0, *corners), (*corners, 4.0), strict=True)):
        y[:, i] = np.clip(X, a, b) - a
    y += noise * np.random.default_rng(seed).standard_normal(y.shape)
    how: dict[str, Any] = {"steps": (10**X).tolist(), "run": ["run"] * 60, "scores": y.tolist(), "width": 0.2}
    return Reading(y, np.zeros_like(y), "", how)


def test_corners_are_found_with_their_method_and_support() -> None:
    found = vertices(path())
    assert np.log10(found.value) == pytest.approx([1.5, 3.0], abs=0.08)
    assert all(b["sure"] > 0.9 and b["method"] == "turns of the trajectory" for b in found.how["boundaries"])
    assert np.rad2deg([b["turned"] for b in found.how["boundaries"]]) == pytest.approx([90, 90], abs=45)  # wiggles add


def test_err_is_honest_over_seeds() -> None:
    found = [vertices(path(seed, noise=0.05)) for seed in range(8)]
    at = np.array([[min(f.value, key=lambda t: abs(np.log10(t) - c)) for c in (1.5, 3.0)] for f in found])
    err = np.array(
        [
            next(b["err"] for b in f.how["boundaries"] if abs(np.log10(b["step"]) - c) < 0.3)
            for f in found
            for c in (1.5, 3.0)
        ]
    )
    assert (at.std(0) <= 2 * err.reshape(8, 2).mean(0)).all()


def test_a_straight_path_has_none_and_in_noise_none_is_sure() -> None:
    assert len(vertices(path(noise=1e-3, corners=())).value) == 0
    rng = np.random.default_rng(5)
    y = rng.standard_normal((60, 2))
    noise = vertices(
        Reading(
            y,
            np.ones_like(y),
            "",
            {"steps": (10**X).tolist(), "run": ["run"] * 60, "scores": y.tolist(), "width": 0.15},
        )
    )
    assert all(b["sure"] < 0.8 for b in noise.how["boundaries"])


def test_a_turn_with_two_sharp_places_is_one_and_loses_no_support() -> None:
    """Two corners of 45 degrees 0.1 decades apart: each alone would come again in half of the resampled paths."""
    heading = np.where(X < 1.95, 0.0, np.where(X < 2.05, np.pi / 4, np.pi / 2))
    for seed in range(4):
        y = np.cumsum(np.stack([np.cos(heading), np.sin(heading)], 1) * (X[1] - X[0]), 0)
        y += 0.01 * np.random.default_rng(seed).standard_normal(y.shape)
        found = vertices(
            Reading(y, 0 * y, "", {"steps": (10**X).tolist(), "run": ["run"] * 60, "scores": y.tolist(), "width": 0.1})
        )
        near = [b for b in found.how["boundaries"] if abs(np.log10(b["step"]) - 2) < 0.15]
        assert len(near) == 1
        assert near[0]["sure"] > 0.9


def test_noise_that_turns_the_last_steps_around_is_no_boundary() -> None:
    """A path that has come to rest: whatever turn there is at its very end says nothing."""
    for seed in range(6):
        y = np.stack([np.minimum(X, 2.0), np.zeros(60)], 1) + 0.01 * np.random.default_rng(seed).standard_normal(
            (60, 2)
        )
        found = vertices(
            Reading(y, 0 * y, "", {"steps": (10**X).tolist(), "run": ["run"] * 60, "scores": y.tolist(), "width": 0.2})
        )
        assert all(4 - np.log10(t) >= 0.29 for t in found.value)
        assert all(4 - np.log10(t) < 0.31 or np.log10(t) < 0.3 for t in found.how["edge"])


def test_it_takes_a_run_and_one_of_several_paths() -> None:
    from observables.test_essential_dynamics import Turning

    assert np.log10(vertices(Turning(), components=2).value) == pytest.approx([2.0], abs=0.1)
    both = essential_dynamics({"a": Turning(), "b": Turning(far=3.0)}, components=3)
    assert np.log10(vertices(both, of="b").value) == pytest.approx([2.0], abs=0.1)
    with pytest.raises(BadOption, match="no run 'c'; it has a, b"):
        vertices(both, of="c")
    with pytest.raises(BadOption, match="needs turn"):
        vertices(both, turn=0)
