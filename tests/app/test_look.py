"""Looks against closed forms, on our systems and on models as users write them; none leaves a trace."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import cross_entropy

from contracts.traces import same, state_of
from strobe.app import look_trace
from strobe.app.look import VIEWS, Kit, kit_of, look
from strobe.app.look_dose import _random
from strobe.app.look_examples import PerExample
from strobe.app.look_parts import count, nums, rows
from strobe.core.errors import BadOption, NameNotFound, SiteNotFound, StateMismatch
from strobe.core.snapshot import Snapshot
from strobe.core.system import System
from strobe.core.tap import patch
from strobe.edits.ablate import ablate
from strobe.edits.scale_direction import scale_direction
from strobe.runs.loop import train
from strobe.runs.run import Opened, open_run

V, T, D, H = 20, 10, 8, 2
KIT = Kit(encode=lambda s: [ord(c) % V for c in s], decode=lambda i: chr(97 + i))


class Mixer(nn.Module):
    """Causal attention of one of four makes: as a module, as a softmax, fused, or torch's own."""

    def __init__(self, make: str) -> None:
        super().__init__()
        self.make, self.norm = make, nn.LayerNorm(D)
        self.q, self.k, self.v, self.o = (nn.Linear(D, D) for _ in range(4))
        self.pattern = nn.Identity()
        if make == "own":
            self.mha = nn.MultiheadAttention(D, H, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        b, t, _ = x.shape
        y, hidden = self.norm(x), torch.ones(t, t, dtype=torch.bool).triu(1)
        if self.make == "own":
            return x + self.mha(y, y, y, attn_mask=hidden, need_weights=False)[0]
        q, k, v = (f(y).view(b, t, H, -1).transpose(1, 2) for f in (self.q, self.k, self.v))
        if self.make == "fused":
            z = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = (q @ k.transpose(-1, -2) * (D // H) ** -0.5).masked_fill(hidden, -torch.inf)
            pattern = functional.softmax(scores, dim=-1)
            z = (self.pattern(pattern) if self.make == "module" else pattern) @ v
        return x + self.o(z.transpose(1, 2).reshape(b, t, D))


class Writer(nn.Module):
    """A language model as a user writes one: two mixers, a tied or free unembedding, a module that is never called."""

    def __init__(self, make: str = "softmax", tied: bool = False) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed, self.tied = nn.Embedding(V, D), tied
        self.layers = nn.ModuleList(Mixer(make) for _ in range(2))
        self.last, self.head, self.idle = nn.LayerNorm(D), nn.Linear(D, V), nn.Linear(2, 2)
        self.drop = nn.Dropout(0.5)

    def forward(self, tokens: Tensor) -> Any:
        x = self.drop(self.embed(tokens))
        for layer in self.layers:
            x = layer(x)
        x = self.last(x)
        return {"scores": x @ self.embed.weight.T if self.tied else self.head(x), "note": "not a tensor"}


def next_token(model: nn.Module, x: Tensor) -> Tensor:
    return cross_entropy(model(x[:, :-1])["scores"].flatten(0, 1), x[:, 1:].flatten())


def writes(make: str = "softmax", tied: bool = False) -> Snapshot:
    x = torch.randint(V, (6, T + 1), generator=torch.Generator().manual_seed(0))
    return Snapshot(Writer(make, tied), next_token, x, 7)


def fits(n: int = 12) -> Snapshot:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Dropout(0.3), nn.Linear(6, 1))
    x = torch.randn(n, 4)
    return Snapshot(net, lambda m, d: (m(d["x"]).squeeze(-1) - d["y"]).square().mean(), {"x": x, "y": x.sum(1)})


def sorts() -> Snapshot:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 16, 5))
    data = (torch.randn(9, 1, 6, 6), torch.randint(5, (9,)))
    return Snapshot(net, lambda m, d: cross_entropy(m(d[0]), d[1]), data)


# ------------------------------------------------------------------------------------------ closed forms


def test_the_loss_of_each_token_is_its_cross_entropy() -> None:
    snap = writes()
    got = look("tokens", snap, KIT, example=2, top=3)
    ids = snap.data[2]
    snap.model.eval()
    scores = snap.model(ids[None, :-1])["scores"][0]
    assert got["loss"] == [None, *nums(cross_entropy(scores, ids[1:], reduction="none"))]
    assert [t["id"] for t in got["tokens"]] == ids.tolist()
    p = scores.softmax(-1)
    assert got["next"][4][0] == {"text": chr(97 + int(p[4].argmax())), "p": nums(p[4].max())}
    assert [len(n) for n in got["next"]] == [3] * T + [0]
    assert got["mean"]["value"] == pytest.approx(snap.loss(snap.model, ids[None]).item(), rel=1e-4)
    assert got["same_as_loss"] is True


def test_targets_given_beside_the_tokens_are_found_and_another_loss_is_said_to_be_another() -> None:
    snap = writes()
    pair = (snap.data[:, :-1], snap.data[:, 1:])
    beside = Snapshot(snap.model, lambda m, d: cross_entropy(m(d[0])["scores"].flatten(0, 1), d[1].flatten()), pair)
    assert look("tokens", beside, KIT) == look("tokens", snap, KIT)
    twice = Snapshot(snap.model, lambda m, d: 2 * next_token(m, d), snap.data)
    assert look("tokens", twice, KIT)["same_as_loss"] is False


