"""Where the model is affine between the places the relation is it, exactly; elsewhere it is the mean of the examples' own Jacobians."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from strobe.core.errors import BadOption, Diverged, SiteNotFound
from strobe.features.linear_relation import best, fit_beta, linear_relation
from strobe.features.questions import Questions
from strobe.systems.decoder import Decoder


class Affine(nn.Module):
    """The answer's token is given A s + c of the subject's, and itself is forgotten."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.map, self.out = nn.Embedding(12, 6), nn.Linear(6, 5), nn.Linear(5, 9)
        self.mid = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        h = self.embed(x)
        return self.out(self.mid(self.map(h[:, 1:2]).expand(-1, x.shape[1], -1)))


X = torch.randint(12, (40, 4), generator=torch.Generator().manual_seed(3))


def test_it_is_exact_where_the_model_is_affine_and_its_inverse_recovers_the_subject() -> None:
    torch.manual_seed(0)
    net = Affine().double()
    asked = Questions(net, X, subject=1)
    got = linear_relation(asked, "embed", "mid", batch=7, chunk=2)
    assert torch.allclose(got.weight, net.map.weight, atol=1e-12)
    assert torch.allclose(got.bias, net.map.bias, atol=1e-12)
    s, o = asked.read("embed"), asked.read("mid", asked.answer)
    assert torch.allclose(got.predicted(s), o, atol=1e-12)
    assert torch.allclose(got.answered(asked), net(X)[:, -1], atol=1e-12)
    other = linear_relation(asked.part(torch.arange(3)), "embed", "mid")
    assert torch.allclose(other.weight, got.weight, atol=1e-12)
    back = got.pulled(o - got.bias, 5)  # the part of s that the map sees
    assert torch.allclose(back, s @ net.map.weight.T @ torch.linalg.pinv(net.map.weight).T, atol=1e-10)
    wanted = o[3]  # subjects changed so that the object is this one
    assert torch.allclose(got.swapped(asked, wanted, 5), net.out(wanted).expand(40, -1), atol=1e-10)
    v = got.concepts(o[:4], 5)
    assert torch.allclose(v.norm(dim=1), torch.ones(4).double())


def decoder() -> tuple[Decoder, Tensor]:
    torch.manual_seed(1)
    return Decoder(20, 6, 16, 2, 3), torch.randint(20, (10, 6), generator=torch.Generator().manual_seed(2))


def test_it_is_the_mean_of_each_examples_own_jacobian() -> None:
    net, x = decoder()
    asked = Questions(net, x, subject=torch.tensor([3, -3] * 5), answer=5)
    got = linear_relation(asked, "blocks.0", "blocks.2", batch=4, chunk=5)
    W, b = torch.zeros(16, 16), torch.zeros(16)
    for i in range(len(x)):  # one at a time, by hand
        h = net.blocks[0](net.embed(x[i : i + 1]) + net.place.weight).detach()

        def rest(s: Tensor, h: Tensor = h) -> Tensor:
            return net.blocks[2](net.blocks[1](torch.cat([h[0, :3], s[None], h[0, 4:]])[None]))[0, 5]

        J = torch.autograd.functional.jacobian(rest, h[0, 3])
        W += J / len(x)
        b += (rest(h[0, 3]) - J @ h[0, 3]).detach() / len(x)
    assert torch.allclose(got.weight.float(), W, atol=1e-5)
    assert torch.allclose(got.bias.float(), b, atol=1e-5)
    assert float(W.detach().abs().max()) > 0.01


def test_beta_is_the_one_that_gives_the_answers_and_the_model_is_as_it_was() -> None:
    net, x = decoder()
    bits = {k: v.clone() for k, v in net.state_dict().items()}
    net.train()
    asked = Questions(net, x, subject=3)
    relation = linear_relation(asked, "blocks.0", "blocks.2")
    wanted = best(replace(relation, beta=300.0).answered(asked))  # what the map says at another size
    assert not wanted.equal(best(relation.answered(asked)))
    chosen, shares = fit_beta(relation, asked, wanted, betas=[1.0, 30.0, 300.0])
    assert chosen.beta == 300.0
    assert shares[0] < shares[2] == 1.0
    assert fit_beta(relation, asked, torch.full((10,), 99), betas=[3.0, 1.0])[0].beta == 1.0  # of equals
    assert net.training
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert all(torch.equal(v, bits[k]) for k, v in net.state_dict().items())
    assert not net.blocks[0]._forward_hooks
    assert best(torch.tensor([[9.0, 1.0, 2.0]]), torch.tensor([1, 2])).tolist() == [2]


def test_a_map_of_first_order_does_not_see_what_the_model_reads_elsewhere() -> None:
    """The answer depends on token 0 alone: what the subject at 1 carries says nothing, and no slope is invented."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(12, 6), nn.Linear(6, 6), nn.Linear(6, 9))
    with pytest.raises(BadOption, match="nothing at the subject of 0 reaches 1 at the answer"):
        linear_relation(Questions(net, X, subject=1), "0", "1")
    with pytest.raises(BadOption, match="name a source before the target"):
        linear_relation(Questions(net, X, subject=3), "1", "0")


def test_far_from_linear_it_fails() -> None:
    """An even function has no slope on average: the relation predicts its mean and nothing else."""

    class Square(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.square()

    net = nn.Sequential(nn.Identity(), Square(), nn.Linear(3, 3))
    x = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    asked = Questions(net, torch.cat([x, -x]))
    with pytest.raises(BadOption, match="nothing at the subject"):
        linear_relation(asked, "0", "1", batch=400)
    got = linear_relation(asked.part(torch.arange(200)), "0", "1")
    assert float((got.predicted(x) - x.square()).square().mean()) > 0.5 * float(x.square().var())


def test_sites_without_tokens_and_layers_whose_backward_does_not_batch() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Embedding(12, 6), nn.GRU(6, 4, batch_first=True))
    asked = Questions(net, X, subject=0, forward=lambda m, x: m(x)[0])
    got = linear_relation(asked, "0", "1")
    h = net[0](X).detach().requires_grad_()
    J = torch.stack([torch.autograd.grad(net[1](h)[0][:, -1, f].sum(), h)[0][:, 0].mean(0) for f in range(4)])
    assert torch.allclose(got.weight.float(), J, atol=1e-6)


def test_bad_input() -> None:
    net, x = decoder()
    asked = Questions(net, x)
    with pytest.raises(SiteNotFound):
        linear_relation(asked, "blocks.9", "blocks.2")
    for bad in ({"batch": 0}, {"chunk": 0}):
        with pytest.raises(BadOption, match="at least 1"):
            linear_relation(asked, "blocks.0", "blocks.2", **bad)
    with pytest.raises(BadOption, match="there is no token 6"):
        linear_relation(Questions(net, x, subject=6), "blocks.0", "blocks.2")
    for place in (1.5, torch.tensor([1, 2]), True):
        with pytest.raises(BadOption, match="number of a token"):
            Questions(net, x, subject=place)
    got = linear_relation(asked, "blocks.0", "blocks.2")
    with pytest.raises(BadOption, match="rank is 1 to 15"):
        got.pulled(torch.ones(1, 16), 17)
    with pytest.raises(BadOption, match="one wanted answer for each"):
        fit_beta(got, asked, torch.tensor([1]))
    with torch.no_grad():
        net.blocks[2].mlp.up.weight.fill_(float("inf"))
    with pytest.raises(Diverged):
        linear_relation(asked, "blocks.0", "blocks.2")
