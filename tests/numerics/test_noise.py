import numpy as np
import pytest
import torch
from torch import Tensor

from strobe.numerics.noise import Noise, _table


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_table_has_the_moments_of_the_normal_distribution(dtype: torch.dtype) -> None:
    x = torch.from_numpy(_table(dtype)).double()
    torch.testing.assert_close(x.mean(0), torch.zeros_like(x[0]), atol=1e-7, rtol=0)
    torch.testing.assert_close(x.T @ x / len(x), torch.eye(x.shape[1], dtype=torch.float64), atol=1e-6, rtol=0)
    for power, moment in ((4, 3.0), (6, 15.0)):
        assert x.pow(power).mean(0).tolist() == pytest.approx([moment] * x.shape[1], rel=0.01)
    assert float(x.abs().max()) < 4.5
    share = torch.stack([(x[:, 0] < q).double().mean() for q in (-2.0, -1.0, 0.5, 1.5)])
    assert share.tolist() == pytest.approx([0.02275, 0.15866, 0.69146, 0.93319], abs=1e-3)


def alone(seed: int, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> Tensor:
    return Noise(seed).fill(torch.empty(shape, dtype=dtype))


@pytest.mark.parametrize("shape", [(1,), (3,), (8,), (7, 5), (64, 18), (2, 3, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_any_shape_is_filled_and_repeats(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x = alone(3, shape, dtype)
    assert bool((x.abs() < 4.5).all())
    assert bool((x != 0).all())
    assert torch.equal(x, alone(3, shape, dtype))
    assert not torch.equal(x, alone(4, shape, dtype))


def test_a_view_is_filled_and_its_neighbours_are_left() -> None:
    buffer = torch.zeros(100)
    Noise(0).fill(buffer[3:90])
    assert bool((buffer[3:90] != 0).all())
    assert not buffer[:3].any()
    assert not buffer[90:].any()


def test_numbers_are_independent_across_rows_and_calls() -> None:
    noise = Noise(1)
    x = torch.stack([noise.fill(torch.empty(4000)) for _ in range(50)]).double().numpy()
    c = np.corrcoef(x.reshape(-1)[:-8], x.reshape(-1)[8:])[0, 1], np.corrcoef(x[:-1].ravel(), x[1:].ravel())[0, 1]
    assert np.abs(c).max() < 5 / np.sqrt(x.size)
    squares = np.corrcoef(x[:, ::8].ravel() ** 2, x[:, 1::8].ravel() ** 2)[0, 1]  # within a row: not only uncorrelated
    assert abs(squares) < 0.03
    assert np.square(x).mean() == pytest.approx(1, abs=5 * np.sqrt(2 / x.size))
