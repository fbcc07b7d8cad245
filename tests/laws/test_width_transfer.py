import pytest

from strobe.core.prediction import judge
from strobe.core.reading import Reading
from strobe.laws.width_transfer import coordinate_slopes, width_transfer


def test_it_says_of_published_figures_what_their_authors_say() -> None:
    """Yang et al., figure 1: from width 128 to 8192 the standard parametrisation's best lr falls by some 4 octaves or more, mup's stays."""
    standard = width_transfer(widths=[128, 8192], parametrisation="standard")
    assert judge(standard, Reading(4.0, 0.5)).word == "holds"
    assert judge(width_transfer(widths=[128, 8192]), Reading(4.0, 0.5)).word == "fails"


def test_slopes_of_the_standard_parametrisation_fail_mups() -> None:
    roles = ["input", "hidden", "output"]
    standard = coordinate_slopes(roles=roles, parametrisation="standard")
    assert judge(coordinate_slopes(roles=roles), Reading(standard.value, 0.01)).word == "fails"


@pytest.mark.parametrize("name", ["mup", "standard"])
def test_a_short_span_of_widths_tells_nothing(name: str) -> None:
    from strobe.core.errors import BadOption

    with pytest.raises(BadOption, match="span a factor"):
        width_transfer(widths=[128, 256], parametrisation=name)
