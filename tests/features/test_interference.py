"""A coordinate moves by the Gram matrix times the doses, and doses corrected for it move each by what was wanted."""

import pytest
import torch

from strobe.core.errors import BadOption
from strobe.features.concept import Concept
from strobe.features.interference import corrected, gram, interference


def some(k: int = 3, d: int = 7) -> list[Concept]:
    U = torch.randn(k, d, generator=torch.Generator().manual_seed(1))
    return [Concept("blocks.0", (u / u.norm())[None], torch.randn(d)) for u in U]


def test_what_is_predicted_is_what_moves() -> None:
    concepts, doses = some(), [1.0, -2.0, 0.5]
    x = torch.randn(5, 7)
    y = x + sum(a * c.direction for a, c in zip(doses, concepts, strict=True))
    moved = torch.stack([(c.encode(y) - c.encode(x))[:, 0].mean() for c in concepts])
    assert torch.allclose(moved.double(), interference(concepts, doses), atol=1e-5)
    assert torch.allclose(interference(concepts, corrected(concepts, doses).tolist()), torch.tensor(doses).double())


def test_other_sites_do_not_count_and_twins_cannot_be_told_apart() -> None:
    a, b = some(2)
    elsewhere = Concept("blocks.1", b.directions, b.mean)
    assert gram([a, elsewhere]).equal(torch.eye(2).double())
    assert float(gram([a, b])[0, 1]) != 0
    with pytest.raises(BadOption, match="almost the same"):
        corrected([a, a], [1.0, 1.0])
    with pytest.raises(BadOption, match="2 concepts"):
        interference([a, b], [1.0])
    with pytest.raises(BadOption, match="3 and 7 features"):
        gram([a, Concept("blocks.0", torch.eye(3)[:1], torch.zeros(3))])
