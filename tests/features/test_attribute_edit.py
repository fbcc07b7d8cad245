"""The learned vector is the minimiser, in closed form where there is one; it works on subjects it was not learned from."""

import math

import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from strobe.core.catalogue import load
from strobe.core.errors import BadOption, Diverged
from strobe.core.tap import patch
from strobe.features.attribute_edit import attribute_edits
from strobe.features.questions import Questions
from strobe.systems.decoder import Decoder


def test_it_is_the_minimiser_of_two_words_in_closed_form() -> None:
    """Logits (0, u·s): the best e is a u / ‖u‖ with σ(−u·s − a‖u‖) ‖u‖ = 2 penalty a / ‖s‖²."""
    net = nn.Sequential(nn.Identity(), nn.Linear(3, 2, bias=False)).double()
    u = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    with torch.no_grad():
        net[1].weight.copy_(torch.stack([torch.zeros(3).double(), u]))
    s = torch.tensor([[0.3, 0.4, -0.2]], dtype=torch.float64)
    got = attribute_edits(Questions(net, s), "0", torch.tensor([1]), penalty=0.5, steps=250, lr=0.5)
    length, size = float(u.norm()), float(s.square().sum())

    def slope(a: float) -> float:
        return length / (1 + math.exp(float(s @ u) + a * length)) - 2 * 0.5 * a / size

    assert torch.allclose(got.vectors[0], brentq(slope, 0, 50) * u / length, atol=1e-5)
    assert got.losses[-1] < got.losses[0] == pytest.approx(math.log1p(math.exp(-float(s @ u))), rel=1e-5)


def planted() -> tuple[nn.Module, Tensor]:
    """The answer is the class whose direction the subject at token 1 carries most of, read from there by the last token."""
    torch.manual_seed(0)

    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.out = nn.Embedding(40, 12), nn.Linear(12, 6)

        def forward(self, x: Tensor) -> Tensor:
            h = self.embed(x)
            return self.out(torch.tanh(h[:, 1:2]).expand_as(h))

    return Reads(), torch.randint(40, (60, 3), generator=torch.Generator().manual_seed(1))


def test_all_attributes_at_once_on_subjects_it_has_not_seen_and_no_weight_moves() -> None:
    net, x = planted()
    bits = {k: v.clone() for k, v in net.state_dict().items()}
    words = torch.tensor([4, 0, 5])
    seen, fresh = Questions(net, x[x[:, 1] < 20], subject=1), Questions(net, x[x[:, 1] >= 20], subject=1)
    got = attribute_edits(seen, "embed", words, penalty=1e-3, steps=120)
    assert all(torch.equal(v, bits[k]) for k, v in net.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in net.parameters())
    assert net.training
    assert not net.embed._forward_hooks
    for k, word in enumerate(words):
        said = fresh.answered({"embed": (1, got.vectors[k].add)})
        assert float((said.argmax(1) == word).double().mean()) > 0.9
        assert float((fresh.answered().argmax(1) == word).double().mean()) < 0.6
        plain = got.plain(k, 1)
        with patch(net, {plain["site"]: load(plain["edit"])(**plain["kwargs"])}):
            assert torch.allclose(net(fresh.inputs)[:, -1], said, atol=1e-5)
    again = attribute_edits(seen, "embed", words, penalty=1e-3, steps=120)
    assert torch.equal(again.vectors, got.vectors)
    heavy = attribute_edits(seen, "embed", words, penalty=10.0, steps=100)
    assert float(heavy.vectors.norm()) < 0.1 * float(got.vectors.norm())


def test_each_question_may_have_a_vector_of_its_own() -> None:
    net, x = planted()
    asked = Questions(net, x[:4].repeat(5, 1), subject=1)
    own, words = torch.arange(4).repeat(5), torch.tensor([5, 0, 3, 3])
    got = attribute_edits(asked, "embed", words, own=own, penalty=1e-3, steps=80)
    assert torch.equal(asked.answered({"embed": (1, got.vectors[own].add)}).argmax(1), words[own])
    assert not torch.allclose(got.vectors[2], got.vectors[3], atol=0.1)  # two subjects, one word
    for bad in (own[:3], own + 1):
        with pytest.raises(BadOption, match="own gives each"):
            attribute_edits(asked, "embed", words, own=bad)


def test_an_affine_map_of_encodings_speaks_of_an_attribute_it_was_not_taught() -> None:
    """Six words around a circle, taught five: what the map makes of the place of the sixth is the way to the sixth."""
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Identity(), nn.Linear(8, 6)), torch.randn(50, 8)
    angle = torch.arange(6) * torch.pi / 3
    codes = torch.stack([angle.cos(), angle.sin()], 1)
    with torch.no_grad():
        net[1].weight.copy_(torch.cat([3 * codes, torch.zeros(6, 6)], 1))
    asked = Questions(net, x)
    got = attribute_edits(asked, "0", torch.arange(5), encodings=codes[:5], penalty=1e-3, steps=150)
    assert torch.allclose(got.of(codes[:5]), got.vectors, atol=1e-4)

    def says(word: int, e: Tensor) -> float:
        return float((asked.answered({"0": (0, e.add)}).argmax(1) == word).double().mean())

    assert says(3, got.vectors[3]) > 0.9
    assert says(5, got.of(codes[5])) > 0.9
    assert says(5, got.of(codes[2])) < 0.1
    free = attribute_edits(asked, "0", torch.arange(5), penalty=1e-3, steps=10)
    with pytest.raises(BadOption, match="not learned from encodings"):
        free.of(codes)


def test_where_the_answer_was_already_read_no_vector_can_change_it() -> None:
    torch.manual_seed(0)
    net, x = Decoder(20, 4, 16, 2, 2), torch.randint(20, (8, 4))
    with pytest.raises(BadOption, match="nothing at the subject of blocks.1 reaches the answer"):
        attribute_edits(Questions(net, x), "blocks.1", torch.tensor([3]), steps=3)
    assert float(attribute_edits(Questions(net, x), "blocks.0", torch.tensor([3]), steps=3).vectors.norm()) > 0


def test_bad_input() -> None:
    net, x = planted()
    asked = Questions(net, x, subject=1)
    for bad in ({"steps": 0}, {"lr": 0.0}, {"penalty": -1.0}, {"batch": 0}, {"encodings": torch.ones(2, 3)},
                {"encodings": torch.zeros(1, 3)}):  # fmt: skip
        with pytest.raises(BadOption):
            attribute_edits(asked, "embed", torch.tensor([1]), **bad)
    with pytest.raises(BadOption, match="there is no word 9"):
        attribute_edits(asked, "embed", torch.tensor([9]))
    with pytest.raises(BadOption, match="numbers of tokens"):
        attribute_edits(asked, "embed", torch.tensor([1.5]))
    with torch.no_grad():
        net.out.weight.fill_(float("nan"))
    with pytest.raises(Diverged, match="at step 0"):
        attribute_edits(asked, "embed", torch.tensor([1]))
