"""A dose does what its formula says, zero leaves every bit, and what means nothing does nothing."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from strobe.core.capture import capture
from strobe.core.errors import BadOption, SiteNotFound
from strobe.core.tap import patch
from strobe.edits.steer import steer
from strobe.features.concept import Concept
from strobe.features.dose_response import dose_response, own_log_likelihood, shuffled, written
from strobe.systems.decoder import Decoder


def line(u: list[float], site: str = "0", norm: float = 2.0, gap: float = 0.5) -> Concept:
    v = torch.tensor(u)
    return Concept(site, (v / v.norm())[None], torch.zeros(len(u)), norm, gap)


def test_a_linear_network_answers_by_the_formula() -> None:
    net, x = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)).double(), torch.randn(20, 3).double()
    u = line([0.0, 1.0, 0.0, 0.0])
    slope = net[1].weight[0, 1].item()
    base = net(x)[:, 0].detach().numpy()
    for unit, length in (("norm", 2.0), ("gap", 0.5), (3.0, 3.0)):
        got = dose_response(net, x, {"one": [u], "twice": [u, u]}, [-1.0, 0.5], {"y": lambda out: out[:, 0]}, unit=unit)
        assert got.doses == (0.0, -1.0, 0.5)
        assert list(got.values["y"]) == ["one", "twice", "random 0", "random 1"]
        for arm, times in (("one", 1), ("twice", 2)):
            assert np.allclose(got.values["y"][arm][1], base - times * length * slope, atol=1e-6)
            assert np.allclose(got.values["y"][arm][2], base + 0.5 * times * length * slope, atol=1e-6)
        step = (got.values["y"]["random 0"][1] - base).std()
        assert step < 1e-6
        assert (
            abs(float(got.values["y"]["random 0"][1][0] - base[0]))
            <= length * float(net[1].weight.detach().norm()) + 1e-6
        )
    rows = {(r["arm"], r["dose"]): r["y"] for r in got.table()}
    assert math.isclose(rows["one", -1.0], float(base.mean()) - 3 * slope, abs_tol=1e-6)


def test_zero_is_the_model_as_it_is_and_the_batch_is_the_single_pass() -> None:
    torch.manual_seed(0)
    net = Decoder(11, 12, 8, 2, 2).train()
    prompts, u = torch.randint(11, (5, 4)), torch.rand(5, 6)
    arm = [line([1.0] * 8, "blocks.0"), line([1.0, -1.0] * 4, "blocks.1")]
    run = written(6)
    kept: list[Tensor] = []

    def measure(text: Tensor) -> Tensor:
        kept.append(text)
        return text[:, 4:].double().mean(1)

    bits = {k: v.clone() for k, v in net.state_dict().items()}
    got = dose_response(net, (prompts, u), {"a": arm}, [4.0], {"m": measure}, run=run, likelihood=own_log_likelihood(4))
    assert net.training
    assert all(torch.equal(v, bits[k]) for k, v in net.state_dict().items())
    with torch.no_grad():
        alone = run(net, (prompts, u))
        assert torch.equal(kept[0], alone)
        edits = {c.site: steer(direction=c.direction.tolist(), by=4.0 * 2.0 / 2) for c in arm}
        with patch(net, edits):
            steered = run(net, (prompts, u))
        assert torch.equal(kept[1][:5], steered)
        assert not torch.equal(steered, alone)
        logp = net(alone[:, :-1]).log_softmax(-1)
    want = [np.mean([float(logp[i, t - 1, alone[i, t]]) for t in range(4, 10)]) for i in range(5)]
    assert np.allclose(got.values["own log-likelihood"]["a"][0], want, atol=1e-5)


def test_words_and_tokens_from_on() -> None:
    torch.manual_seed(0)
    net = Decoder(11, 12, 8, 2, 2)
    text = written(5, torch.tensor([2, 7]), context=3)(net, (torch.randint(11, (6, 4)), torch.rand(6, 5)))
    assert set(text[:, 4:].flatten().tolist()) <= {2, 7}
    two = own_log_likelihood(4, torch.tensor([2, 7]))(net, text)
    assert bool((two > own_log_likelihood(4)(net, text)).all())
    x = torch.randint(11, (6, 5))
    got: list[Tensor] = []

    def seen(out: Tensor) -> Tensor:
        got.append(out)
        return out[:, -1, 0]

    dose_response(net, x, {"a": [line([1.0] + [0.0] * 7, "blocks.1")]}, [9.0], {"m": seen}, first=3, random=0)
    same = (got[1] - got[0]).abs().amax(-1) < 1e-5
    assert bool(same[:, :3].all())
    assert not bool(same[:, 3:].any())


def test_shuffled_labels_make_a_direction_that_separates_nothing() -> None:
    torch.manual_seed(0)
    x = torch.randn(400, 6)
    y = torch.arange(400) % 2
    x[:, 0] += 3.0 * y
    acts = capture(nn.Sequential(nn.Identity()), x, ["0"])
    (dealt,) = shuffled(acts, y)
    assert dealt.gap < 0.6
    assert float(dealt.direction.norm()) == pytest.approx(1.0, abs=1e-5)
    gap = float((dealt.encode(x)[y == 1] - dealt.encode(x)[y == 0]).mean())
    assert abs(gap) < 2.5


def test_bad_input_is_one_sentence() -> None:
    net, x, u = nn.Sequential(nn.Linear(3, 4)), torch.randn(6, 3), line([1.0, 0.0, 0.0, 0.0])
    y = {"y": lambda out: out[:, 0]}
    for doses in ([], [0.0], [1.0, 1.0], [float("nan")]):
        with pytest.raises(BadOption, match="doses are finite"):
            dose_response(net, x, {"a": [u]}, doses, y)
    with pytest.raises(BadOption, match="in units of"):
        dose_response(net, x, {"a": [u]}, [1.0], y, unit="sigma")
    with pytest.raises(BadOption, match="one number a row"):
        dose_response(net, x, {"a": [u]}, [1.0], {"y": lambda out: out})
    with pytest.raises(BadOption, match="at least one arm"):
        dose_response(net, x, {"a": []}, [1.0], y)
    with pytest.raises(BadOption, match="the site carries"):
        dose_response(net, x, {"a": [line([1.0, 0.0])]}, [1.0], y)
    with pytest.raises(SiteNotFound):
        dose_response(net, x, {"a": [line([1.0], "7")]}, [1.0], y)
