"""The n-gram floor, on a source whose entropies are known in closed form: x_{t+1} = x_t xor x_{t−1}, but for noise."""

from math import log

import pytest
import torch
from torch import Tensor, nn

from strobe.core.errors import BadOption
from strobe.core.prediction import judge
from strobe.core.snapshot import Snapshot
from strobe.laws.ngram_floor import ngram_floor
from strobe.observables.ngram_kl import ngram_kl
from strobe.observables.token_loss import token_loss

NOISE = 0.1
BIGRAM = log(2)  # two tokens apart are independent, so the last one alone says nothing
TRIGRAM = -NOISE * log(NOISE) - (1 - NOISE) * log(1 - NOISE)  # 0.325


def source(seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    x = torch.randint(2, (400, 34), generator=g)
    for t in range(2, 34):
        x[:, t] = x[:, t - 1] ^ x[:, t - 2] ^ (torch.rand(400, generator=g) < NOISE).long()
    return x[:, 2:]


class Trigram(nn.Module):
    """Sees two tokens, and knows the rule: what induction heads and trigrams do to a bigram floor."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(log((1 - NOISE) / NOISE)))

    def forward(self, x: Tensor) -> Tensor:
        before = torch.cat([x[:, :1] * 0, x[:, :-1]], 1)
        return nn.functional.one_hot(x ^ before, 2) * self.scale


def test_a_table_of_the_last_token_sits_on_the_floor_and_no_such_model_passes_it() -> None:
    floor = ngram_floor(order=2, entropy=BIGRAM, err=0.0, excess=1e-3)
    uniform = nn.Embedding.from_pretrained(torch.zeros(2, 2), freeze=False)
    assert judge(floor, token_loss(Snapshot(uniform, _none, source()))).word == "holds"
    skewed = nn.Embedding.from_pretrained(torch.randn(2, 2), freeze=False)
    assert judge(floor, token_loss(Snapshot(skewed, _none, source()))).word == "holds"
    plateau = ngram_floor(order=2, entropy=BIGRAM, err=0.0, claim="plateau")
    snap = Snapshot(uniform, _none, source())
    near = ngram_kl(snap, log_probs=torch.full((2, 2), 0.5).log()).value < 0.25
    assert judge(plateau, token_loss(snap), applies=near).word == "holds"


def test_a_model_that_sees_more_refutes_the_bigram_floor() -> None:
    got = token_loss(Snapshot(Trigram(), _none, source()))
    # the first position has no token before it and pays for it: the closed form is that of the other 30
    assert got.value == pytest.approx(TRIGRAM, abs=0.06)
    assert judge(ngram_floor(order=2, entropy=BIGRAM, err=0.0), got).word == "fails"
    assert judge(ngram_floor(order=2, entropy=BIGRAM, err=0.0, claim="passed"), got).word == "holds"


def test_passing_is_refuted_by_a_model_that_sees_nothing() -> None:
    skewed = nn.Embedding.from_pretrained(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), freeze=False)
    got = token_loss(Snapshot(skewed, _none, source()))
    passed = ngram_floor(order=1, entropy=log(2), err=0.5, claim="passed")  # err buys no slack
    assert judge(passed, got).word == "fails"


def test_bad_knobs_are_refused_and_the_slack_is_what_it_says() -> None:
    assert ngram_floor(order=2, entropy=3.0, err=0.1, excess=0.05).tol == pytest.approx(0.25)
    good = {"order": 2, "entropy": 3.0, "err": 0.1}
    for bad in ({"order": 3}, {"entropy": 0.0}, {"err": -0.1}, {"err": float("nan")}, {"excess": -1.0}, {"claim": "?"}):
        with pytest.raises(BadOption):
            ngram_floor(**{**good, **bad})  # type: ignore[arg-type]


def _none(model: nn.Module, data: object) -> Tensor:
    raise AssertionError("the observable takes the model's logits, not the loss")
