"""Mode strengths: read off a diagonal network exactly; a non-linear one shows in the error."""

import numpy as np
import pytest
import torch
from torch import nn

from strobe.core.errors import BadOption
from strobe.core.snapshot import Snapshot
from strobe.observables.mode_strengths import mode_strengths


def test_it_reads_the_singular_values_of_a_product() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7, bias=False), nn.Linear(7, 4, bias=False))
    product = (net[1].weight @ net[0].weight).detach()
    u, s, vh = torch.linalg.svd(product, full_matrices=False)
    got = mode_strengths(Snapshot(net, loss=None, data=None), left=u, right=vh.T)  # type: ignore[arg-type]
    assert np.abs(got.value - s.numpy()).max() <= got.err.max() < 1e-5


def test_a_bias_does_not_count_and_a_curved_network_has_a_large_error() -> None:
    line, bend = nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    eye = torch.eye(2)
    assert np.allclose(mode_strengths(_snap(line), left=eye, right=eye).value, line.weight.detach().diag(), atol=1e-6)
    nn.init.eye_(bend[0].weight)
    nn.init.zeros_(bend[0].bias)
    got = mode_strengths(_snap(bend), left=eye, right=eye)
    assert np.allclose(got.value, 0.5)  # relu(x) = x/2 + |x|/2: the odd part is a half …
    assert np.allclose(got.err, 0.5, atol=1e-5)  # … and the even part is as large, which the error says


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(BadOption, match="one column"):
        mode_strengths(_snap(nn.Linear(2, 2)), left=torch.eye(2), right=torch.eye(3))
    with pytest.raises(BadOption, match="must map"):
        mode_strengths(_snap(nn.Linear(2, 3)), left=torch.eye(2), right=torch.eye(2))


def _snap(net: nn.Module) -> Snapshot:
    return Snapshot(net, loss=None, data=None)  # type: ignore[arg-type]
