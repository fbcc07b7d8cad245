from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from strobe.core.report import Report
from strobe.studies.catapult import OneHidden, catapult, descend


def test_the_law_holds_below_four_and_its_rivals_fail(tiny: Callable[[Any], Report]) -> None:
    words = {v.predicted.of: v.word for v in tiny(catapult).verdicts}
    rivals = {of: word for of, word in words.items() if "must fail" in of}
    assert len(rivals) == 5
    assert set(rivals.values()) == {"fails"}
    largest = {of: word for of, word in words.items() if of.startswith("largest")}
    assert len(largest) == 4
    assert "fails" not in largest.values()


def test_starts_side_by_side_go_where_one_network_goes() -> None:
    """The slow way: the module itself, descended by autograd from the start that the stack begins with."""
    width, size, seed = 50, 2.8, 3
    g = torch.Generator().manual_seed(seed)
    u, v = (torch.randn(1, width, generator=g, dtype=torch.float64) for _ in range(2))
    net = OneHidden(width, 0).double()
    with torch.no_grad():
        net.u.copy_(u[0])
        net.v.copy_(v[0])
    kernel = lambda: float((net.u.detach().square().sum() + net.v.detach().square().sum()) / width)  # noqa: E731
    first = kernel()
    optimizer = torch.optim.SGD(net.parameters(), lr=size / first)
    x, y = torch.ones(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    for _ in range(3000):
        optimizer.zero_grad()
        ((net(x) - y).square().mean() / 2).backward()
        optimizer.step()
    done, last, _ = descend(width, 1, size, seed)
    assert done[0]
    assert np.isclose(last[0], kernel() / first, rtol=1e-6)
