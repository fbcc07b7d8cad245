"""Products of sums of outer products: each way against the matrices themselves."""

import pytest
import torch
from torch import Tensor

from strobe.numerics.outer_products import Plain, Products, gram, symmetric


def matrices(a: Tensor, b: Tensor) -> Tensor:
    return torch.einsum("nstm,ntd->nsmd", b, a)


@pytest.mark.parametrize("block", [False, True])
@pytest.mark.parametrize(("t", "d", "m"), [(1, 5, 4), (3, 9, 8), (12, 2, 3)])
def test_layers(t: int, d: int, m: int, block: bool) -> None:
    g = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, generator=g, dtype=torch.float64)  # noqa: E731
    x, y = (Products("w", "b", draw(n, t, d), draw(n, 2, t, m)) for n in (6, 5))
    form = "ikab,jlab->ikjl" if block else "ikab,jkab->ij"
    for other in (x, y):
        got = dict(x.contract(other, block))
        assert torch.allclose(got["w"], torch.einsum(form, matrices(x.a, x.b), matrices(other.a, other.b)))
        bias = form.replace("ab", "a")
        assert torch.allclose(got["b"], torch.einsum(bias, x.b.sum(2), other.b.sum(2)))
    assert torch.allclose(dict(x.gradients())["w"].view(6, 2, m, d), matrices(x.a, x.b))


def test_both_ways_are_taken_and_agree() -> None:
    g = torch.Generator().manual_seed(1)
    wide = Products("w", None, torch.randn(40, 2, 30, generator=g), torch.randn(40, 3, 2, 30, generator=g))
    long = Products("w", None, torch.randn(40, 30, 2, generator=g), torch.randn(40, 3, 30, 2, generator=g))
    assert wide.by_positions(False)
    assert not long.by_positions(False)
    for x in (wide, long):
        made = dict(x.gradients())["w"]
        assert torch.allclose(x._by_positions(x), gram(made, made, False), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("block", [False, True])
@pytest.mark.parametrize("words", [5, 400])
def test_an_embedding_is_a_layer_of_unit_vectors(words: int, block: bool) -> None:
    g = torch.Generator().manual_seed(2)
    tokens, b = torch.randint(5, (6, 4), generator=g), torch.randn(6, 2, 4, 3, generator=g, dtype=torch.float64)
    units = torch.nn.functional.one_hot(tokens, words).double()
    ours, plain = Products("w", None, tokens, b, words), Products("w", None, units, b)
    for other, same in ((ours, plain), (Products("w", None, tokens, b, words), Products("w", None, units, b))):
        assert torch.allclose(dict(ours.contract(other, block))["w"], dict(plain.contract(same, block))["w"])


@pytest.mark.parametrize("rows", [1, 7, 300, 513])
def test_halves(rows: int) -> None:
    x = torch.randn(rows, 20, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert torch.allclose(symmetric(x), x @ x.T)


def test_what_is_not_the_same_is_not_taken_for_it() -> None:
    x = Plain("p", torch.ones(3, 2, 4))
    y = Plain("p", 2 * torch.ones(3, 2, 4))
    assert dict(x.contract(y, False))["p"].unique().tolist() == [16.0]
    assert dict(x.contract(x, True))["p"].shape == (3, 2, 3, 2)
