"""Head scores: heads built to look back or to do induction score one; uniform heads score the closed form."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from strobe.core.errors import BadOption
from strobe.core.snapshot import Snapshot
from strobe.observables.head_scores import induction_score, prefix_matching_score, previous_token_score

DATA = torch.randint(40, (6, 33), generator=torch.Generator().manual_seed(0))


class Built(nn.Module):
    """Three heads: previous token, induction (what followed the last time, else the first token), uniform."""

    def __init__(self, *, tuples: bool = False) -> None:
        super().__init__()
        self.pattern = nn.Identity() if not tuples else nn.Module()
        self.unused = nn.Parameter(torch.zeros(1))
        self.attend = Attend() if tuples else None

    def forward(self, x: Tensor) -> Tensor:
        made = heads(x)
        if self.attend is None:
            self.pattern(made)
        else:
            self.attend(made)
        return nn.functional.one_hot(x, 40).float()


class Attend(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x.mean((1, 2)), x


def heads(x: Tensor) -> Tensor:
    n, t = x.shape
    out = torch.zeros(n, 3, t, t)
    out[:, 0, 0, 0] = 1
    out[:, 0, torch.arange(1, t), torch.arange(t - 1)] = 1
    for b in range(n):
        for i in range(t):
            before = [j for j in range(i) if x[b, j] == x[b, i]]
            out[b, 1, i, before[-1] + 1 if before else 0] = 1
    out[:, 2] = torch.ones(t, t).tril() / torch.arange(1, t + 1)[:, None]
    return out


def test_heads_built_by_hand_have_the_scores_they_were_built_for() -> None:
    snap = Snapshot(Built(), None, DATA)  # type: ignore[arg-type]
    i = np.arange(32)
    prev = previous_token_score(snap)
    assert prev.value.shape == (1, 3)
    assert prev.value[0, [0, 2]] == pytest.approx([1, np.mean(1 / (i[1:] + 1))], rel=1e-5)
    induction = induction_score(snap)
    assert induction.how["length"] == 16
    assert induction.value[0] == pytest.approx([0, 1, np.mean(1 / (i[16:] + 1))], abs=1e-5)
    matching = prefix_matching_score(snap)
    assert matching.how["length"] == 8
    # a uniform query i of the k-th saying sees its token followed k times before: k / (i + 1)
    assert matching.value[0] == pytest.approx([0, 1, np.mean((i[8:] // 8) / (i[8:] + 1))], abs=1e-5)
    assert induction.err.max() < 1e-6  # drawn without repetition: every sequence says the same


def test_tuples_of_hugging_face_are_found_and_named() -> None:
    model = Built(tuples=True)
    del model.pattern
    model.pattern = lambda x: x  # type: ignore[assignment]
    got = induction_score(Snapshot(model, None, DATA))  # type: ignore[arg-type]
    assert got.how["sites"] == ["attend:out.1"]
    assert got.value[0, 1] == pytest.approx(1)
    by_name = induction_score(Snapshot(model, None, DATA), sites=["attend:out.1"])  # type: ignore[arg-type]
    assert np.array_equal(by_name.value, got.value)


def test_an_untrained_network_scores_chance_and_its_error_is_honest() -> None:
    from strobe.systems.attention_language import AttentionOnly

    torch.manual_seed(0)
    net = AttentionOnly(vocab=40, context=32, d_model=16, heads=2, layers=2, positions="rotary")
    snap = Snapshot(net, None, DATA)  # type: ignore[arg-type]
    got = [induction_score(snap, seed=s) for s in range(8)]
    assert all((r.value < 0.15).all() for r in got)
    spread, said = np.std([r.value for r in got], axis=0, ddof=1), np.mean([r.err for r in got], axis=0)
    assert (spread < 2 * said).all()


def test_models_without_patterns_and_wrong_options_are_refused() -> None:
    snap = Snapshot(Built(), None, DATA)  # type: ignore[arg-type]
    with pytest.raises(BadOption, match="eager"):
        previous_token_score(Snapshot(nn.Embedding(40, 40), None, DATA))  # type: ignore[arg-type]
    with pytest.raises(BadOption, match="not attention patterns"):
        previous_token_score(Snapshot(nn.Sequential(nn.Embedding(40, 40)), None, DATA), sites=["0"])  # type: ignore[arg-type]
    with pytest.raises(BadOption, match="context of at least"):
        induction_score(snap, length=17)
    with pytest.raises(BadOption, match="two sequences"):
        induction_score(snap, sequences=1)
