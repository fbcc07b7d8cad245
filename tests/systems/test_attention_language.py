"""The language world on a tiny folder: pure batches, entropies, sites, second derivatives, and a model that learns."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from strobe.core.errors import BadOption
from strobe.core.snapshot import Snapshot
from strobe.core.system import System
from strobe.core.tap import patch, tap
from strobe.systems.attention_language import attention_language

pytest.importorskip("tokenizers")
SIZES = {"vocab": 280, "context": 16, "d_model": 16, "heads": 2, "batch": 8, "probe_size": 8, "held_fraction": 0.3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("corpus")
    for i in range(16):
        body = "".join(f"def {'abcdefgh'[k]}(x):\n    return {'abcdefgh'[k]} + {k}\n" for k in rng.integers(8, size=60))
        (root / f"{i}.py").write_text(body)
    return root


@pytest.fixture(scope="module")
def world(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> System:
    return attention_language(corpus=folder, cache=tmp_path_factory.mktemp("cache"), **SIZES)  # type: ignore[arg-type]


def test_batches_are_pure_and_ids_name_windows(world: System) -> None:
    a, b = world.batch(1, 7), world.batch(1, 7)
    assert torch.equal(a["input_ids"], b["input_ids"])
    assert a["input_ids"].shape == (8, 17)
    assert not torch.equal(a["input_ids"], world.batch(1, 8)["input_ids"])
    seen: dict[int, torch.Tensor] = {}
    for step in range(200):
        batch = world.batch(0, step)
        for name, row in zip(batch["ids"].tolist(), batch["input_ids"], strict=True):
            assert torch.equal(seen.setdefault(name, row), row)
    assert max(seen) < world.facts["windows"]
    model = world.build(0)
    ids, losses = world.example_loss(model, a)  # type: ignore[misc]
    assert torch.equal(ids, a["ids"])
    assert losses.mean().item() == pytest.approx(world.loss(model, a).item(), rel=1e-5)
    assert world.loss(model, world.probe(0)).ndim == 0


def test_facts_are_cross_entropies_and_tables(world: System) -> None:
    f = world.facts
    for name in ("unigram", "bigram"):
        assert torch.allclose(f[name].exp().sum(-1), torch.ones(()), atol=1e-4)
    assert 0 < f["bigram_entropy"] < f["unigram_entropy"] < np.log(280)
    probe = world.probe(0)
    by_hand = -f["bigram"][probe[:, :-1], probe[:, 1:]].mean().item()
    assert f["bigram_probe"] == pytest.approx(by_hand, rel=1e-4)
    assert f["unigram_err"] > 0
    assert f["bigram_excess"] >= 0


def test_a_head_is_a_site_and_the_pattern_is_causal(world: System) -> None:
    model, tokens = world.build(0), world.probe(0)[:, :-1]
    with tap(model, world.facts["pattern_sites"]) as seen:
        whole = model(tokens)
    for site in world.facts["pattern_sites"]:
        assert seen[site].shape == (8, 2, 16, 16)
        assert torch.allclose(seen[site].sum(-1), torch.ones(()), atol=1e-5)
        assert not seen[site].triu(1).any()
    with patch(model, {world.facts["head_sites"][1][1]: torch.zeros_like}):
        assert not torch.equal(model(tokens), whole)
    with tap(model, world.facts["smear_sites"]) as seen:
        assert [seen[site].shape for site in world.facts["smear_sites"]] == [(2,), (2,)]
    late = tokens.clone()
    late[:, -1] = (late[:, -1] + 1) % 280
    assert torch.allclose(model(late)[:, :-1], whole[:, :-1], atol=1e-5)  # nothing is seen before it is said


@pytest.mark.parametrize("positions", ["relative", "shortformer", "rotary"])
def test_it_has_second_derivatives(folder: Path, tmp_path: Path, positions: str) -> None:
    world = attention_language(corpus=folder, cache=tmp_path, positions=positions, **SIZES)  # type: ignore[arg-type]
    model = world.build(0).double()
    snap = Snapshot(model, world.loss, world.probe(0)[:2])
    v = {k: torch.randn_like(p) for k, p in snap.params().items()}

    def slope(scale: float) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        at = {k: (p + scale * v[k]).requires_grad_() for k, p in snap.params().items()}
        return list(at.values()), list(torch.autograd.grad(snap.loss_at(at), list(at.values()), create_graph=True))

    at, grads = slope(0.0)
    hv = torch.autograd.grad(sum((g * x).sum() for g, x in zip(grads, v.values(), strict=True)), at)  # type: ignore[arg-type]
    for exact, up, down in zip(hv, slope(1e-5)[1], slope(-1e-5)[1], strict=True):
        assert torch.allclose(exact, (up - down) / 2e-5, atol=1e-5, rtol=1e-4)


def test_training_passes_below_both_entropies_and_an_untrained_model_does_not(world: System) -> None:
    model = trained(world, 150)
    assert loss(world, model) < world.facts["bigram_probe"]
    assert loss(world, world.build(0)) > world.facts["unigram_probe"]


def test_without_layers_it_is_a_bigram_model_and_stays_above_the_bigram_floor(world: System, tmp_path: Path) -> None:
    bare = attention_language(**{**world.knobs, "layers": 0}, cache=tmp_path)
    model, tokens = trained(bare, 300), bare.probe(0)[:, :-1]
    other = torch.cat([tokens.flip(1)[:, :-1], tokens[:, -1:]], 1)  # another past, the same last token
    assert torch.allclose(model(tokens)[:, -1], model(other)[:, -1])
    assert bare.facts["bigram_probe"] - 0.05 < loss(bare, model) < bare.facts["unigram_probe"] - 0.5


def trained(world: System, steps: int) -> nn.Module:
    model = world.build(0)
    opt = world.optimizer(model, 1e-2)
    for step in range(steps):
        opt.zero_grad()
        world.loss(model, world.batch(0, step)).backward()
        opt.step()
    return model


def loss(world: System, model: nn.Module) -> float:
    return float(world.loss(model, world.probe(0)).detach())


def test_it_rebuilds_from_its_knobs_and_refuses_bad_ones(world: System, folder: Path, tmp_path: Path) -> None:
    again = attention_language(**world.knobs, cache=tmp_path)
    assert torch.equal(again.batch(0, 3)["input_ids"], world.batch(0, 3)["input_ids"])
    for a, b in zip(again.build(5).parameters(), world.build(5).parameters(), strict=True):
        assert torch.equal(a, b)
    assert isinstance(world.build(0), nn.Module)
    for bad, word in (
        ({"heads": 3}, "multiple of heads"), ({"positions": "?"}, "positions"), ({"lr": 0.0}, "lr"),
        ({"context": 100_000}, "too few"), ({"layers": -1}, "layers"), ({"placed": -1}, "placed"),
    ):  # fmt: skip
        with pytest.raises(BadOption, match=word):
            attention_language(**{**world.knobs, **bad}, cache=tmp_path)
