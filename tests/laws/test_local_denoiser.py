import numpy as np

from strobe.core.prediction import judge
from strobe.core.reading import Reading
from strobe.laws.local_denoiser import local_denoiser


def test_the_published_medians_hold_and_that_of_attention_fails() -> None:
    """Kamb and Ganguli, PMLR 267: .95, .94, .94, .96 for convolutions on four sets, .77 with attention."""
    for median in (0.95, 0.94, 0.94, 0.96):
        assert judge(local_denoiser(patches=[3], receptive=17, image=28, of="images"), Reading(median)).word == "holds"
    assert judge(local_denoiser(patches=[3], receptive=17, image=28, of="images"), Reading(0.77, 0.02)).word == "fails"


def test_each_patch_size_is_a_fitted_number_and_one_bad_level_refutes() -> None:
    said = local_denoiser(patches=[1, 3, 5], receptive=5, image=8)
    assert said.fitted == 3
    assert judge(said, Reading(np.array([0.99, 0.97, 0.95]), np.full(3, 0.003))).word == "holds"
    assert judge(said, Reading(np.array([0.99, 0.9, 0.95]), np.full(3, 0.003))).word == "fails"
