"""Many vectors in one pass do what each does alone; the Jacobian's products are those of the dense Jacobian."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from strobe.core.errors import BadOption, Diverged, SiteNotFound
from strobe.features.pushing import pushing
from strobe.systems.decoder import Decoder

X = torch.randint(12, (4, 6), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def net() -> Decoder:
    return Decoder(12, 6, 8, 2, 3)


def one_by_one(net: Decoder, thetas: Tensor, x: Tensor = X) -> Tensor:
    """Blocks 1 and 2 after block 0, written out."""
    with torch.no_grad():
        h = net.blocks[0](net.embed(x) + net.place.weight[: x.shape[1]])
        return torch.stack([net.blocks[2](net.blocks[1](h + t)) - net.blocks[2](net.blocks[1](h)) for t in thetas])


@pytest.mark.parametrize("positions", [1, 60, 2**14])  # one, two or all vectors at a time
def test_batched_effects_are_those_of_one_vector_at_a_time(net: Decoder, positions: int) -> None:
    thetas = torch.randn(5, 8)
    with pushing(net, X, "blocks.0", "blocks.2", positions=positions) as push:
        assert push.batched
        assert torch.allclose(push.effect(thetas), one_by_one(net, thetas), atol=1e-5)
        asks = thetas.clone().requires_grad_()
        (got,) = torch.autograd.grad(push.effect(asks).pow(2).sum(), asks)
        plain = thetas.clone().requires_grad_()
        h = net.blocks[0](net.embed(X) + net.place.weight).detach()
        rest = nn.Sequential(net.blocks[1], net.blocks[2])
        value = torch.stack([(rest(h + t) - rest(h)).pow(2).sum() for t in plain]).sum()
        assert torch.allclose(got, torch.autograd.grad(value, plain)[0], rtol=1e-4, atol=1e-5)


def test_jacobian_products_are_the_dense_ones(net: Decoder) -> None:
    h = net.blocks[0](net.embed(X) + net.place.weight).detach()
    rest = nn.Sequential(net.blocks[1], net.blocks[2])
    J = torch.autograd.functional.jacobian(lambda t: rest(h + t), torch.zeros(8))  # (n, t, d, 8)
    V, U = torch.randn(3, 8), torch.randn(3, 4, 6, 8)
    with pushing(net, X, "blocks.0", "blocks.2") as push:
        assert torch.allclose(push.forward(V), torch.einsum("ntdk,mk->mntd", J, V), atol=1e-5)
        assert torch.allclose(push.back(U), torch.einsum("ntdk,mntd->mk", J, U), atol=1e-4)
        sigma, W = push.jacobian(2, passes=60)
    _, s, Vh = torch.linalg.svd(J.flatten(0, 2), full_matrices=False)
    assert torch.allclose(sigma, s[:2], rtol=1e-3)
    assert float((W[0] @ Vh[0]).abs()) > 0.999


def test_the_network_stops_at_the_target_and_is_left_as_it_was(net: Decoder) -> None:
    calls: list[int] = []
    net.unembed.register_forward_hook(lambda *_: calls.append(1))
    net.train()
    with pytest.raises(RuntimeError, match="mine"), pushing(net, X, "blocks.0", "blocks.1") as push:
        before = len(calls)
        push.effect(torch.randn(3, 8))
        assert len(calls) == before
        raise RuntimeError("mine")
    assert net.training
    assert all(p.requires_grad for p in net.parameters())
    assert not net.blocks[0]._forward_hooks
    assert not net.blocks[1]._forward_hooks


class Padded(nn.Module):
    """A mapping of tokens and mask; a pad is neither read nor, were it, harmless."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.out = nn.Embedding(12, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        h, m = self.embed(input_ids), attention_mask[..., None].float()
        return self.out(torch.tanh(self.mix(h) + (h * m).sum(1, keepdim=True) / m.sum(1, keepdim=True)))


def test_padding_adds_nothing(net: Decoder) -> None:
    model, thetas = Padded(), torch.randn(3, 8)
    bare = {"input_ids": X, "attention_mask": torch.ones_like(X)}
    for left in (True, False):
        pad = torch.full((4, 3), 11)
        ids = torch.cat([pad, X] if left else [X, pad], 1)
        mask = torch.cat(
            [torch.zeros(4, 3), torch.ones(4, 6)] if left else [torch.ones(4, 6), torch.zeros(4, 3)], 1
        ).long()
        with (
            pushing(model, bare, "embed", "out") as a,
            pushing(model, {"input_ids": ids, "attention_mask": mask}, "embed", "out") as b,
        ):
            assert torch.allclose(
                a.effect(thetas).flatten(1).norm(dim=1), b.effect(thetas).flatten(1).norm(dim=1), rtol=1e-5
            )
            assert b.length == pytest.approx(a.length)
    with pushing(Padded(), bare, "embed", "out") as whole:
        assert whole.there is None or bool(whole.there.all())


class Mixes(nn.Module):
    """Inputs of one batch read each other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        h = self.a(x)
        return self.b(torch.tanh(h - h.mean(0)))


def test_models_whose_inputs_read_each_other_go_one_vector_at_a_time() -> None:
    torch.manual_seed(0)
    model, x, thetas = Mixes(), torch.randn(5, 3), torch.randn(3, 4)
    with pushing(model, x, "a", "b") as push:
        assert not push.batched
        alone = push.effect(thetas)
    assert float(alone.abs().max()) < 1e-5  # what all get alike, the mean takes away
    with pushing(Decoder(12, 6, 8, 2, 2), X, "blocks.0", "blocks.1") as push:
        assert push.batched


def test_channels_of_an_image_are_its_features_and_other_arguments_stay() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 5, 3))
    x, theta = torch.randn(4, 2, 8, 9), torch.randn(2, 3)
    with pushing(model, x, "0", "2") as push, torch.no_grad():
        assert (push.size, push.batched) == (3, True)
        h = model[0](x)
        want = model[2](torch.relu(h + theta[1][:, None, None])) - model(x)
        assert torch.allclose(push.effect(theta)[1], want.movedim(1, -1), atol=1e-5)


def test_bad_input(net: Decoder) -> None:
    def go(model: nn.Module, x: Any, *a: Any, **k: Any) -> None:
        with pushing(model, x, *a, **k):
            pass

    with pytest.raises(SiteNotFound):
        go(net, X, "blocks.0", "blocks.9")
    with pytest.raises(BadOption, match="mask has shape"):
        go(net, X, "blocks.0", "blocks.2", mask=torch.ones(4, 5))
    with pytest.raises(BadOption, match="positions"):
        go(net, X, "blocks.0", "blocks.2", positions=0)
    with torch.no_grad():
        net.blocks[1].mlp.down.weight.fill_(torch.nan)
    with pytest.raises(Diverged, match="not finite before"):
        go(net, X, "blocks.0", "blocks.2")
