"""The predictor is exact: against brute force over all paths of states, and against counts."""

import itertools

import numpy as np
import pytest
import torch

from strobe.core.errors import BadOption
from strobe.systems.hidden_markov_mixture import hidden_markov_mixture, mixture_of

TINY = {"models": 2, "values": 2, "slots": 2, "words": 3, "stay": 0.7, "seed": 3}


def test_the_predictor_is_that_of_brute_force() -> None:
    m = mixture_of(**TINY)
    x = m.sample(np.random.default_rng(0), np.array([0, 1, 1]), 4)
    got, post = m.predict(x)
    states = range(len(m.word))
    for row, p, w in zip(x, got[:, -1], post, strict=True):
        joint = np.zeros((2, m.words))
        for k in range(2):
            for path in itertools.product(states, repeat=5):
                if all(m.word[z] == v for z, v in zip(path, row, strict=False)):
                    chance = m.start[k, path[0]] * np.prod([m.turn[k, a, b] for a, b in itertools.pairwise(path)])
                    joint[k, m.word[path[4]]] += chance
        assert p == pytest.approx(joint.sum(0) / joint.sum(), abs=1e-9)
        assert w == pytest.approx(joint.sum(1) / joint.sum(), abs=1e-9)


def test_samples_follow_it_and_prompts_have_no_delimiter_inside() -> None:
    m = mixture_of(**TINY | {"models": 1})
    x = m.sample(np.random.default_rng(1), np.zeros(40000, int), 2)
    want, _ = m.predict(x[:, :1])
    for first in np.unique(x[:, 0]):
        rows = x[x[:, 0] == first, 1]
        got = np.bincount(rows, minlength=m.words) / len(rows)
        assert got == pytest.approx(want[x[:, 0] == first][0, 0], abs=4 / len(rows) ** 0.5)
    big = mixture_of(models=3, values=4, slots=4, words=9, stay=0.9, seed=0)
    p = big.prompts(np.random.default_rng(0), np.array([0, 1, 2] * 10), 2)
    assert p.shape == (30, 11)
    assert (p[:, [3, 7]] == 0).all()
    assert (np.delete(p, [3, 7], 1) > 0).all()


def test_the_floor_is_below_a_network_and_bad_knobs_are_refused() -> None:
    world = hidden_markov_mixture(context=16, probe_size=8, d_model=8, layers=1)
    with torch.no_grad():
        assert float(world.loss(world.build(0), world.probe(0))) > world.floor > 0
    with pytest.raises(BadOption, match="slots >= 2"):
        hidden_markov_mixture(slots=1)
