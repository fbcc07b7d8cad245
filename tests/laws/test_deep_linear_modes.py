"""Deep linear modes: the logistic solution, then networks that obey it and networks that must not."""

import numpy as np
import pytest
import torch

from strobe.core.errors import BadOption
from strobe.core.prediction import judge
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot
from strobe.laws.deep_linear_modes import deep_linear_modes, mode_half_times
from strobe.observables.mode_strengths import mode_strengths
from strobe.systems.deep_linear import deep_linear

STEPS = [0, 200, 400, 600, 800, 1200, 2000]


def test_the_half_time_of_two_layers_is_the_closed_form() -> None:
    # u(t½) = s/2 at t½ = ln(s/u₀ − 1) / (2 s): Saxe et al. 2014, from their equation 8
    s, start, lr = 2.0, 1e-3, 1e-3
    half = np.log(s / start - 1) / (2 * s) / lr
    p = deep_linear_modes(singular_values=[s], start=start, lr=lr, steps=[int(half)])
    assert p.value[0, 0] == pytest.approx(s / 2, rel=2e-3)
    assert (p.fitted, p.law) == (0, "strobe.laws.deep_linear_modes:deep_linear_modes")


def test_the_integrated_flow_agrees_with_the_closed_form_and_with_separation_of_variables() -> None:
    from strobe.laws.deep_linear_modes import _deep, _two

    s, t = np.array([3.0, 1.0]), np.linspace(0, 4, 9)
    assert np.abs(_deep(s, 1e-3, t, 2) - _two(s, 1e-3, t)).max() < 1e-6
    # L = 4: t = ∫ du / (4 u^{3/2} (s − u)), a quadrature that shares nothing with Runge-Kutta
    u = np.geomspace(1e-2, 2.0, 200_001)
    f = 1 / (4 * u**1.5 * (3.0 - u))
    time = float(((f[1:] + f[:-1]) / 2 * np.diff(u)).sum())
    assert _deep(np.array([3.0]), 1e-2, np.array([time]), 4)[0, 0] == pytest.approx(2.0, rel=1e-4)


@pytest.mark.parametrize("depth", [2, 3, 4])
def test_a_balanced_network_obeys(depth: int) -> None:
    start = 1e-3 if depth == 2 else 0.05
    assert _verdict(depth=depth, start=start) == "holds"


@pytest.mark.parametrize("broken", [{"imbalance": 8.0}, {"init": "random"}, {"lr": 0.1}])
def test_an_unbalanced_a_random_and_a_hasty_network_refute_it(broken: dict[str, object]) -> None:
    assert _verdict(depth=2, start=1e-3, **broken) == "fails"


def test_bad_knobs_are_refused() -> None:
    good = {"singular_values": [1.0], "start": 0.1, "lr": 0.1, "steps": [1]}
    for bad in ({"start": 0.0}, {"lr": -1.0}, {"depth": 1}, {"steps": []}, {"singular_values": [-1.0]}, {"rtol": 0.0}):
        with pytest.raises(BadOption):
            deep_linear_modes(**{**good, **bad})  # type: ignore[arg-type]
    with pytest.raises(BadOption, match="diverges"):
        deep_linear_modes(singular_values=[4.0], start=0.1, lr=0.3, steps=[1])


def _verdict(*, depth: int, start: float, lr: float = 2e-3, **knobs: object) -> str:
    world = deep_linear(depth=depth, start=start, lr=lr, **knobs)  # type: ignore[arg-type]
    steps = [round(s * 2e-3 / lr) for s in STEPS]  # the same times, whatever the step
    said = deep_linear_modes(
        singular_values=world.facts["singular_values"], start=start, lr=lr, steps=steps, depth=depth
    )
    model = world.build(0)
    opt = world.optimizer(model, world.lr)
    seen = []
    for step in range(steps[-1] + 1):
        if step in steps:
            snap = Snapshot(model, world.loss, world.probe(0), step)
            seen.append(mode_strengths(snap, left=world.facts["left"], right=world.facts["right"]))
        opt.zero_grad()
        world.loss(model, world.batch(0, step)).backward()
        opt.step()
    assert torch.isfinite(next(model.parameters())).all()
    return judge(said, Reading(np.stack([r.value for r in seen]), np.stack([r.err for r in seen]))).word


def test_half_times_of_random_starts_need_the_growing_half_and_room() -> None:
    """A scalar network by hand: W₁ = a, W₂ = b; (a + b)/2 grows and (a − b)/2 decays. Narrow layers break it."""
    from strobe.studies.deep_linear import _half_times

    a, b, s = 3e-3, -1e-3, np.array([2.0])
    u0 = ((a + b) / 2) ** 2
    one = torch.ones(1, 1, dtype=torch.float64)
    got = _half_times(a * one[None], b * one[None], one, one, s, 1e-3, 10_000)
    said = mode_half_times(singular_values=s, starts=[u0], lr=1e-3)
    assert abs(got[0, 0] - said.value[0]) < 0.1 * said.tol[0]
    wrong = mode_half_times(singular_values=s, starts=[a * a], lr=1e-3)
    assert abs(got[0, 0] - wrong.value[0]) > wrong.tol[0]


def test_half_times_of_equal_starts_are_those_of_the_curve() -> None:
    said = mode_half_times(singular_values=[2.0, 1.0], starts=[1e-3, 1e-3], lr=1e-3).value
    curve = deep_linear_modes(singular_values=[2.0, 1.0], start=1e-3, lr=1e-3, steps=said.round().astype(int))
    assert np.allclose(np.diagonal(curve.value), [1.0, 0.5], rtol=2e-3)
