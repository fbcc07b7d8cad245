"""In the limit of small pushes the answer is the Jacobian's; at size it is what the network makes of it."""

import pytest
import torch
from torch import nn

from strobe.core.errors import BadOption, SiteNotFound
from strobe.features.unsupervised import unsupervised


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(12, 10), nn.Linear(10, 16), nn.Tanh(), nn.Linear(16, 8))


X = torch.randint(12, (6, 5), generator=torch.Generator().manual_seed(1))


def dense(net: nn.Sequential) -> tuple[torch.Tensor, torch.Tensor]:
    h = net[0](X).detach().double()
    rest = nn.Sequential(*net[1:]).double()
    J = torch.autograd.functional.jacobian(lambda t: rest(h + t).flatten(), torch.zeros(10, dtype=torch.float64))
    net.float()
    _, s, V = torch.linalg.svd(J)
    return s, V


def test_small_pushes_are_the_leading_singular_vectors(net: nn.Sequential) -> None:
    s, V = dense(net)
    got = unsupervised(net, X, "0", "3", count=2, norm=1e-3, passes=40, steps=20)
    assert got.sigma[:2].tolist() == pytest.approx(s[:2].tolist(), rel=1e-3)
    assert abs(float(got.vectors[0].double() @ V[0]) / 1e-3) > 0.999
    assert float(got.gain[0]) == pytest.approx(1, abs=2e-3)
    alone = unsupervised(net, X, "0", "3", count=2, norm=1e-3, method="jacobian", passes=40)
    assert float((alone.vectors @ got.vectors.T).abs().diagonal().min()) > 0.99e-6


def test_at_size_the_network_answers_by_more_than_a_random_push_and_less_than_its_jacobian_where_it_saturates(
    net: nn.Sequential,
) -> None:
    got = unsupervised(net, X, "0", "3", count=3, norm=20.0, passes=10, steps=60)
    assert float(got.gain[0]) < 0.9
    assert got.effect.tolist() == sorted(got.effect.tolist(), reverse=True)
    gram = got.vectors @ got.vectors.T
    assert torch.allclose(gram, 400 * torch.eye(3), atol=0.5)
    h = net[0](X)
    for seed in range(5):
        r = torch.randn(10, generator=torch.Generator().manual_seed(seed))
        moved = nn.Sequential(*net[1:])(h.detach() + 20 * r / r.norm()) - nn.Sequential(*net[1:])(h)
        assert float(moved.detach().norm()) < float(got.effect[0])


def test_contrast_tells_its_directions_apart(net: nn.Sequential) -> None:
    got = unsupervised(net, X, "0", "3", count=4, norm=1.0, method="contrastive", steps=80)
    off = got.alike[~torch.eye(4, dtype=torch.bool)]
    assert float(off.mean()) < 0.6
    assert torch.allclose(got.vectors.norm(dim=1), torch.ones(4), atol=1e-4)


def test_a_layer_without_forward_derivatives_and_the_model_left_as_it_was() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(12, 10), nn.GRU(10, 6, batch_first=True)).train()
    got = unsupervised(net, X, "0", "1", count=1, norm=1e-2, method="jacobian", passes=20)
    assert float(got.gain[0]) == pytest.approx(1, abs=0.05)
    assert net.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert not net[0]._forward_hooks


def test_bad_input(net: nn.Sequential) -> None:
    for bad in ({"method": "magic"}, {"norm": 0.0}, {"count": 0}, {"count": 11}):
        with pytest.raises(BadOption):
            unsupervised(net, X, "0", "3", **({"norm": 1.0} | bad))
    with pytest.raises(SiteNotFound, match="no module '9'"):
        unsupervised(net, X, "0", "9", norm=1.0)
    with pytest.raises(BadOption, match="two directions and two inputs"):
        unsupervised(net, X, "0", "3", norm=1.0, count=1, method="contrastive")
