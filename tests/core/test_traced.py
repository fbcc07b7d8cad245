from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import grad, vmap

from strobe.core.traced import graphed, traced


def squares(w: Tensor, tensors: list[Tensor]) -> Tensor:
    return vmap(grad(lambda v: (tensors[0] @ v).relu().square().mean()))(w)


def operations(module: Any) -> int:
    return sum(n.op == "call_function" for n in module.graph.nodes)


def test_what_shapes_decide_is_worked_out_once() -> None:
    w, x = torch.randn(4, 3), torch.randn(8, 3)
    f = traced(squares, w, [x])
    names = {n.target for n in f.graph.nodes}
    assert torch.ops.aten.ones_like.default not in names
    assert torch.ops.aten.detach.default not in names
    assert operations(f) < 20
    for _ in range(3):
        w, x = torch.randn(4, 3), torch.randn(8, 3)
        torch.testing.assert_close(f(w, [x]), squares(w, [x]))


def test_what_is_there_already_is_not_worked_out_again() -> None:
    def twice(w: Tensor, tensors: list[Tensor]) -> Tensor:
        return (w.sin() + (w * 1).mT.mT.sin() ** 1) * 3.0

    w = torch.randn(4, 3)
    f = traced(twice, w, [])
    assert operations(f) == 3  # sin, the sum, the product
    for v in (w, 2 * w):
        torch.testing.assert_close(f(v, []), twice(v, []))


def test_a_constant_that_is_returned_is_the_callers_own() -> None:
    f = traced(lambda w, t: (w * 2, torch.zeros_like(w) + 1), torch.ones(3), [])
    for _ in range(2):
        _, constant = f(torch.ones(3), [])
        assert constant.tolist() == [1.0, 1.0, 1.0]
        constant.mul_(5)


def test_what_is_written_to_or_drawn_is_no_constant() -> None:
    def writes(w: Tensor, tensors: list[Tensor]) -> Tensor:
        total = torch.zeros_like(w)
        total += tensors[0]
        return total * w

    def draws(w: Tensor, tensors: list[Tensor]) -> Tensor:
        return torch.rand_like(torch.ones_like(w)) * w

    w = torch.ones(3)
    f, g = traced(writes, w, [w]), traced(draws, w, [w])
    for k in (1.0, 2.0):
        torch.testing.assert_close(f(w, [k * w]), k * w)
    assert not torch.equal(g(w, [w]), g(w, [w]))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_graph_outlives_what_it_was_made_of() -> None:
    w, x = torch.randn(4, 3).cuda(), torch.randn(8, 3).cuda()
    f = graphed(traced(lambda w, t: (squares(w, t),), w, [x]), w, [x])
    torch.cuda.empty_cache()
    kept = [torch.full((1000,), 7.0, device="cuda") for _ in range(100)]  # where freed constants would have been
    first = f(w, [x])[0]
    second = f(2 * w, [x])[0]
    torch.testing.assert_close(first, squares(w, [x]))
    torch.testing.assert_close(second, squares(2 * w, [x]))
    assert len(kept) == 100
