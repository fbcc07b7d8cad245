import numpy as np
import pytest
import torch

from strobe.core.errors import BadOption
from strobe.core.prediction import judge
from strobe.core.reading import Reading
from strobe.laws.residual_depth import coherence_slope, depth_slope, depth_transfer, residual_growth
from strobe.studies.depth import lengths

DEPTHS = [4, 8, 16, 32]


def test_growth_tends_to_e_to_one_and_doubles() -> None:
    assert residual_growth(depths=[100_000], branch=0.5).value[0] == pytest.approx(np.e, rel=1e-4)
    assert residual_growth(depths=[100_000], branch=1.0).value[0] == pytest.approx(1.0, rel=1e-4)
    assert residual_growth(depths=[10], branch=0.0).value[0] == pytest.approx(1024)


def test_random_networks_grow_so_and_not_by_the_other_rule() -> None:
    x = torch.randn(48, generator=torch.Generator().manual_seed(0))
    for branch, other in ((0.5, 1.0), (1.0, 0.5)):
        q = [lengths(x, depth=d, width=48, nets=600, seed=d, branch=d**-branch) for d in (3, 12)]
        read = Reading(np.array([v.mean() for v in q]), np.array([v.std() / 600**0.5 for v in q]))
        assert judge(residual_growth(depths=[3, 12], branch=branch), read).word == "holds"
        assert judge(residual_growth(depths=[3, 12], branch=other), read).word == "fails"


def test_the_exponents_of_a_linear_stack_of_one_parameter_blocks() -> None:
    """h + L^-branch w_l with each w_l moved by lr L^-rate: the sum moves by lr L^(1 - branch - rate)."""
    for branch, rate in ((1.0, 0.0), (0.5, 0.5), (0.5, 0.0), (0.0, 0.0)):
        moved = [depth * depth**-branch * 1e-3 * depth**-rate for depth in DEPTHS]
        slope = np.polyfit(np.log2(DEPTHS), np.log2(moved), 1)[0]
        assert depth_slope(depths=DEPTHS, branch=branch, rate=rate).value == pytest.approx(slope)


def test_without_a_rule_the_claims_of_one_fail() -> None:
    assert judge(depth_transfer(depths=DEPTHS, branch=1.0, rate=0.0), Reading(2.0, 0.2)).word == "fails"
    assert judge(depth_transfer(depths=DEPTHS, branch=0.0, rate=0.0), Reading(2.0, 0.2)).word == "holds"
    assert judge(depth_transfer(depths=DEPTHS, branch=0.0, rate=0.0), Reading(0.2, 0.2)).word == "fails"
    assert judge(coherence_slope(depths=DEPTHS), Reading(-0.5, 0.04)).word == "fails"
    assert judge(coherence_slope(depths=DEPTHS, of="start"), Reading(0.8, 0.04)).word == "fails"


def test_bad_knobs() -> None:
    for bad in ({"branch": 1.0, "rate": 1.0}, {"branch": 0.25, "rate": 0.0}, {"depths": [4, 5, 6]}):
        with pytest.raises(BadOption):
            depth_slope(**({"depths": DEPTHS, "branch": 0.5, "rate": 0.5} | bad))  # type: ignore[arg-type]
    with pytest.raises(BadOption, match="rare networks"):
        residual_growth(depths=[64], branch=0.0)
