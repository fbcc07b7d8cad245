"""A rewritten weight gives the value for the key, and of all that do it changes the data's other keys least."""

import pytest
import torch
from torch import nn

from strobe.core.catalogue import load
from strobe.core.errors import BadOption
from strobe.core.tap import patch
from strobe.edits.low_rank import fit_low_rank
from strobe.edits.rewrite import key_covariance, rank_one, rewriting, spread


def world() -> tuple[torch.Tensor, ...]:
    gen = torch.Generator().manual_seed(0)
    W, keys = (torch.randn(*s, generator=gen, dtype=torch.float64) for s in ((4, 6), (500, 6)))
    keys = keys * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.2, 0.1])
    return (
        W,
        keys,
        torch.randn(6, generator=gen, dtype=torch.float64),
        torch.randn(4, generator=gen, dtype=torch.float64),
    )


def test_it_is_exact_at_the_key_and_least_elsewhere() -> None:
    W, keys, k, v = world()
    C = keys.T @ keys / len(keys)
    left, right = rank_one(W, k, v, C)
    assert float(((W + torch.outer(left, right)) @ k - v).abs().max()) < 1e-12
    blind = torch.outer(*rank_one(W, k, v))
    mine = torch.outer(left, right)
    assert float((keys @ mine.T).square().mean()) < 0.9 * float((keys @ blind.T).square().mean())
    for seed in range(20):  # any other change that is exact at k moves the other keys more
        other = torch.randn(4, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        other = other - torch.outer(other @ k, k) / (k @ k)
        assert float((keys @ (mine + 0.1 * other).T).square().sum()) > float((keys @ mine.T).square().sum()) * (
            1 - 1e-6
        )


def test_many_at_once() -> None:
    W, keys, _, _ = world()
    K, V = keys[:3], torch.randn(3, 4, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    C = keys.T @ keys / len(keys)
    right, left = spread(W, K, V, C, exact=True)
    assert float((K @ (W + left @ right).T - V).abs().max()) < 1e-9
    gaps = []
    for strength in (0.01, 1.0, 100.0):
        right, left = spread(W, K, V, C, strength=strength)
        new = W + left @ right
        gaps.append((float((K @ new.T - V).norm()), float((keys @ (new - W).T).norm())))
    assert gaps[0][0] < gaps[1][0] < gaps[2][0]
    assert gaps[0][1] > gaps[1][1] > gaps[2][1]


def test_on_a_layer_of_a_model_and_back() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(9, 6), nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 5))
    texts = [[1, 2, 3], [4, 5], [6, 7, 8, 1]]
    C = key_covariance(net, "3", texts)
    k = net[2](net[1](net[0](torch.tensor([1, 2, 3, 4, 5, 6, 7, 8, 1])))).double()
    assert torch.allclose(C, k.T @ k / 9, atol=1e-6)
    key, value = k[0].float().detach(), torch.randn(5)
    plain = rewriting("3:param.weight", *rank_one(net[3].weight, key, value - net[3].bias.detach(), C))
    before = net(torch.tensor([1]))
    with patch(net, {plain["site"]: load(plain["edit"])(**plain["kwargs"])}):
        assert torch.allclose(net(torch.tensor([1]))[0], value, atol=1e-4)
    assert torch.equal(net(torch.tensor([1])), before)


def test_a_low_rank_edit_is_learned_and_the_weights_are_not() -> None:
    torch.manual_seed(1)
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    bits = {k: v.clone() for k, v in net.state_dict().items()}
    x = torch.randn(64, 4)
    target = net(x).detach() + torch.tensor([1.0, -1.0])

    def loss(m: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        return (m(batch[0]) - batch[1]).square().mean()

    plain = fit_low_rank(net, "1", loss, [(x, target)] * 200, rank=1, lr=0.05)
    assert all(torch.equal(v, bits[k]) for k, v in net.state_dict().items())
    assert net[0].weight.requires_grad
    assert net.training
    with patch(net, {plain["site"]: load(plain["edit"])(**plain["kwargs"])}):
        assert float(loss(net, (x, target)).detach()) < 0.2
    assert float(loss(net, (x, target)).detach()) == pytest.approx(1.0)


def test_bad_input() -> None:
    W, _, k, v = world()
    bad: list[tuple[tuple[torch.Tensor, ...], str]] = [
        ((W, k[:3], v), "needs keys"), ((W, 0 * k, v), "no key is zero"), ((W, k, v, torch.eye(3)), "covariance is"),
        ((W, k * float("nan"), v), "finite"),
    ]  # fmt: skip
    for args, text in bad:
        with pytest.raises(BadOption, match=text):
            rank_one(*args)
    with pytest.raises(BadOption, match="rank is 1 to 3"):
        fit_low_rank(nn.Sequential(nn.Linear(3, 3)), "0", lambda m, x: m(x).sum(), [torch.ones(2, 3)], rank=9)
    with pytest.raises(BadOption, match="no batch"):
        fit_low_rank(nn.Sequential(nn.Linear(3, 3)), "0", lambda m, x: m(x).sum(), [])
