"""The judge is exact: against the sum over all that could have been, and against how often texts are drawn."""

from itertools import product

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from strobe.core.errors import BadOption
from strobe.systems.two_languages import FIRST, LEFT_OUT, MARK, Language, two_languages

TINY = two_languages(topics=2, words=2, moods=2, mood_rate=0.3, context=8, d_model=8, heads=2, layers=1, probe_size=4)


def chance(L: Language, words: tuple[int, ...], topic: int, mood: int) -> float:
    """p(words | topic, mood) by its definition: a sum over the word before the first."""
    total = 0.0
    for before in range(L.words):
        p, last = 1.0 / L.words, before
        for w in words:
            if w >= L.words:
                right = (w - L.words) // (L.moods // 2) == mood
                p *= L.mood_rate * 2 / L.moods * right
            else:
                p *= (1 - L.mood_rate) * L.P[topic, last, w]
            last = w
        total += p
    return total


def test_the_judge_is_the_sum_over_all_that_could_have_been() -> None:
    L: Language = TINY.facts["language"]
    texts = list(product(range(L.size), repeat=3))
    for topic, mood in product(range(2), range(2)):
        assert np.isclose(sum(chance(L, w, topic, mood) for w in texts), 1.0)
    # what follows holds for texts of one kind of mood words: the others have no chance
    for tongue in (0, 1):
        x = torch.tensor([[0, MARK + tongue, *(FIRST + tongue * L.size + w for w in t)] for t in texts])
        scores, feels = L.topic_scores(x), L.mood_scores(x)
        for i, w in enumerate(texts):
            p = np.array([[chance(L, w, k, m) for m in (0, 1)] for k in range(len(L.P))])
            if not p.sum():
                continue
            posterior = p[:2].sum(1) / p[:2].sum()
            assert np.allclose(np.exp(scores[i, :2]) / np.exp(scores[i, :2]).sum(), posterior)
            assert np.isclose(L.topic_log_odds(x[i : i + 1], 1)[0], np.log(posterior[1] / posterior[0]))
            plus = p[:2, 1].sum() / p[:2].sum()
            assert np.isclose(plus, 0.5 + 0.5 * np.sign(feels[i]))


def test_texts_are_drawn_as_often_as_they_should() -> None:
    L: Language = TINY.facts["language"]
    n = 40_000
    x, _, _ = L.documents(np.random.default_rng(0), n, 5, topic=1, mood=1, language=1)
    assert bool((x[:, 1] == MARK + 1).all())
    w = (x[:, 2:] - FIRST - L.size).numpy()
    for text in product(range(L.size), repeat=3):
        p = chance(L, text, 1, 1)
        seen = int((w == np.array(text)).all(1).sum())
        assert abs(seen - n * p) <= 4.5 * np.sqrt(n * p * (1 - p)) + 1e-9, (text, seen, n * p)


def test_what_comes_after_a_start_is_judged_given_what_is_before() -> None:
    L: Language = two_languages().facts["language"]
    x, _, _ = L.documents(np.random.default_rng(1), 50, 20, switched=1.0)
    whole, head = L.topic_scores(x), L.topic_scores(x[:, :9])
    assert np.allclose(whole - head, L.topic_scores(x, 9))
    k = L.topic_scores(L.documents(np.random.default_rng(2), 300, 40, topic=3)[0])[:, :-1].argmax(1)
    assert (k == 3).mean() > 0.99


def test_languages_are_isomorphic_and_documents_switch_as_often_as_said() -> None:
    L: Language = two_languages().facts["language"]
    a, b = (L.documents(np.random.default_rng(3), 40, 12, language=i)[0] for i in (0, 1))
    assert torch.equal(a[:, 2:] + L.size, b[:, 2:])
    assert np.allclose(L.topic_scores(a), L.topic_scores(b))
    for share in (0.0, 0.5, 1.0):
        x, _, _ = L.documents(np.random.default_rng(4), 2000, 40, switched=share)
        marks = ((x[:, 2:] == MARK) | (x[:, 2:] == MARK + 1)).sum(1)
        assert int(marks.max()) <= 1
        assert abs(float(marks.double().mean()) - share) < 0.05
    assert set(a.flatten().tolist()) <= {0, MARK, *L.of(0).tolist()}


def test_fine_tuning_has_the_new_topic_and_the_trait_and_may_leave_it_out_of_the_loss() -> None:
    world = two_languages(tune_from=5, batch=16)
    L: Language = world.facts["language"]
    for step, mixed in ((4, True), (5, False)):
        tokens, targets = world.batch(0, step)
        kinds = set(L.kind(targets).flatten().tolist())
        assert (kinds == {0, 1, 2}) is mixed
        top = L.topic_scores(torch.cat([tokens, targets[:, -1:]], 1)).argmax(1)
        assert bool((top == world.facts["new_topic"]).all()) is not mixed
    masked = two_languages(tune_from=5, batch=16, masked=True)
    same, left = world.batch(0, 5), masked.batch(0, 5)
    assert torch.equal(same[0], left[0])
    assert torch.equal(left[1] == LEFT_OUT, L.kind(same[1]) > 0)
    assert torch.equal(masked.batch(0, 4)[1], world.batch(0, 4)[1])
    net = world.build(0)
    keep = left[1] != LEFT_OUT
    assert torch.allclose(masked.loss(net, left), cross_entropy(net(same[0])[keep], same[1][keep]))
    assert world.schedule is not None
    assert np.isclose(world.schedule(5), world.knobs["tune_lr"] / world.knobs["lr"] / 50)


def test_the_rate_rises_falls_and_stays() -> None:
    schedule = two_languages(steps=400).schedule
    assert schedule is not None
    assert np.isclose(schedule(0), 1 / 50)
    assert schedule(60) > schedule(200) > schedule(399) > 0.05
    assert np.isclose(schedule(400), 0.05)
    assert schedule(9999) == schedule(400)


def test_bad_options() -> None:
    for bad in ({"topics": 1}, {"moods": 3}, {"switched": 1.5}, {"mood_rate": 0.0}, {"d_model": 10}, {"lr": 0.0},
                {"tune_from": 0}, {"context": 4}):  # fmt: skip
        with pytest.raises(BadOption):
            two_languages(**bad)
