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


def climbed(net: nn.Sequential, begin: torch.Tensor, norm: float, steps: int, lr: float) -> tuple[float, torch.Tensor]:
    """One vector from one place, written out: Adam on the sphere, the best of all steps."""
    h, rest = net[0](X).detach(), nn.Sequential(*net[1:])
    theta = (norm * begin).clone().requires_grad_()
    adam = torch.optim.Adam([theta], lr=lr * norm / len(theta) ** 0.5)
    best = (-1.0, theta.detach().clone())
    for _ in range(steps + 1):
        value = (rest(h + theta) - rest(h)).norm()
        if float(value.detach()) > best[0]:
            best = (float(value.detach()), theta.detach().clone())
        (g,) = torch.autograd.grad(-value, theta)
        theta.grad = g - theta.detach() * (g @ theta.detach()) / norm**2
        adam.step()
        with torch.no_grad():
            theta.mul_(norm / theta.norm())
    return best


@pytest.mark.parametrize("positions", [1, 2**14])
def test_starts_climb_together_as_they_do_one_by_one(net: nn.Sequential, positions: int) -> None:
    got = unsupervised(
        net, X, "0", "3", count=2, norm=3.0, orthogonal=False, starts=3, steps=25, seed=4, positions=positions
    )
    begin = torch.randn(6, 10, generator=torch.Generator().manual_seed(4))
    alone = [climbed(net, b / b.norm(), 3.0, 25, 0.05) for b in begin]
    best = sorted((max(alone[:3]), max(alone[3:])), key=lambda a: -a[0])
    assert got.effect.tolist() == pytest.approx([a[0] for a in best], rel=1e-4)
    assert torch.allclose(got.vectors, torch.stack([a[1] for a in best]), atol=1e-2)


def test_more_starts_find_at_least_as_much(net: nn.Sequential) -> None:
    few = unsupervised(net, X, "0", "3", count=1, norm=6.0, starts=1, steps=40)
    many = unsupervised(net, X, "0", "3", count=1, norm=6.0, starts=8, steps=40)
    assert float(many.effect[0]) >= float(few.effect[0]) - 1e-4


def test_contrast_without_its_size_finds_small_effects_and_no_two_alike(net: nn.Sequential) -> None:
    alone, sized, random = (
        unsupervised(net, X, "0", "3", count=4, norm=1.0, seed=1, steps=80, **how)
        for how in ({"method": "contrastive", "size": 0.0}, {"method": "contrastive"}, {"method": "random"})
    )
    assert float(sized.effect.mean()) > 1.1 * float(alone.effect.mean())
    assert alone.overlap < random.overlap
    assert sized.overlap == pytest.approx(float(sized.alike[~torch.eye(4, dtype=torch.bool)].mean()), abs=1e-5)


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
