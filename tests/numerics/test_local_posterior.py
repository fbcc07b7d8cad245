import numpy as np
import pytest
import torch
from torch import Tensor

from strobe.numerics.chains import chained
from strobe.numerics.local_posterior import HEAT, local_posterior
from strobe.numerics.sgmcmc import Diverging, Energy, Target

H = torch.logspace(0.5, -3, 12)


def quadratic(w: Tensor, t: int) -> tuple[Tensor, Tensor]:
    return (H * w.square()).sum(1) / 2, H * w


def crossing(w: Tensor, t: int) -> tuple[Tensor, Tensor]:
    """(w₁ w₂)², 0.3614 at N = 145, γ = 1 by quadrature (specs/slt.md, section 0)."""
    a, b = w[:, 0], w[:, 1]
    return (a * b).square(), torch.stack([2 * a * b * b, 2 * a * a * b], 1)


def target(nbeta: float, chains: int, size: int, gamma: float = 1.0) -> Target:
    one = torch.ones(chains, 1)
    return Target(torch.zeros(size), nbeta * one, gamma * one)


def mean(energy: Energy, to: Target, **options: object) -> tuple[float, float, dict[str, object]]:
    got = local_posterior(energy, to, **{"exact": True, "budget": 3000, **options})  # type: ignore[arg-type]
    c = chained(float(to.nbeta[0]) * got.losses)
    return c.mean, c.err, got.how


@pytest.mark.parametrize("nbeta", [30.0, 1e3, 3e5])
def test_it_finds_its_settings_over_four_decades_of_curvature(nbeta: float) -> None:
    value, err, how = mean(quadratic, target(nbeta, 32, 12))
    exact = float((nbeta * H / (nbeta * H + 1)).sum()) / 2
    assert abs(value - exact) < max(2.5 * err, 0.01 * exact)
    assert err < 0.03 * exact
    assert how["gradients"] <= 32 * 3200  # type: ignore[operator]


def test_the_step_does_not_move_the_answer() -> None:
    """Halving ε twice: what is left of the step's own error is below the spread of 64 chains."""
    found = [mean(crossing, target(145, 64, 2), stiff=stiff, budget=8000) for stiff in (0.5, 0.25, 0.125)]
    for value, err, _ in found:
        assert err < 0.02
        assert abs(value - 0.3614) < 3 * err
    exact, err, how = mean(crossing, target(145, 64, 2), metropolis=True, budget=12000)
    assert abs(exact - 0.3614) < 3 * err < 0.09
    assert 0.5 < how["accept"] <= 1  # type: ignore[operator]


def test_noise_of_gradients_is_measured_and_kept_small() -> None:
    def noisy(w: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """The batch of draw t pulls all chains one way."""
        loss, grad = quadratic(w, t)
        return loss, grad + 0.02 * torch.randn(12, generator=torch.Generator().manual_seed(t))

    to = target(1e3, 32, 12)
    got = local_posterior(noisy, to, exact=False, budget=6000)
    value, err, heat = chained(1e3 * got.losses).mean, chained(1e3 * got.losses).err, float(got.heat.mean())
    exact = float((1e3 * H / (1e3 * H + 1)).sum()) / 2
    assert 0.3 * HEAT < heat / exact < 3 * HEAT  # from 8 pairs of batches
    assert abs(value - heat - exact) < 2 * np.hypot(err, heat / 2)
    calm = local_posterior(quadratic, to, exact=False, budget=3000)
    assert got.how["step"] < calm.how["step"]
    assert not calm.heat.any()


def test_frozen_parameters_stay() -> None:
    free = torch.tensor([1.0] * 6 + [0.0] * 6)
    got = local_posterior(quadratic, target(1e3, 32, 12), exact=True, budget=2000, free=free)
    assert not got.w[:, 6:].any()
    exact = float((1e3 * H[:6] / (1e3 * H[:6] + 1)).sum()) / 2
    assert abs(chained(1e3 * got.losses).mean - exact) < 0.1


def test_each_chain_may_have_its_own_freedom_and_temperature() -> None:
    free = torch.ones(64, 12)
    free[:32, 6:] = 0
    nbeta = torch.tensor([[1e3]] * 32 + [[50.0]] * 32)
    got = local_posterior(
        quadratic, Target(torch.zeros(12), nbeta, torch.ones(64, 1)), exact=True, budget=3000, free=free
    )
    for part, n, h in ((slice(0, 32), 1e3, H[:6]), (slice(32, 64), 50.0, H)):
        exact = float((n * h / (n * h + 1)).sum()) / 2
        assert abs(n * got.losses[part].mean() - exact) < 0.05 * exact


def test_seeds_repeat_and_differ() -> None:
    one, two, three = (
        local_posterior(quadratic, target(100, 4, 12), exact=True, budget=300, seed=s).losses for s in (0, 0, 1)
    )
    assert np.array_equal(one, two)
    assert not np.array_equal(one[:, -50:], three[:, -50:])


def test_a_loss_without_a_bottom_is_given_up() -> None:
    with pytest.raises(Diverging, match="left at draw"):
        local_posterior(lambda w, t: (-w.pow(4).sum(1), -4 * w.pow(3)), target(1e3, 8, 3), exact=True, budget=500)


def test_where_the_windows_ended_may_be_no_place_to_go_on_from() -> None:
    """The place of the last step has no loss yet: where it is not a number the draws begin at w* again."""
    plain = local_posterior(quadratic, target(100, 8, 12), exact=True, budget=1000)
    lost = True

    def energy(w: Tensor, t: int) -> tuple[Tensor, Tensor]:
        nonlocal lost
        loss, grad = quadratic(w, t)
        if t == plain.how["warm_up"] and lost:
            lost = bool(w.any())
            return (loss + torch.nan if lost else loss), grad
        return loss, grad

    got = local_posterior(energy, target(100, 8, 12), exact=True, budget=1000)
    assert got.how["retreats"] == plain.how["retreats"] + 1
    assert np.isfinite(got.losses).all()


def test_what_a_visitor_gives_comes_back_for_each_draw() -> None:
    got = local_posterior(
        quadratic, target(100, 4, 12), exact=True, budget=300, visit=lambda w, t: float(w.square().sum())
    )
    assert len(got.seen) == got.losses.shape[1]
    assert got.how["draws"] == got.losses.shape[1]
