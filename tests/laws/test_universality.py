import pytest

from strobe.core.errors import BadOption
from strobe.core.prediction import judge
from strobe.core.reading import Reading
from strobe.laws.universality import matched_connectivity, shared_representation, spectrum_outliers


def test_the_figures_of_the_specification_hold_and_its_nulls_fail() -> None:
    """Measured there on digits at widths 16, 64, 256: barriers 1.13/.124, .48/.019, .32/.004; CKA .84-.27, .94-.49, .98-.84."""
    widths = [16, 64, 256]
    assert (
        judge(matched_connectivity(widths=widths), Reading([1.13 / 0.124, 0.48 / 0.019, 0.32 / 0.004], [0.0] * 3)).word
        == "holds"
    )
    assert judge(matched_connectivity(widths=widths), Reading([1.0, 1.0, 1.0], [0.1] * 3)).word == "fails"
    assert judge(shared_representation(widths=widths), Reading([0.57, 0.45, 0.14], [0.02] * 3)).word == "holds"
    assert judge(shared_representation(widths=widths), Reading([0.0, 0.01, 0.0], [0.01] * 3)).word == "fails"


def test_one_spike_a_class_or_it_fails() -> None:
    said = spectrum_outliers(classes=10, widths=[64])
    assert judge(said, Reading([10.5], [0.1])).word == "holds"
    assert judge(said, Reading([0.0], [0.0])).word == "fails"
    with pytest.raises(BadOption, match="6 x classes"):
        spectrum_outliers(classes=10, widths=[32])
