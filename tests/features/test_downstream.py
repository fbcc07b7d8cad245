"""Divergence against its closed form; padding, chunks and losses."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from strobe.core.errors import BadOption
from strobe.features.downstream import downstream
from strobe.features.unsupervised import unsupervised

X = torch.randint(12, (6, 5), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Embedding(12, 4), nn.Identity(), nn.Linear(4, 12))


def test_divergence_is_that_of_the_two_softmaxes(net: nn.Sequential) -> None:
    thetas = torch.randn(3, 4)
    got = downstream(net, X, thetas, "1")
    net.requires_grad_(False)
    p = net(X).double().softmax(-1)
    for k, theta in enumerate(thetas):
        q = (net(X) + net[2].weight @ theta).double().softmax(-1)
        assert float(got.divergence[k]) == pytest.approx(float((p * (p / q).log()).sum(-1).mean()), rel=1e-4)
        assert float(got.flipped[k]) == pytest.approx(float((p.argmax(-1) != q.argmax(-1)).double().mean()))
    assert got.divergence[got.order].tolist() == sorted(got.divergence.tolist(), reverse=True)
    tight = downstream(net, X, thetas, "1", positions=1)
    assert torch.allclose(tight.divergence, got.divergence, rtol=1e-4)
    assert float(downstream(net, X, torch.zeros(1, 4), "1").divergence) == 0


def test_large_at_the_target_need_not_be_large_in_the_answer() -> None:
    """The unembedding does not read feature 0, along which the target moves most."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(12, 4), nn.Linear(4, 4, bias=False), nn.Linear(4, 12, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.diag(torch.tensor([5.0, 1.0, 0.1, 0.1])))
        model[2].weight[:, 0] = 0
    found = unsupervised(model, X, "0", "1", count=2, norm=1.0, passes=40, steps=20)
    assert abs(float(found.vectors[0, 0])) > 0.99
    ranked = downstream(model, X, found)
    assert ranked.order.tolist() == [1, 0]
    assert float(ranked.divergence[0]) < 1e-3 * float(ranked.divergence[1])


def test_the_loss_and_the_last_token(net: nn.Sequential) -> None:
    def loss(out: Tensor, x: Tensor) -> Tensor:
        return cross_entropy(out[:, :-1].flatten(0, 1), x[:, 1:].flatten())

    thetas = torch.randn(2, 4)
    got = downstream(net, X, thetas, "1", loss=loss, tokens="last")
    with torch.no_grad():
        want = loss(net(X) + net[2].weight @ thetas[0], X) - loss(net(X), X)
    assert float(got.loss[0]) == pytest.approx(float(want), abs=1e-5)
    alone = downstream(net, X[:, -1:], thetas, "1")
    assert torch.allclose(alone.divergence, got.divergence, rtol=1e-4)
    by_loss = downstream(net, X, thetas, "1", loss=loss, distribution=False)
    assert by_loss.divergence is None
    assert by_loss.order.tolist() == by_loss.loss.abs().argsort(descending=True).tolist()


class Named(nn.Module):
    def __init__(self, net: nn.Sequential) -> None:
        super().__init__()
        self.net = net

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.net(input_ids)


def test_padding_is_not_counted(net: nn.Sequential) -> None:
    thetas = torch.randn(2, 4)
    pad = {
        "input_ids": torch.cat([X, torch.zeros(6, 2, dtype=torch.long)], 1),
        "attention_mask": torch.cat([torch.ones(6, 5), torch.zeros(6, 2)], 1).long(),
    }
    for tokens in ("all", "last"):
        want = downstream(net, X, thetas, "1", tokens=tokens)  # type: ignore[arg-type]
        got = downstream(Named(net), pad, thetas, "net.1", tokens=tokens)  # type: ignore[arg-type]
        assert torch.allclose(got.divergence, want.divergence, rtol=1e-4)


def test_bad_input(net: nn.Sequential) -> None:
    for bad in (
        {"source": None},
        {"tokens": "first"},
        {"distribution": False},
        {"mask": torch.ones(6, 4)},
        {"vectors": torch.ones(1, 3)},
    ):
        with pytest.raises(BadOption):
            downstream(net, X, **({"vectors": torch.ones(1, 4), "source": "1"} | bad))  # type: ignore[arg-type]
