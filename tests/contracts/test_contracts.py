"""What every entry of the catalogue owes its users, checked for all of them."""

import copy
import functools
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from contracts.cases import EDITS, LAWS, OBSERVABLES, OF_RUNS, SYSTEMS, Look, small
from contracts.traces import same, state_of
from strobe.core.catalogue import catalogue, load
from strobe.core.data import mapped
from strobe.core.errors import BadOption
from strobe.core.prediction import judge
from strobe.core.snapshot import Snapshot
from strobe.core.tap import patch
from strobe.runs.watch import measure

ENTRIES = {(e.kind, e.name): e for e in catalogue()}


def entries(kind: str) -> list[str]:
    return [n for k, n in ENTRIES if k == kind]


def fn(kind: str, name: str) -> Any:
    return load(ENTRIES[kind, name].path)


def test_every_entry_has_a_case() -> None:
    assert set(entries("observable")) == set(OBSERVABLES) | set(OF_RUNS)
    assert set(entries("law")) == set(LAWS)
    assert set(entries("edit")) == set(EDITS)
    assert set(entries("system")) == set(SYSTEMS)
    assert all((Path(__file__).parents[2] / p).exists() for p in OF_RUNS.values())


# ------------------------------------------------------------------------------------------ observables


@pytest.mark.parametrize("name", list(OBSERVABLES))
def test_an_observable_leaves_no_trace_and_repeats_bit_for_bit(name: str) -> None:
    look = OBSERVABLES[name]
    snap = look.at(0)
    for p in snap.model.parameters():
        p.grad = torch.full_like(p, 0.25)
    snap.model.train()
    before = state_of(snap)
    first = measure(fn("observable", name), snap, look.options)
    assert same(before, state_of(snap))
    torch.rand(5)
    random.random()
    second = measure(fn("observable", name), snap, look.options)
    assert np.array_equal(first.value, second.value)
    assert np.array_equal(first.err, second.err)
    assert np.shape(first.value) == np.shape(first.err) or np.ndim(first.err) == 0
    for p in snap.model.parameters():
        p.grad = None


@pytest.mark.parametrize("name", list(OBSERVABLES))
def test_err_is_honest_over_8_seeds(name: str) -> None:
    look: Look = OBSERVABLES[name]
    rows = [
        measure(fn("observable", name), look.at(s), look.options | ({"seed": s} if look.seeded else {}))
        for s in range(8)
    ]
    values = np.stack([np.asarray(r.value, float) for r in rows])
    errs = np.stack([np.broadcast_to(np.asarray(r.err, float), values[0].shape) for r in rows])
    honest = values.std(axis=0, ddof=1) <= 2 * errs.mean(axis=0) + 1e-12 * np.abs(values).max()
    assert np.mean(honest) >= look.share, (values.std(axis=0, ddof=1), errs.mean(axis=0))
    if look.takes_noise:
        assert (values.std(axis=0) > 0).any(), "another sample gave the very same number: the seeds test nothing"
        assert (errs.mean(axis=0) <= 20 * values.std(axis=0) + 1e-12).mean() >= 0.5, (
            "an err that covers everything says nothing"
        )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", list(OBSERVABLES))
def test_an_observable_says_the_same_on_a_gpu(name: str) -> None:
    look, f = OBSERVABLES[name], fn("observable", name)
    snap, there = look.at(0), functools.partial(mapped, fn=lambda t: t.cuda())

    def moved(x: Any) -> Any:
        if isinstance(x, Snapshot):
            return replace(x, model=copy.deepcopy(x.model).cuda(), data=there(x.data))
        return there(x)

    away, options = moved(snap), {k: moved(v) for k, v in look.options.items()}
    here, got = measure(f, snap, look.options), measure(f, away, options)
    apart = np.abs(np.asarray(got.value) - here.value)
    drawn = 5 * np.hypot(np.asarray(got.err), here.err) if look.seeded else 0.0  # other random numbers are drawn there
    assert (apart <= drawn + 1e-3 * np.abs(here.value) + 1e-5).all(), (here, got)
    assert np.array_equal(got.value, measure(f, away, options).value)


# ------------------------------------------------------------------------------------------------- laws


@pytest.mark.parametrize("name", list(LAWS))
def test_a_law_speaks_before_a_model_exists_and_can_be_refuted(name: str) -> None:
    said = fn("law", name)(**LAWS[name].good)
    assert said.when
    assert said.law == ENTRIES["law", name].path
    assert said.ref
    assert said.fitted == ENTRIES["law", name].card["free_parameters"]
    assert judge(said, LAWS[name].refuted_by).word == "fails"
    again = load(said.law)(**said.knobs)
    assert np.array_equal(again.value, said.value)


@pytest.mark.parametrize("name", list(LAWS))
def test_a_law_rejects_bad_knobs(name: str) -> None:
    for knobs in LAWS[name].bad:
        with pytest.raises(BadOption):
            fn("law", name)(**knobs)


# ------------------------------------------------------------------------------------------------ edits


@pytest.mark.parametrize("name", list(EDITS))
def test_an_edit_is_undone_exactly_also_after_an_exception(name: str) -> None:
    net, x = small().eval(), torch.randn(9, 5)
    before, bits = net(x), copy.deepcopy(net.state_dict())
    for options in EDITS[name]:
        sites = [("0:param.weight", 5)]
        if fn("edit", name).card["at"] == "site":
            sites += [("0", 12), ("2/4[1]", 3), ("4:in", 12)]
        for site, size in sites:
            with pytest.raises(KeyError, match="inside"), patch(net, {site: fn("edit", name)(**options(size))}):
                assert not torch.equal(net(x), before)
                raise KeyError("inside")
            assert torch.equal(net(x), before)
            assert all(torch.equal(v, bits[k]) for k, v in net.state_dict().items())
    net.train()


# ---------------------------------------------------------------------------------------------- systems


@pytest.mark.parametrize("name", list(SYSTEMS))
def test_a_system_is_pure_and_rebuilt_by_its_path_and_knobs(name: str, folder: Path, tmp_path: Path) -> None:
    own = {"corpus": str(folder), "cache": str(tmp_path)} if name == "attention_language" else {}
    world = fn("system", name)(**SYSTEMS[name], **own)
    assert world.path == ENTRIES["system", name].path
    a, b = world.build(3), world.build(3)
    assert same(dict(a.state_dict()), dict(b.state_dict()))
    for step in (5, 0, 5):
        assert same(world.batch(1, step), world.batch(1, step))
    assert same(world.probe(1), world.probe(1))
    torch.rand(3)
    rng = torch.get_rng_state()
    late = world.batch(1, 7)
    assert torch.equal(rng, torch.get_rng_state()), "batch must not touch the global random state"
    loss = world.loss(a, late)
    assert loss.ndim == 0
    assert torch.isfinite(loss)
    if world.floor is not None:
        assert loss >= world.floor
    if world.example_loss:
        ids, losses = world.example_loss(a, late)
        assert ids.shape == losses.shape
    import json

    again = load(world.path)(**json.loads(json.dumps(world.knobs)))
    assert same(again.batch(1, 7), late)
    assert same(dict(again.build(3).state_dict()), dict(b.state_dict()))
