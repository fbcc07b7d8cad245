from strobe.core.prediction import judge
from strobe.core.reading import Reading
from strobe.laws.feature_learning import neural_feature_ansatz, simplicity_bias


def test_published_correlations_hold_and_the_default_start_fails() -> None:
    """arXiv:2212.13881, figure 1: correlations above 0.9 between WᵀW and the AGOP of trained networks."""
    assert judge(neural_feature_ansatz(init=0.01), Reading(0.92, 0.01)).word == "holds"
    assert judge(neural_feature_ansatz(init=1.0), Reading(0.76, 0.01)).word == "fails"


def test_clones_left_in_the_other_order_refute() -> None:
    assert judge(simplicity_bias(classes=10), Reading(80 / 40, 0.1)).word == "holds"
    assert judge(simplicity_bias(classes=10), Reading(40 / 80, 0.1)).word == "fails"
