"""N-gram divergence: zero for the table itself, the closed form for another, and refusals."""

import pytest
import torch
from torch import nn

from strobe.core.errors import BadOption
from strobe.core.snapshot import Snapshot
from strobe.observables.ngram_kl import ngram_kl

DATA = torch.randint(5, (16, 9), generator=torch.Generator().manual_seed(0))


def test_a_model_that_is_the_table_is_at_zero_and_another_at_the_closed_form() -> None:
    torch.manual_seed(0)
    table = torch.randn(5, 5).log_softmax(-1)
    net = nn.Embedding.from_pretrained(table.clone(), freeze=False)
    assert ngram_kl(_snap(net), log_probs=table).value == pytest.approx(0, abs=1e-6)
    uniform = nn.Embedding.from_pretrained(torch.zeros(5, 5), freeze=False)
    one = torch.tensor([0.5, 0.5, 0.0, 0.0, 0.0]).log()  # zero probabilities cost nothing
    assert ngram_kl(_snap(uniform), log_probs=one).value == pytest.approx(torch.tensor(2.5).log().item(), rel=1e-6)


def test_the_direction_is_from_the_table_to_the_model() -> None:
    sure = nn.Embedding.from_pretrained(torch.tensor([[9.0, 0, 0, 0, 0]]).repeat(5, 1), freeze=False)
    uniform = torch.full((5,), 0.2).log()
    there = ngram_kl(_snap(sure), log_probs=uniform).value
    back = ngram_kl(
        _snap(nn.Embedding.from_pretrained(torch.zeros(5, 5), freeze=False)),
        log_probs=sure.weight.detach().log_softmax(-1),
    ).value
    assert there > 3 * back > 0


def test_wrong_tables_are_refused() -> None:
    net = nn.Embedding(5, 5)
    for table in (torch.zeros(4), torch.zeros(5), torch.full((5, 5, 5), 0.2).log(), torch.full((5, 5), 0.2)):
        with pytest.raises(BadOption):
            ngram_kl(_snap(net), log_probs=table)


def _snap(net: nn.Module) -> Snapshot:
    return Snapshot(net, None, DATA)  # type: ignore[arg-type]
