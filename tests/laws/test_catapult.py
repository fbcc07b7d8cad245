import pytest

from strobe.core.errors import BadOption
from strobe.core.prediction import judge
from strobe.core.reading import Reading
from strobe.laws.catapult import catapult


def test_from_above_the_edge_the_kernel_ends_at_or_below_two_over_the_rate() -> None:
    """Lewkowycz et al., arXiv:2003.02218, section 2: thrown between 2 / lr and 4 / lr, and lost above."""
    said = catapult(lr=0.3, kernel=10.0)
    assert judge(said, Reading(6.0, 0.01)).word == "holds"
    assert judge(said, Reading(10.0, 0.1)).word == "fails"  # where gradient flow would leave it
    shares = [catapult(lr=lr, kernel=10.0, of="converged").value for lr in (0.1, 0.3, 0.39, 0.41)]
    assert shares == [1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize("lr", [0.1, 0.5])
def test_where_nothing_is_thrown_there_is_no_number(lr: float) -> None:
    with pytest.raises(BadOption, match="between 2 and 4"):
        catapult(lr=lr, kernel=10.0)
