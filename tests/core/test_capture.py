"""Activations by site: what `tap` sees, whatever the batch, the padding or its side; kept on disk and not made twice."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from strobe.core.capture import Activations, blocks_of, capture
from strobe.core.errors import BadOption, Diverged, SiteNotFound
from strobe.core.tap import tap


class Attends(nn.Module):
    """Causal attention with a mask; a hook on the counter says how often it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.tok = nn.Embedding(11, 8)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True) for _ in range(2)
        )
        self.runs = 0

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        self.runs += 1
        h = self.tok(input_ids)
        n = input_ids.shape[1]
        shut = torch.ones(n, n, dtype=torch.bool).triu(1)
        if attention_mask is not None:
            shut = shut | (attention_mask == 0)[:, None].repeat_interleave(2, 0)
            shut = shut & ~torch.eye(n, dtype=torch.bool)
        for b in self.blocks:
            h = b(h, src_mask=shut)
        return h


TEXTS = [[1, 2, 3], [4, 5], [6, 7, 8, 9, 10], [3], [2, 2, 9]]


@pytest.fixture
def net() -> Attends:
    torch.manual_seed(0)
    return Attends().train()


def padded(left: bool) -> dict[str, Tensor]:
    size = max(map(len, TEXTS))
    ids, mask = torch.zeros(len(TEXTS), size, dtype=torch.long), torch.zeros(len(TEXTS), size, dtype=torch.long)
    for i, t in enumerate(TEXTS):
        at = slice(size - len(t), size) if left else slice(len(t))
        ids[i, at], mask[i, at] = torch.tensor(t), 1
    return {"input_ids": ids, "attention_mask": mask}


@pytest.mark.parametrize("positions", ["last", "mean", "all", 0, -1])
def test_batches_lengths_and_padding_on_either_side_are_one(net: Attends, positions: Any) -> None:
    got = capture(net, TEXTS, positions=positions)
    assert got.sites == ("blocks.0", "blocks.1")
    assert net.training
    assert net.blocks[0].training
    alone = [capture(net, [t], positions=positions) for t in TEXTS]
    for site in got.sites:
        one = torch.cat([a[site] for a in alone])
        assert torch.allclose(got[site], one, atol=1e-6)
        for left in (False, True):
            assert torch.allclose(capture(net, padded(left), positions=positions)[site], one, atol=1e-5)


def test_rows_are_those_that_tap_sees(net: Attends) -> None:
    got = capture(net, TEXTS, ["blocks.1.linear1"], positions="all")
    assert got.example.tolist() == [i for i, t in enumerate(TEXTS) for _ in t]
    assert got.position.tolist() == [j for t in TEXTS for j in range(len(t))]
    net.eval()
    with tap(net, ["blocks.1.linear1"]) as seen, torch.no_grad():
        net(torch.tensor([TEXTS[2]]))
    assert torch.allclose(got["blocks.1.linear1"][got.example == 2], seen["blocks.1.linear1"][0], atol=1e-6)


def test_it_is_taken_once(net: Attends, tmp_path: Path) -> None:
    first = capture(net, TEXTS, into=tmp_path / "acts")
    runs = net.runs
    again = capture(net, TEXTS, into=tmp_path / "acts")
    assert net.runs == runs
    assert all(torch.equal(first[s], again[s]) for s in first.sites)
    with torch.no_grad():
        net.tok.weight[1] += 1
    changed = capture(net, TEXTS, into=tmp_path / "acts")
    assert net.runs > runs
    assert not torch.equal(changed["blocks.1"], again["blocks.1"])
    assert [p.name for p in tmp_path.iterdir()] == ["acts"]
    assert torch.equal(Activations.open(tmp_path / "acts")["blocks.0"], changed["blocks.0"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(BadOption, match="something else"):
        capture(net, TEXTS, into=tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "all of it"


def test_images_and_plain_rows() -> None:
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 16, 5))
    x = torch.randn(7, 1, 6, 6)
    got = capture(net, x, ["0"])
    assert torch.allclose(got["0"], net[0](x).mean((2, 3)), atol=1e-6)
    assert torch.allclose(capture(net, x)["3"], net(x), atol=1e-6)
    assert blocks_of(net) == ["0", "1", "2", "3"]
    with pytest.raises(BadOption, match="capture them apart"):
        capture(net, x, ["0", "3"], positions="all")


def test_bad_input_is_said_clearly(net: Attends, tmp_path: Path) -> None:
    with pytest.raises(SiteNotFound, match=r"blocks\.7"):
        capture(net, TEXTS, ["blocks.7"])
    with pytest.raises(BadOption, match="input 1 has no tokens"):
        capture(net, [[1], []])
    with pytest.raises(BadOption, match="position 2: input 1 has 2 tokens"):
        capture(net, TEXTS, positions=2)
    with pytest.raises(BadOption, match="positions is"):
        capture(net, TEXTS, positions="first")
    with pytest.raises(SiteNotFound, match="no list of blocks"):
        capture(nn.Linear(2, 2), torch.ones(3, 2))
    with pytest.raises(BadOption, match="holds no captured activations"):
        Activations.open(tmp_path)
    with pytest.raises(SiteNotFound, match="nothing was captured at"):
        capture(net, TEXTS)["head"]
    with torch.no_grad():
        net.tok.weight[9] = float("nan")
    with pytest.raises(Diverged, match=r"blocks\.0 are not finite for input 4"):
        capture(net, TEXTS)
