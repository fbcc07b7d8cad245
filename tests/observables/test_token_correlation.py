import pytest
import torch
from torch import nn

from strobe.core.errors import BadOption
from strobe.core.snapshot import Snapshot
from strobe.observables.token_correlation import token_correlation
from strobe.studies.copied_chain import VOCAB, Chain, Scorer, lag_weights


def seen(data: object, **options: object) -> object:
    return token_correlation(Snapshot(nn.Identity(), lambda m, d: d, data), **options)  # type: ignore[arg-type]


def test_a_stream_windows_and_a_mapping_are_read_alike() -> None:
    x = torch.arange(4000) % 2
    for data in (x, x.view(80, 50), {"input_ids": x.view(80, 50)}):
        assert seen(data, distances=[1, 2]).value == pytest.approx([0.5, 0.5], abs=0.01)  # type: ignore[attr-defined]


def test_the_chain_has_the_power_law_it_was_built_with() -> None:
    """C_n = 0.2 n^−1.25 (I/V − 11ᵀ/V²): its operator norm is 0.2 n^−1.25 / V."""
    read = seen(torch.from_numpy(Chain(1.25).draw(1_000_000, (0,))), distances=[1, 2, 4, 8], norm="frobenius")
    said = torch.tensor([1.0, 2, 4, 8]) ** -1.25 * 0.2 * (VOCAB - 1) ** 0.5 / VOCAB
    assert (abs(torch.tensor(read.value) - said) < 3 * torch.tensor(read.err)).all()  # type: ignore[attr-defined]


def test_the_chains_own_weights_are_the_best_and_are_learned() -> None:
    chain = Chain(1.25)
    scorer = Scorer(chain, (1,))
    fitted = lag_weights(chain.draw(400_000, (2,)), [16])[0]
    assert abs(fitted - chain.weights[:16]).max() < 0.02
    assert 0 < scorer.excess(fitted) < scorer.excess(fitted[:2]) < scorer.excess(0 * fitted)


def test_what_are_not_ids_is_refused() -> None:
    for bad in (torch.rand(50), [1, 2, 3], {"tokens": torch.arange(9)}):
        with pytest.raises(BadOption, match="LongTensor"):
            seen(bad)
    with pytest.raises(BadOption, match="distances"):
        seen(torch.arange(40) % 2, distances=[20])
