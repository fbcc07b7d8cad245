import copy
from typing import Any

import pytest
import torch
from torch import nn

from strobe.core.errors import BadOption
from strobe.edits.mup import widening


def mlp(n: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, n), nn.ReLU(), nn.Linear(n, n), nn.ReLU(), nn.Linear(n, 3))


class Block(nn.Module):
    """A transformer's parts: what an embedding, attention, a norm and a convolution widen in."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, n)
        self.attention = nn.MultiheadAttention(n, 4)
        self.norm = nn.LayerNorm(n)
        self.conv = nn.Conv1d(n, 2 * n, 3)
        self.up = nn.ConvTranspose1d(2 * n, n, 3)
        self.head = nn.Linear(n, 50)


def test_the_table_of_tensor_programs_v() -> None:
    """arXiv:2203.03466, table 3: variances 1/fan_in and 1/fan_in², rates 1 and 1/fan_in (Adam), fan_out, 1, 1/fan_in (SGD)."""
    adam = {r.name: r for r in widening(mlp(128), mlp(32)).rows}
    sgd = {r.name: r for r in widening(mlp(128), mlp(32), optimizer="sgd").rows}
    assert [adam[k].lr for k in ("0.weight", "0.bias", "2.weight", "4.weight", "4.bias")] == [1, 1, 1 / 4, 1 / 4, 1]
    assert [sgd[k].lr for k in ("0.weight", "0.bias", "2.weight", "4.weight", "4.bias")] == [4, 4, 1, 1 / 4, 1]
    model = widening(mlp(128), mlp(32)).apply(mlp(128))
    wide, narrow = dict(model.named_parameters()), dict(mlp(32).named_parameters())
    for name, factor in (("0.weight", 1.0), ("2.weight", 4**-0.5), ("4.weight", 1 / 4)):
        assert float((wide[name].std() / narrow[name].std()).detach()) == pytest.approx(factor, rel=1e-5)


def test_the_base_model_is_left_as_it_is() -> None:
    model, table = mlp(32), widening(mlp(32), mlp(32))
    before = copy.deepcopy(model.state_dict())
    table.apply(model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [len(g["params"]) for g in table.groups(model, lr=0.1)] == [6]


def test_every_kind_of_module_has_its_role() -> None:
    roles = {r.name: r.role for r in widening(Block(64), Block(16)).rows}
    assert roles["embed.weight"] == "input"
    assert roles["attention.in_proj_weight"] == roles["attention.out_proj.weight"] == "hidden"
    assert roles["norm.weight"] == "vector"
    assert roles["conv.weight"] == roles["up.weight"] == "hidden"
    assert (roles["head.weight"], roles["head.bias"]) == ("output", "fixed")


def test_groups_keep_lr_times_decay_and_hold_every_parameter_once() -> None:
    model, table = Block(64), widening(Block(64), Block(16))
    groups = table.groups(model, lr=0.02, weight_decay=0.1)
    assert all(g["lr"] * g["weight_decay"] == pytest.approx(0.002) for g in groups)
    assert {id(p) for g in groups for p in g["params"]} == {id(p) for p in model.parameters()}
    torch.optim.AdamW(groups)


def test_a_rescaled_readout_trains_as_a_multiplier_in_the_forward_pass_would() -> None:
    """Adam on W/m at rate lr/m with output W x is Adam on V = W at rate lr with output V x / m (epsilon aside)."""
    x, y = torch.randn(64, 8, dtype=torch.float64), torch.randn(64, 1, dtype=torch.float64)
    wide, narrow = (nn.Linear(n, 1, bias=False, dtype=torch.float64) for n in (8, 2))
    table = widening(wide, narrow)
    folded = table.apply(copy.deepcopy(wide))
    free = nn.Parameter(folded.weight.detach() * 4)
    a = torch.optim.Adam(table.groups(folded, lr=0.1), eps=1e-30)
    b = torch.optim.Adam([free], lr=0.1, eps=1e-30)
    for _ in range(20):
        for out, opt in ((folded(x), a), (x @ free.T / 4, b)):
            opt.zero_grad()
            (out - y).square().mean().backward()
            opt.step()
    assert torch.allclose(folded.weight, free / 4, rtol=1e-9)


def test_depth_goes_into_the_last_matrix_of_a_branch() -> None:
    """arXiv:2505.01618: branches / depth; with the exponent ½ hidden and vector rates / √depth as well."""
    rows = {r.name: r for r in widening(mlp(32), mlp(32), branches=["2.weight"], depth=4.0).rows}
    assert (rows["2.weight"].scale, rows["2.weight"].lr, rows["0.weight"].lr) == (0.25, 0.25, 1.0)
    assert (rows["2.bias"].scale, rows["2.bias"].lr) == (0.25, 0.25)
    half = {r.name: r for r in widening(mlp(64), mlp(32), branches=["2.weight"], depth=4.0, depth_exponent=0.5).rows}
    assert half["2.weight"].lr == pytest.approx(1 / 2 * 1 / 2 * 1 / 2)
    assert half["0.bias"].lr == 1.0  # no part of a repeated block
    with pytest.raises(BadOption, match="at equal width"):
        widening(mlp(32), mlp(32), branches=["2.weight"], depth=4.0, depth_exponent=0.5)


def test_a_model_is_rescaled_once() -> None:
    model, table = mlp(64), widening(mlp(64), mlp(16))
    table.apply(model)
    with pytest.raises(BadOption, match="rescaled before"):
        table.apply(model)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"optimizer": "adma"}, "did you mean adam"),
        ({"roles": {"5.weight": "input"}}, "no parameter is called '5.weight'"),
        ({"roles": {"0.weight": "inptu"}}, "did you mean input"),
        ({"depth": 0.0}, "depth > 0"),
        ({"depth": 2.0, "optimizer": "sgd"}, "for adam only"),
        ({"depth": 2.0}, "needs branches"),
    ],
)
def test_bad_options_are_one_clear_line(options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadOption, match=said):
        widening(mlp(64), mlp(32), **options)


def test_what_can_not_be_told_is_asked_for() -> None:
    class Raw(nn.Module):
        def __init__(self, n: int) -> None:
            super().__init__()
            self.positions = nn.Parameter(torch.randn(12, n))

    with pytest.raises(BadOption, match="roles=.'positions': 'input'"):
        widening(Raw(64), Raw(16))
    assert widening(Raw(64), Raw(16), roles={"positions": "input"}).rows[0].role == "input"
    tied = nn.ModuleDict({"embed": nn.Embedding(9, 4), "head": nn.Linear(4, 9, bias=False)})
    tied["head"].weight = tied["embed"].weight
    with pytest.raises(BadOption, match="head.weight is tied to embed.weight"):
        widening(tied, tied)
    with pytest.raises(BadOption, match="differ by the parameter"):
        widening(mlp(32), nn.Linear(2, 2))