def test_a_text_goes_the_same_way_as_the_example_it_spells() -> None:
    snap = writes()
    kit = Kit(encode=lambda s: [int(w) for w in s.split()], decode=str)
    text = " ".join(map(str, snap.data[3, :T].tolist()))
    a, b = look("tokens", snap, kit, text=text), look("tokens", snap, kit, example=3)
    assert a["loss"] == b["loss"][:T]
    assert (a["truncated"], a["same_as_loss"]) == (False, None)
    assert look("tokens", snap, kit, text=f"{text} 1 2 3")["truncated"]
    assert look("tokens", snap, kit, text="4")["loss"] == [None]
    assert look("attention", snap, kit, text="4")["layers"][0]["heads"] == [[[1.0]], [[1.0]]]


class Shift(nn.Module):
    """Head 0 looks at the token before, head 1 at all tokens alike: patterns known without any computation."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.pattern, self.out = nn.Embedding(V, D), nn.Identity(), nn.Linear(2 * D, V)

    def forward(self, tokens: Tensor) -> Tensor:
        t = tokens.shape[1]
        before = torch.diag(torch.ones(t - 1), -1) + torch.diag(torch.eye(t)[0])
        pattern = self.pattern(torch.stack([before, torch.full((t, t), 1 / t)]).expand(len(tokens), 2, t, t))
        z = pattern @ self.embed(tokens)[:, None]
        return self.out(z.transpose(1, 2).flatten(2))


def test_a_hand_made_pattern_is_shown_as_it_is() -> None:
    loss: Callable[..., Tensor] = lambda m, x: cross_entropy(m(x).flatten(0, 1), x.flatten())  # noqa: E731
    got = look("attention", Snapshot(Shift(), loss, torch.randint(V, (3, 5))), KIT)
    assert [(a["site"], a["how"]) for a in got["layers"]] == [("pattern", "output")]
    assert got["layers"][0]["heads"][0] == [[float(j == max(i - 1, 0)) for j in range(5)] for i in range(5)]
    assert got["layers"][0]["heads"][1] == [[0.2] * 5] * 5
    assert len(got["tokens"]) == 5


@pytest.mark.parametrize("make", ["module", "fused", "own"])
def test_every_make_of_attention_shows_the_written_out_pattern(make: str) -> None:
    plain, other = writes("softmax"), writes(make)
    if make == "own":
        for a, b in zip(plain.model.layers, other.model.layers, strict=True):
            with torch.no_grad():
                b.mha.in_proj_weight.copy_(torch.cat([a.q.weight, a.k.weight, a.v.weight]))
                b.mha.in_proj_bias.copy_(torch.cat([a.q.bias, a.k.bias, a.v.bias]))
                b.mha.out_proj.load_state_dict(a.o.state_dict())
    else:
        other.model.load_state_dict(plain.model.state_dict())
    one, two = look("attention", plain, KIT, example=1), look("attention", other, KIT, example=1)
    assert [a["how"] for a in one["layers"]] == ["softmax"] * 2
    wanted = {"module": "output", "fused": "scaled_dot_product_attention", "own": "multi_head_attention"}
    assert [a["how"] for a in two["layers"]] == [wanted[make]] * 2
    for a, b in zip(one["layers"], two["layers"], strict=True):
        assert np.allclose(a["heads"], b["heads"], atol=2e-4)
        assert np.array(a["heads"]).shape == (H, T, T)
        assert not np.triu(np.array(a["heads"]), 1).any()


def test_the_pattern_of_a_fused_kernel_is_what_it_mixes_with() -> None:
    g = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, n, 5, 6, generator=g) for n in (4, 2, 2))
    keep = torch.rand(5, 5, generator=g) > 0.3
    keep.fill_diagonal_(True)
    for options in (
        {"is_causal": True}, {"attn_mask": keep}, {"attn_mask": torch.randn(5, 5, generator=g)}, {"scale": 0.3},
    ):  # fmt: skip
        options = {**options, "enable_gqa": True}
        mixed = functional.scaled_dot_product_attention(q, k, v, **options)
        pattern = look_trace._pattern(q, k, v, **options)
        assert torch.allclose(pattern @ v.repeat_interleave(2, 1), mixed, atol=1e-5)


def test_torchs_own_attention_still_answers_as_it_was_asked() -> None:
    mha, x = nn.MultiheadAttention(D, H, batch_first=True).eval(), torch.randn(2, 5, D)
    for options in ({}, {"need_weights": False}, {"average_attn_weights": False}):
        out, weights = mha(x, x, x, **options)
        with look_trace.Trace(mha) as trace:
            again, same = mha(x, x, x, **options)
        assert torch.allclose(out, again, atol=1e-6)
        assert (weights is None) == (same is None)
        assert weights is None or torch.allclose(weights, same, atol=1e-6)
        assert trace.patterns[0].out.shape == (2, H, 5, 5)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("make", ["softmax", "own"])
def test_the_last_row_of_the_lens_is_the_models_own_output(make: str, tied: bool) -> None:
    snap = writes(make, tied)
    got, own = look("lens", snap, KIT, example=1, top=2), look("tokens", snap, KIT, example=1, top=2)
    assert [r["site"] for r in got["rows"]] == ["embed", "layers.0", "layers.1"]
    assert (got["norm"], got["unembed"], got["exact"]) == ("last", "embed.weight" if tied else "head", True)
    assert got["rows"][-1]["loss"] == own["loss"]
    assert got["rows"][-1]["top"] == own["next"][:T]
    ids = snap.data[1]
    first = snap.model.last(snap.model.embed(ids[None, :-1]))  # by hand: the embedding, read at once
    scores = first @ snap.model.embed.weight.T if tied else snap.model.head(first)
    assert got["rows"][0]["loss"][1:] == pytest.approx(nums(cross_entropy(scores[0], ids[1:], reduction="none")))


def test_a_post_norm_block_is_not_normalised_twice() -> None:
    class Post(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.TransformerEncoderLayer(D, H, 16, batch_first=True)
            self.embed, self.out = nn.Embedding(V, D), nn.Linear(D, V)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, x: Tensor) -> Tensor:
            mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
            return self.out(self.encoder(self.embed(x), mask=mask, is_causal=True))

    loss: Callable[..., Tensor] = lambda m, x: cross_entropy(m(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())  # noqa: E731
    snap = Snapshot(Post(), loss, torch.randint(V, (4, T + 1)))
    got = look("lens", snap, KIT)
    assert (got["norm"], [r["site"] for r in got["rows"]]) == (None, ["embed", "encoder.layers.0", "encoder.layers.1"])
    assert got["rows"][-1]["loss"] == look("tokens", snap, KIT)["loss"]
    heads = look("modules", snap, KIT)["heads"]
    assert heads[1]["site"] == "encoder.layers.1.self_attn.out_proj:param.weight/2[{}]"
    assert look("dose", snap, KIT, site=heads[1]["site"].format(1), doses=[0.0])["err"][0] > 0


def test_the_module_tree_has_shapes_statistics_and_gradients() -> None:
    snap = writes()
    got = look("modules", snap, KIT)
    by = {m["path"]: m for m in got["modules"]}
    assert list(by) == [p for p, _ in snap.model.named_modules()]
    assert by["layers.1"]["sites"] == [{"site": "layers.1", "shape": [6, T, D]}]
    assert by[""]["sites"] == [{"site": ":out.scores", "shape": [6, T, V]}]
    assert by["idle"]["sites"] == []
    assert by["idle"]["weights"][0]["grad_norm"] is None
    assert (by["embed"]["params"], by["layers.0.q"]["depth"], by["layers.0.q"]["kind"]) == (V * D, 3, "Linear")
    assert got["total"] == sum(p.numel() for p in snap.model.parameters())
    snap.model.eval()
    snap.loss(snap.model, snap.data).backward()
    head = by["head"]["weights"][0]
    assert head["grad_norm"] == pytest.approx(float(snap.model.head.weight.grad.norm()), rel=1e-4)
    w = snap.model.head.weight.detach()
    assert (head["mean"], head["std"], head["norm"]) == tuple(
        nums(f) for f in (w.mean(), w.std(correction=0), w.norm())
    )
    assert sum(head["hist"]["counts"]) == w.numel()
    assert len(head["hist"]["edges"]) == len(head["hist"]["counts"]) + 1
    each = torch.stack([snap.loss(snap.model, x[None]).detach() for x in snap.data])
    assert got["loss"]["value"] == pytest.approx(float(each.mean()), rel=1e-4)
    assert got["loss"]["err"] == pytest.approx(float(each.std() / 6**0.5), rel=1e-3)
    assert (got["language"], got["examples"]) == (True, 6)
    assert [h["site"] for h in got["heads"]] == ["layers.0.o:in/2[{}]", "layers.1.o:in/2[{}]"]


def test_a_summed_loss_has_the_error_of_a_sum() -> None:
    snap = fits()
    summed = Snapshot(snap.model, lambda m, d: (m(d["x"]).squeeze(-1) - d["y"]).square().sum(), snap.data)
    a, b = look("modules", snap)["loss"], look("modules", summed)["loss"]
    assert b["value"] == pytest.approx(12 * a["value"], rel=1e-3)
    assert b["err"] == pytest.approx(12 * a["err"], rel=1e-3)


# ------------------------------------------------------------------------------------------------- dose


def test_a_dose_of_one_changes_nothing_and_zero_is_the_ablation() -> None:
    snap = writes()
    site = "layers.1.o:in/2[1]"
    got = look("dose", snap, KIT, site=site, doses=[0.0, 0.5, 1.0, 1.5])
    with snap.quiet(), torch.no_grad():
        base = torch.stack([snap.loss(snap.model, x[None]) for x in snap.data]).double()
        with patch(snap.model, {site: ablate()}):
            gone = torch.stack([snap.loss(snap.model, x[None]) for x in snap.data]).double()
    assert got["loss"][2] == got["base"]["value"] == pytest.approx(float(base.mean()), rel=1e-4)
    assert (got["err"][2], got["control"]["loss"][2], got["control"]["err"][2]) == (0.0, got["base"]["value"], 0.0)
    assert got["loss"][0] == pytest.approx(float(gone.mean()), rel=1e-4)
    assert got["err"][0] == pytest.approx(float((gone - base).std() / 6**0.5), rel=1e-2)
    assert got["control"]["loss"][1] == got["control"]["loss"][3]  # as far from 1, in the same random directions
    turned = look("dose", snap, KIT, site=site, edit="ablate", doses=[0.0, 0.5, 1.0])
    assert turned["loss"] == pytest.approx([got["loss"][2], got["loss"][1], got["loss"][0]], rel=1e-4)
    assert [o["dose"] for o in got["outputs"]] == [0.0, 0.5, 1.0, 1.5]
    own = look("tokens", snap, KIT, top=5)["next"][T - 1]
    assert got["outputs"][2]["top"] == own
    assert got["outputs"][0]["top"] != own


def test_a_dead_head_has_no_dose_response() -> None:
    snap = writes()
    with torch.no_grad():
        snap.model.layers[0].o.weight[:, : D // H] = 0.0
    dead, live = (look("dose", snap, KIT, site=f"layers.0.o:in/2[{h}]", edit="ablate") for h in (0, 1))
    assert dead["loss"] == [dead["base"]["value"]] * 9
    assert dead["err"] == dead["control"]["err"] == [0.0] * 9
    assert live["loss"][4] != live["base"]["value"]


def test_the_control_moves_as_far_as_the_edit() -> None:
    x = torch.randn(1, 5, 7)
    fn: Callable[[Tensor], Tensor] = lambda x: x * 0.3  # noqa: E731
    a, b = (_random({(1, 5, 7)}, seed)(fn) for seed in (0, 1))
    assert torch.allclose((a(x) - x).norm(dim=-1), (fn(x) - x).norm(dim=-1), rtol=1e-4)
    assert torch.equal(a(x), a(x))
    assert not torch.allclose(a(x), b(x))
    alike = functional.cosine_similarity(a(x) - x, fn(x) - x, dim=-1)
    assert float(alike.abs().max()) < 0.999  # also where x was drawn with seed 0, as weights are


def test_doses_of_parameters_of_units_and_of_a_probe_in_one_piece() -> None:
    snap = fits()
    by_weight = look("dose", snap, Kit(), site="4:param.weight", doses=[0.0, 1.0])
    bias = float(snap.model[4].bias.detach())
    assert by_weight["loss"][0] == pytest.approx(float((bias - snap.data["y"]).square().mean()), rel=1e-4)
    assert by_weight["outputs"] is None
    assert look("dose", snap, Kit(), site="0[2]", doses=[0.0])["err"][0] > 0
    piece = Snapshot(
        nn.Linear(4, 1), lambda m, d: m(d[0]).square().mean() * d[1].sum(), (torch.ones(5, 4), torch.ones(3))
    )
    got = look("dose", piece, Kit(), site="", doses=[0.0, 1.0])
    assert (got["loss"][0], got["err"][0], got["base"]["err"]) == (0.0, None, None)


# ------------------------------------------------------------------------------------------------- directions


class Planted(nn.Module):
    """A network whose first site carries mean + a·u + b·w, with a of four times the variance of b: known components."""

    def __init__(self) -> None:
        super().__init__()
        self.site, self.out = nn.Identity(), nn.Linear(6, 1, bias=False)
        with torch.no_grad():
            self.out.weight.copy_(torch.arange(1.0, 7.0)[None])

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.site(x))


U, W, N = (torch.tensor(v) for v in ([0.0, -0.6, 0.8, 0, 0, 0], [1.0, 0, 0, 0, 0, 0], [0.0, 0, 0, 0.6, 0.8, 0]))
AT = torch.tensor([1.0, 2, 3, 4, 5, 6])


def planted() -> Snapshot:
    a, b = torch.tensor([[2.0, 1], [-2, 1], [2, -1], [-2, -1]]).T
    x = (AT + a[:, None] * U + b[:, None] * W)[:, None].expand(4, 3, 6).clone()  # 4 examples of 3 tokens
    return Snapshot(Planted(), lambda m, d: m(d).square().mean(), x)


def test_a_planted_direction_is_the_first_component() -> None:
    got = look("directions", planted(), Kit(), site="site")
    one, two = got["directions"]  # and no third: the rest is rounding
    assert (got["rows"], got["features"], one["name"], two["name"]) == (12, 6, "PC 1", "PC 2")
    assert one["direction"] == pytest.approx(U.tolist(), abs=1e-6)
    assert two["direction"] == pytest.approx(W.tolist(), abs=1e-6)
    assert (one["explained"], two["explained"]) == (pytest.approx(0.8), pytest.approx(0.2))
    assert one["mean"] == two["mean"] == pytest.approx(AT.tolist())
    assert len(look("directions", planted(), Kit(), site="site", most=1)["directions"]) == 1
    part = look("directions", planted(), Kit(), site="site/2[0]")["directions"][0]  # a head: its own features
    assert (part["direction"], part["mean"]) == (pytest.approx([0, -0.6, 0.8], abs=1e-6), pytest.approx([1, 2, 3]))


def test_the_dose_of_a_direction_is_that_of_the_closed_form() -> None:
    snap = planted()
    one = look("directions", snap, Kit(), site="site")["directions"][0]
    own = {"edit": "scale_direction", "direction": one["direction"], "mean": one["mean"], "site": "site"}
    got = look("dose", snap, Kit(), **own, doses=[0.0, 1.0, 2.0])
    for i, d in enumerate(got["doses"]):
        x = snap.data + (d - 1) * ((snap.data - AT) @ U)[..., None] * U
        assert got["loss"][i] == pytest.approx(snap.loss(snap.model, x).item(), rel=1e-4)
    assert got["loss"][1] == got["control"]["loss"][1] == got["base"]["value"]
    assert (got["err"][1], got["control"]["err"][1]) == (0.0, 0.0)
    assert got["control"]["loss"][0] == got["control"]["loss"][2] != got["base"]["value"]
    with snap.quiet(), patch(snap.model, {"site": scale_direction(direction=U.tolist(), mean=AT.tolist())}):
        left = look("directions", snap, Kit(), site="out:in")["directions"]
    assert [d["direction"] for d in left] == [pytest.approx(W.tolist(), abs=1e-6)]  # the component is gone
    still = look("dose", snap, Kit(), **{**own, "direction": N.tolist()}, doses=[0.0, 0.5, 2.0])
    assert still["loss"] == pytest.approx([still["base"]["value"]] * 3, rel=1e-6)  # nothing varies along it


def test_directions_of_heads_of_parameters_and_of_more_features_than_rows() -> None:
    snap = writes()
    for site, features in (("layers.1.o:in/2[1]", D // H), ("layers.0", D), (":out.scores", V)):
        got = look("directions", snap, KIT, site=site)
        basis = torch.tensor([d["direction"] for d in got["directions"]])
        assert torch.allclose(basis @ basis.T, torch.eye(len(basis)), atol=1e-4)
        assert (got["rows"], got["features"]) == (6 * T, features)
        share = [d["explained"] for d in got["directions"]]
        assert share == sorted(share, reverse=True)
    assert look("directions", snap, KIT, site="head:param.weight")["rows"] == V
    wide = Snapshot(nn.Linear(3, 40), lambda m, x: m(x).mean(), torch.randn(4, 3))
    assert len(look("directions", wide, Kit(), site="", most=50)["directions"]) == 3


def test_a_unit_is_a_direction_with_its_share_of_the_variance() -> None:
    got = look("directions", planted(), Kit(), site="site", unit=2)
    (one,) = got["directions"]
    assert (one["name"], one["direction"]) == ("unit 2", [0, 0, 1, 0, 0, 0])
    assert one["explained"] == pytest.approx(0.8 * 0.64)  # of the first component, 0.8 squared
    assert one["mean"] == pytest.approx(AT.tolist())
    dead = look("directions", planted(), Kit(), site="site", unit=5)["directions"][0]
    assert dead["explained"] == 0.0


def slow_mean(snap: Snapshot, ids: list[int], site: str) -> Tensor:
    """What a site carries, token by token, added up by hand."""
    seen: list[Tensor] = []
    hook = snap.model.get_submodule(site).register_forward_hook(lambda _m, _a, out: seen.append(out.detach()))
    snap.model(torch.tensor([ids]))
    hook.remove()
    total = torch.zeros(seen[0].shape[-1], dtype=torch.float64)
    for token in range(len(ids)):
        total += seen[0][0, token].double()
    return total / len(ids)


def test_the_direction_between_two_texts_or_examples_is_that_of_their_means() -> None:
    snap = writes()
    snap.model.eval()
    read = KIT.encode
    assert read is not None
    whole = torch.stack([slow_mean(snap, row[:-1].tolist(), "layers.1") for row in snap.data]).mean(0)
    cases: list[tuple[dict[str, Any], list[list[int]], str]] = [
        ({"texts": ["abc", "hello"]}, [read("abc"), read("hello")], "'abc' − 'hello'"),
        ({"examples": [4, 1]}, [snap.data[i, :-1].tolist() for i in (4, 1)], "example 4 − example 1"),
    ]
    for args, (a, b), name in cases:
        got = look("directions", snap, KIT, site="layers.1", **args)
        (one,) = got["directions"]
        slow = slow_mean(snap, a, "layers.1") - slow_mean(snap, b, "layers.1")
        assert one["name"] == name
        assert one["direction"] == pytest.approx((slow / slow.norm()).tolist(), rel=1e-3, abs=1e-5)
        assert one["mean"] == pytest.approx(whole.tolist(), rel=1e-3, abs=1e-5)
        assert 0 < one["explained"] < 1
        assert f"{len(a)} rows of" in got["how"]
        back = look("directions", snap, KIT, site="layers.1", **{k: v[::-1] for k, v in args.items()})
        assert back["directions"][0]["direction"] == [-v for v in one["direction"]]
        own = {"edit": "scale_direction", "direction": one["direction"], "mean": one["mean"]}
        turned = look("dose", snap, KIT, site="layers.1", doses=[0.0, 1.0], **own)
        assert turned["loss"][1] == turned["base"]["value"] != turned["loss"][0]
    long = look("directions", snap, KIT, site="layers.1", texts=["a" * 99, "b"])
    assert "as long as an example" in long["how"]
    table = look("directions", fits(), Kit(), site="0", examples=[0, 1])  # one row each: no tokens there
    assert len(table["directions"]) == 1


# ----------------------------------------------------------------------------------------- examples, pictures


def test_examples_have_their_own_loss_by_both_ways() -> None:
    for snap in (fits(), sorts(), writes()):
        snap.model.eval()
        n = count(snap.data)
        alone = [snap.loss(snap.model, rows(snap.data, i, i + 1)).item() for i in range(n)]
        each = PerExample(snap, 256)
        assert each.how == "vmap"
        assert each().tolist() == pytest.approx(alone, rel=1e-4, abs=1e-6)
        got = look("examples", snap, KIT)
        assert [r["loss"] for r in got["rows"]] == pytest.approx(alone, rel=1e-3)
        assert got["mean"]["value"] == pytest.approx(np.mean(alone), rel=1e-3)
        assert got["n"] == n
    bent = Snapshot(snap.model, lambda m, x: next_token(m, x) if int(x[0, 0]) > 5 else 2 * next_token(m, x), snap.data)
    each = PerExample(bent, 4)
    assert each.how == "loop"
    assert each().tolist() == pytest.approx(
        [a * (1 if x[0] > 5 else 2) for a, x in zip(alone[:4], snap.data, strict=False)], rel=1e-4
    )


def test_the_table_says_what_an_example_is() -> None:
    snap = sorts()
    snap.model.eval()
    row = look("examples", snap, Kit(labels=tuple("abcde")))["rows"][4]
    p = snap.model(snap.data[0][4:5]).softmax(-1)[0]
    assert row["label"] == "abcde"[int(snap.data[1][4])]
    assert row["prediction"] == {"text": "abcde"[int(p.argmax())], "p": nums(p.max())}
    assert row["input"] == {"kind": "image", "values": nums(snap.data[0][4, 0])}
    row = look("examples", writes(), KIT)["rows"][0]
    assert row["text"] == "".join(chr(97 + i) for i in writes().data[0].tolist())
    row = look("examples", fits(), Kit())["rows"][1]
    assert row["input"] == {"kind": "vector", "values": [nums(fits().data["x"][1])]}
    assert set(row["prediction"]) == {"value"}


def test_an_activation_is_the_tensor_there() -> None:
    snap = writes("module")
    got = look("activation", snap, KIT, site="layers.0.pattern@1[1]", example=2)
    shown = look("attention", snap, KIT, example=2)["layers"][0]["heads"][1]
    assert np.allclose(got["values"], shown, atol=1e-4)
    assert (got["shape"], got["axes"], got["pooled"]) == ([1, T, T], ["token", "token"], False)
    inner = look("activation", snap, KIT, site="head:in", text="abc")
    assert (inner["shape"], inner["axes"]) == ([1, 3, D], ["token", "unit"])
    assert look("activation", snap, KIT, site="head:param.weight")["values"] == nums(snap.model.head.weight)
    assert look("activation", snap, KIT, site="head", image=False)["values"] is None
    conv = look("activation", sorts(), Kit(), site="0")
    assert (conv["shape"], len(conv["values"]), conv["axes"]) == ([1, 3, 4, 4], 12, ["channel, row", "column"])


def test_a_large_picture_is_pooled_and_says_so() -> None:
    net = nn.Linear(1024, 512)
    with torch.no_grad():
        net.weight.copy_(torch.arange(1024.0).expand(512, 1024))
    got = look("parameter", Snapshot(net, lambda m, x: m(x).mean(), torch.ones(2, 1024)), Kit(), site=":param.weight")
    assert got["pooled"]
    assert got["values"] == [[4 * i + 1.5 for i in range(256)]] * 256
    assert (got["min"], got["max"], got["shape"]) == (0.0, 1023.0, [512, 1024])


def test_numbers_that_are_not_finite_are_null() -> None:
    snap = writes()
    with torch.no_grad():
        snap.model.head.weight[3] = torch.nan
        snap.model.layers[0].q.bias[0] = torch.inf
    for view, args in (("modules", {}), ("tokens", {}), ("lens", {}), ("parameter", {"site": "head:param.weight"}),
                       ("activation", {"site": "head"}), ("examples", {}), ("dose", {"site": "layers.0"})):  # fmt: skip
        json.dumps(look(view, snap, KIT, **args), allow_nan=False)
    assert look("parameter", snap, KIT, site="head:param.weight")["mean"] is None


# ------------------------------------------------------------------------------------------------- contracts


ASKED: dict[str, list[dict[str, Any]]] = {
    "modules": [{}], "tokens": [{}, {"text": "abcd"}], "attention": [{}, {"text": "abcd"}], "lens": [{}],
    "activation": [{"site": "layers.0"}], "parameter": [{"site": "head:param.bias"}], "examples": [{}],
    "directions": [{"site": "layers.1"}, {"site": "layers.1", "unit": 3}, {"site": "layers.1", "texts": ["ab", "cd"]}],
    "dose": [{"site": "layers.0", "text": "ab"}, {"site": "head:param.weight", "edit": "ablate"},
             {"site": "layers.0", "edit": "scale_direction", "direction": [1] * D},
             {"site": "layers.0", "edit": "steer", "direction": [1] * D, "by": 0.5}],
    "concept": [{"positive": [f"{c}{d}z" for c in "abcd" for d in "efg"], "negative": [f"{c}{d}y" for c in "abcd" for d in "efg"]},
                {"positive": ["abz"] * 12, "negative": [f"{c}{d}y" for c in "abcd" for d in "efg"], "whole": False}],
    "front": [{"positive": ["abz", "bcz"], "negative": ["aby", "bcy"]},
              {"positive": ["abz", "bcz"], "negative": ["aby", "bcy"], "site": "layers.0", "direction": [1] * D, "by": 0.5,
               "doses": [-1, 0, 1]}],
}  # fmt: skip


@pytest.mark.parametrize("make", ["softmax", "fused", "own"])
def test_a_look_leaves_no_trace_is_plain_and_repeats(make: str) -> None:
    assert set(ASKED) == set(VIEWS)
    snap = writes(make)
    for p in snap.model.parameters():
        p.grad = torch.full_like(p, 0.25)
    snap.model.train()
    before = state_of(snap)
    for view, asked in ASKED.items():
        for args in asked:
            first = look(view, snap, KIT, **args)
            assert same(before, state_of(snap)), view
            assert json.loads(json.dumps(first, allow_nan=False)) == first
            assert look(view, snap, KIT, **args) == first
    with pytest.raises(RuntimeError, match="inside"):
        look("dose", Snapshot(snap.model, _fails, snap.data), KIT, site="layers.0")
    assert same(before, state_of(snap))


def _fails(model: nn.Module, x: Tensor) -> Tensor:
    next_token(model, x)
    raise RuntimeError("inside")


def test_what_is_not_there_is_said_with_near_misses() -> None:
    snap = writes()
    wrong: list[tuple[str, dict[str, Any], type[Exception], str]] = [
        ("activation", {"site": "layer.0"}, SiteNotFound, "did you mean layers.0"),
        ("activation", {"site": "idle"}, SiteNotFound, "was not reached"),
        ("parameter", {"site": "head:param.wieght"}, SiteNotFound, "weight"),
        ("parameter", {"site": "head"}, BadOption, "path:param.weight"),
        ("dose", {"site": "nowhere"}, SiteNotFound, "no module 'nowhere'"),
        ("dose", {"site": "head", "edit": "abblate"}, NameNotFound, "did you mean ablate"),
        ("dose", {"site": "head", "edit": "os:abort"}, BadOption, "not an import path"),
        ("dose", {"site": "head", "doses": [float("inf")]}, BadOption, "finite"),
        ("dose", {"site": "head", "edit": "scale_direction"}, BadOption, "needs its direction"),
        ("dose", {"site": "head", "direction": [1.0]}, BadOption, "only a dose of scale_direction"),
        ("dose", {"site": "head", "edit": "scale_direction", "direction": [0.0]}, BadOption, "nowhere"),
        (
            "dose",
            {"site": "head", "edit": "scale_direction", "direction": [1.0]},
            StateMismatch,
            f"1 numbers.*size {V}",
        ),
        ("directions", {"site": "layer.0"}, SiteNotFound, "did you mean layers.0"),
        ("directions", {"site": "idle"}, SiteNotFound, "was not reached"),
        ("directions", {"site": "layers.0", "most": 0}, BadOption, "1 to 50"),
        ("directions", {"site": "head:param.bias"}, BadOption, "rows of features"),
        ("directions", {"site": "layers.0", "unit": D}, BadOption, f"units 0 to {D - 1}, not {D}"),
        ("directions", {"site": "layers.0", "unit": "1"}, BadOption, "units 0 to"),
        ("directions", {"site": "layers.0", "texts": ["ab", "ab"]}, BadOption, "the two texts have the same mean"),
        ("directions", {"site": "layers.0", "examples": [2, 2]}, BadOption, "no direction from one to the other"),
        ("directions", {"site": "layers.0", "examples": [2, 6]}, BadOption, "examples 0 to 5, not 6"),
        ("directions", {"site": "layers.0", "texts": ["ab"]}, BadOption, "two texts"),
        ("directions", {"site": "layers.0", "texts": ["ab", ""]}, BadOption, "type some text"),
        ("directions", {"site": "head:param.weight", "texts": ["a", "b"]}, BadOption, "a parameter, the same for all"),
        ("directions", {"site": "layers.0", "unit": 1, "examples": [0, 1]}, BadOption, "one of the three"),
        ("tokens", {"example": 6}, BadOption, "examples 0 to 5"),
        ("tokens", {"example": -1}, BadOption, "examples 0 to 5"),
        ("tokens", {"text": ""}, BadOption, "type some text"),
        ("tokens", {"top": 0}, BadOption, "1 to 50"),
    ]
    for view, args, error, words in wrong:
        with pytest.raises(error, match=words):
            look(view, snap, KIT, **args)
    with pytest.raises(BadOption, match=r"no tokenizer.*tokenizer="):
        look("tokens", snap, Kit(), text="abc")
    with pytest.raises(BadOption, match="not its own"):
        look("tokens", snap, Kit(encode=lambda s: [V + 3]), text="abc")
    for view in ("tokens", "lens"):
        with pytest.raises(BadOption, match="not a language model"):
            look(view, sorts(), Kit())
    with pytest.raises(BadOption, match="no attention pattern"):
        look("attention", fits(), Kit())
    with pytest.raises(NameNotFound, match="did you mean tokens"):
        look("token", snap, KIT)
    for out, words in ((4097, "at most 4096"), (4, "does not vary")):
        same_rows = Snapshot(nn.Linear(2, out), lambda m, x: m(x).mean(), torch.ones(3, 2))
        with pytest.raises(BadOption, match=words):
            look("directions", same_rows, Kit(), site="")
    with torch.no_grad():
        snap.model.head.weight[0] = torch.nan
    with pytest.raises(BadOption, match="not all finite"):
        look("directions", snap, KIT, site="head")
    piece = Snapshot(nn.Linear(4, 1), lambda m, d: m(d[0]).mean() * d[1].sum(), (torch.ones(5, 4), torch.ones(3)))
    with pytest.raises(BadOption, match="cannot be taken apart"):
        look("examples", piece, Kit())
    assert look("modules", piece)["loss"]["err"] is None


# ------------------------------------------------------------------------------------------------- recorded runs

LOOP = """
import torch
from torch import nn
import strobe

