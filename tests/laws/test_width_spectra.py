import numpy as np
import pytest

from strobe.core.errors import BadOption
from strobe.core.prediction import judge
from strobe.core.reading import Reading
from strobe.laws.width_spectra import spectra_settle, standard_updates

WIDTHS = [32, 64, 128, 256, 512]


def test_the_published_sizes_of_updates() -> None:
    """arXiv:2310.17813, section 4: updates of norm √(fan_out / fan_in) settle; entries of size lr give n for a hidden matrix."""
    n, lr, inputs, classes = np.array(WIDTHS, float), 1e-3, 64, 10
    shapes = [(n, inputs * np.ones(5)), (n, n), (classes * np.ones(5), n)]
    acts = np.stack([lr * np.sqrt(out * into) * np.sqrt(into / out) for out, into in shapes], 1)
    slopes = np.polyfit(np.log2(n), np.log2(acts), 1)[0]
    said = standard_updates(roles=["input", "hidden", "output"], widths=WIDTHS)
    assert np.allclose(slopes, said.value)
    assert judge(said, Reading(slopes, 0.01)).word == "holds"
    assert judge(spectra_settle(of="updates", widths=WIDTHS, numbers=3), Reading(slopes, 0.01)).word == "fails"


def test_a_sharpness_that_grows_as_the_root_of_width_refutes() -> None:
    said = spectra_settle(of="sharpness", widths=WIDTHS, numbers=2)
    assert judge(said, Reading(np.array([0.02, 0.5]), 0.03)).word == "fails"
    assert judge(said, Reading(np.array([0.02, -0.03]), 0.03)).word == "holds"


def test_bad_knobs() -> None:
    for bad in ({"of": "spike"}, {"widths": [32, 64, 128]}, {"widths": [32, 40, 50, 64]}, {"numbers": 0}, {"tol": 0.0}):
        with pytest.raises(BadOption):
            spectra_settle(**({"of": "spikes", "widths": WIDTHS, "numbers": 2} | bad))  # type: ignore[arg-type]
    with pytest.raises(BadOption, match="did you mean spikes"):
        spectra_settle(of="spike", widths=WIDTHS, numbers=1)
    with pytest.raises(BadOption, match="roles are"):
        standard_updates(roles=["bias"], widths=WIDTHS)
