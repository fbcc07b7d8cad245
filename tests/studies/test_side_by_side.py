"""Descents side by side: each is what it would be alone, and observables of runs read it."""

import numpy as np
import pytest
import torch

from strobe.core.errors import BadOption
from strobe.observables.essential_dynamics import essential_dynamics
from strobe.studies.side_by_side import side_by_side
from strobe.systems.deep_linear import deep_linear
from strobe.systems.incontext_regression import incontext_regression

SMALL = {"width": 8, "heads": 2, "layers": 1, "batch": 8, "probe_size": 32}


def test_each_is_the_descent_of_its_system() -> None:
    worlds = [incontext_regression(tasks=m, **SMALL) for m in (6, 0)]
    got = side_by_side(worlds, [3, 4], steps=20, at=[0, 7, 20])
    for world, seed, mine in zip(worlds, (3, 4), got, strict=True):
        model = world.build(seed)
        opt = world.optimizer(model, world.lr)
        for step in range(20):
            opt.zero_grad()
            world.loss(model, world.batch(seed, step)).backward()
            opt.step()
        there = mine.at(20)
        for name, value in model.named_parameters():
            assert torch.allclose(there.params()[name], value.detach(), atol=1e-5)
        assert all(torch.equal(a, b) for a, b in zip(there.data, world.probe(seed), strict=True))
        start = world.build(seed).state_dict()
        assert all(torch.equal(v, start[k]) for k, v in mine.at(0).params().items())


def test_it_is_read_as_a_run_is() -> None:
    world = incontext_regression(**SMALL)
    one, two = side_by_side([world] * 2, [0, 1], steps=16, at=[1, 2, 4, 8, 16])
    assert one.stored() == [1, 2, 4, 8, 16]
    path = essential_dynamics({"one": one, "two": two}, data=world.facts["unseen"], outputs=lambda m, pairs: m(pairs))
    assert path.value.shape == (10, 3)
    assert np.ptp(path.value[:, 0]) > 0
    with pytest.raises(BadOption, match="step 3 was not kept"):
        one.at(3)


def test_what_cannot_go_side_by_side_is_refused() -> None:
    with pytest.raises(BadOption, match="one rate"):
        side_by_side([incontext_regression(**SMALL), incontext_regression(lr=0.1, **SMALL)], [0, 0], steps=1, at=[0])
    with pytest.raises(BadOption, match="one architecture"):
        side_by_side([incontext_regression(), incontext_regression(**SMALL)], [0, 0], steps=1, at=[0])
    with pytest.raises(BadOption, match="written for Adam"):
        side_by_side([deep_linear(dim=3, width=4, singular_values=(1.0,))], [0], steps=1, at=[0])