class Letters:
    def encode(self, text): return [ord(c) - 97 for c in text]
    def decode(self, ids): return "".join(chr(97 + i) for i in ids)

class Bigram(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.attend = nn.Embedding(26, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.unembed = nn.Linear(8, 26)
    def forward(self, x):
        h = self.embed(x)
        hidden = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
        return self.unembed(h + self.attend(h, h, h, attn_mask=hidden, need_weights=False)[0])

def loss(model, x):
    return nn.functional.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())

def batch(step):
    return torch.randint(26, (4, 9), generator=torch.Generator().manual_seed(step))

def train(*, out, steps):
    torch.manual_seed(0)
    model = Bigram()
    opt = torch.optim.Adam(model.parameters())
    with strobe.record(out, model=model, optimizer=opt, loss=loss, probe=batch(99), tokenizer=Letters(),
                       entry=(train, {"out": out, "steps": steps})) as rec:
        for step in rec.steps(steps):
            got = loss(model, batch(step))
            opt.zero_grad(); got.backward(); opt.step()
            rec.step(loss=got)
"""


def test_a_users_own_model_with_a_tokenizer_has_every_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "letters_loop.py").write_text(LOOP)
    monkeypatch.syspath_prepend(str(tmp_path))
    __import__("letters_loop").train(out=str(tmp_path / "r"), steps=3)
    opened = Opened(open_run(tmp_path / "r"))
    snap = opened.at(2)
    kit = kit_of(opened.run, opened.recorder)
    got = look("tokens", snap, kit, text="strobe")
    assert "".join(t["text"] for t in got["tokens"]) == "strobe"
    modules = look("modules", snap, kit)
    assert modules["language"]
    for view, args in {
        "attention": {"text": "light"}, "lens": {"text": "light"}, "examples": {}, "dose": {"site": "attend", "text": "abc"},
        "activation": {"site": "embed"}, "parameter": {"site": "unembed:param.weight"},
    }.items():  # fmt: skip
        json.dumps(look(view, snap, kit, **args), allow_nan=False)
    lens = look("lens", snap, kit, text="light")
    assert lens["rows"][-1]["loss"] == look("tokens", snap, kit, text="light")["loss"]
    assert "tokenizer" not in (tmp_path / "r" / "run.json").read_text().lower()
    import strobe

    with pytest.raises(BadOption, match="encode"):
        strobe.record(tmp_path / "no", model=snap.model, tokenizer=object())


def test_systems_bring_their_own_kit(tmp_path: Path, language: System) -> None:
    opened = Opened(open_run(train(language, tmp_path / "text", steps=2)))
    snap, kit = opened.at(2), kit_of(opened.run, opened.recorder)
    got = look("tokens", snap, kit, text="def return import")
    assert "".join(t["text"] for t in got["tokens"]) == "def return import"
    heads = look("modules", snap, kit)["heads"]
    assert [(h["site"], h["count"]) for h in heads] == [("blocks.0.attn.z@1[{}]", 2), ("blocks.1.attn.z@1[{}]", 2)]
    layers = look("attention", snap, kit)["layers"]
    assert [a["site"] for a in layers] == language.facts["pattern_sites"]


def test_digits_are_pictures_with_labels(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    from strobe.systems.digits import digits

    world = digits(width=8, batch=8)
    opened = Opened(open_run(train(world, tmp_path / "r", steps=2)))
    found = look("examples", opened.at(2), kit_of(opened.run, opened.recorder))["rows"]
    images, labels, _ = world.probe(0)
    assert len(found) == 256
    assert found[9]["input"] == {"kind": "image", "values": nums(images[9])}
    assert [r["label"] for r in found] == [str(int(i)) for i in labels[:256]]
    top = look("dose", opened.at(2), kit_of(opened.run, opened.recorder), site="hidden.0[3]", doses=[1.0])["outputs"][
        0
    ]["top"]
    assert top[0] == found[0]["prediction"]


def test_a_hugging_face_model_has_every_look() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {
        "vocab_size": V,
        "n_positions": T,
        "n_embd": D,
        "n_layer": 2,
        "n_head": H,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    x = torch.randint(V, (4, T))
    batch = {"input_ids": x, "labels": x, "attention_mask": torch.ones_like(x)}
    found = []
    for make in ("sdpa", "eager"):
        net = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(**sizes, attn_implementation=make, loss_type="ForCausalLM")
        )
        net.load_state_dict(found[0][0].model.state_dict() if found else net.state_dict())
        snap = Snapshot(net, lambda m, b: m(**b).loss, batch)
        found.append((snap, look("attention", snap, KIT, text="abcd")))
        assert look("tokens", snap, KIT)["same_as_loss"] is True
        lens = look("lens", snap, KIT)
        assert (lens["norm"], lens["unembed"], lens["exact"]) == ("transformer.ln_f", "lm_head", True)
        assert lens["rows"][-1]["loss"] == look("tokens", snap, KIT)["loss"]
        heads = look("modules", snap, KIT)["heads"]
        assert heads[0]["site"] == "transformer.h.0.attn.c_proj:in/2[{}]"
        assert look("dose", snap, KIT, site=heads[0]["site"].format(1), doses=[0.0, 1.0])["outputs"]
    for a, b in zip(found[0][1]["layers"], found[1][1]["layers"], strict=True):
        assert np.allclose(a["heads"], b["heads"], atol=2e-4)
