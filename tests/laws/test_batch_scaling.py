import numpy as np
import pytest

from strobe.laws.batch_scaling import critical_batch, in_regime


def test_the_hyperbola_of_steps_and_examples() -> None:
    """arXiv:1812.06162, equation 2.11: (S / S_min − 1)(E / E_min − 1) = 1 with E = B S and E_min = B_noise S_min."""
    sizes = np.array([3.0, 30.0, 3000.0])
    steps = critical_batch(batches=sizes.tolist(), noise_scale=70.0, fewest_steps=40.0).value
    assert np.allclose((steps / 40 - 1) * (sizes * steps / (70 * 40) - 1), 1)


@pytest.mark.parametrize(
    ("batch", "optimizer", "inside"), [(8, "sgd", True), (64, "sgd", False), (8, "adam", False), (2, "adam", True)]
)
def test_the_regime_is_known_before_the_large_run(batch: int, optimizer: str, inside: bool) -> None:
    assert in_regime(batch=batch, factor=4, noise_scale=100, optimizer=optimizer) is inside
