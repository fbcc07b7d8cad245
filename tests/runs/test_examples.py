"""An edit of examples: in force for the whole branch, kept by resume, replay and further branches; else the plain mean."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import strobe
from strobe.core.errors import BadOption, StrobeError
from strobe.runs.replay import replay
from strobe.runs.run import Run, open_run
from strobe.runs.state import differences

WEIGHTS = {3: 0.0, 5: 0.0, 7: 2.5}


def world(seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 6), nn.Tanh(), nn.Linear(6, 1))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2)


def batch(step: int) -> tuple[Tensor, Tensor]:
    """Four of twelve examples, as a function of the step."""
    g = torch.Generator().manual_seed(step)
    ids = torch.randint(12, (4,), generator=g)
    x = torch.randn(12, 3, generator=torch.Generator().manual_seed(99))
    return ids, x[ids]


def each(model: nn.Module, x: Tensor) -> Tensor:
    return (model(x).squeeze(-1) - x.sum(1)).square()


def go(*, out: str, steps: int, resume: bool = False) -> None:
    """A loop as a user writes it, with `rec.weigh`."""
    model, optimizer = world()
    with strobe.record(
        out, model=model, optimizer=optimizer, snapshots=5, resume=resume, entry=(go, {"out": out, "steps": steps})
    ) as rec:
        for step in rec.steps(steps):
            ids, x = batch(step)
            losses = each(model, x)
            loss = rec.weigh(ids, losses)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rec.step(loss=loss, example_loss=(ids, losses.detach()))


go.__module__ = "test_examples_entry"  # the test's own module has no name that a replay could import


@pytest.fixture(autouse=True)
def _importable() -> Any:
    import sys

    sys.modules["test_examples_entry"] = sys.modules[__name__]
    yield
    sys.modules.pop("test_examples_entry")


def by_hand(
    steps: int, weights: dict[int, float], *, since: int = 0, before: dict[int, float] | None = None
) -> dict[str, Tensor]:
    """The same training without Strobe: Σ wᵢ lᵢ / Σ wᵢ from step `since` on, with `before` until then; {}: the mean."""
    model, optimizer = world()
    for step in range(steps):
        ids, x = batch(step)
        losses, now = each(model, x), weights if step >= since else before
        if not now:
            loss = losses.mean()
        else:
            w = torch.tensor([now.get(i, 1.0) for i in ids.tolist()])
            loss = (w * losses).sum() / w.sum().clamp_min(1e-12)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {k: v.detach().clone() for k, v in model.state_dict().items()}


def edit(weights: dict[int, float]) -> dict[str, Any]:
    return {"act": "examples", "weights": {str(i): w for i, w in weights.items()}}


def weights_of(run: Run, step: int) -> dict[str, Tensor]:
    return run.state(step)["objects"]["model"]["state"]


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.fixture
def trunk(tmp_path: Path) -> Run:
    go(out=str(tmp_path / "trunk"), steps=40)
    return open_run(tmp_path / "trunk")


def test_without_edits_it_is_the_plain_mean_to_the_bit(trunk: Run) -> None:
    assert equal(weights_of(trunk, 40), by_hand(40, {}))
    losses = torch.rand(7)
    with strobe.record(trunk.path.with_name("bare"), model=world()[0]) as rec:
        assert torch.equal(rec.weigh(torch.arange(7), losses), losses.mean())


@pytest.mark.parametrize("start", [0, 13])
def test_a_branch_is_the_loop_with_these_weights_to_the_bit(trunk: Run, start: int) -> None:
    branch = trunk.fork(start, [edit(WEIGHTS)])
    assert equal(weights_of(branch, 40), by_hand(40, WEIGHTS, since=start))
    assert not equal(weights_of(branch, 40), weights_of(trunk, 40))
    assert branch.facts["edits"] == [edit(WEIGHTS)]


def test_a_batch_with_nothing_left_changes_no_gradient(trunk: Run) -> None:
    branch = trunk.fork(0, [edit(dict.fromkeys(range(12), 0.0))])
    assert branch.series("loss").values.tolist() == [0.0] * 40
    assert equal(weights_of(branch, 40), by_hand(40, dict.fromkeys(range(12), 0.0)))


def test_replay_and_resume_of_a_branch_keep_the_weights(trunk: Run) -> None:
    expected = by_hand(40, WEIGHTS)
    branch = trunk.fork(0, [edit(WEIGHTS)], until=22)
    assert replay(branch, 18, verify=True).ok
    assert equal(weights_of(branch, 18), by_hand(18, WEIGHTS))
    go(out=str(branch.path), steps=40, resume=True)  # in another process it would be the same call
    branch = open_run(branch.path)
    assert branch.last == 40
    assert equal(weights_of(branch, 40), expected)
    assert replay(branch, 33, verify=True).ok


def test_a_branch_of_a_branch_inherits_and_may_add(trunk: Run) -> None:
    branch = trunk.fork(0, [edit(WEIGHTS)])
    same = branch.fork(17)
    assert differences(same.state(40), branch.state(40)) == []
    more = branch.fork(17, [edit({1: 0.0, 7: 1.0})])
    both = {**WEIGHTS, 1: 0.0, 7: 1.0}
    assert equal(weights_of(more, 40), by_hand(40, both, since=17, before=WEIGHTS))
    assert [len(e["weights"]) for e in more.facts["edits"]] == [3, 2]


def test_a_dropped_example_is_still_recorded(trunk: Run) -> None:
    branch = trunk.fork(0, [edit(WEIGHTS)])
    steps, ids, losses = branch.examples()
    assert set(WEIGHTS) <= set(ids.tolist())
    assert len(steps) == len(losses) == 4 * 40


@pytest.mark.parametrize("bad", [
    {"act": "examples"}, {"act": "examples", "weights": [1, 2]}, {"act": "examples", "weights": {"one": 0.0}},
    {"act": "examples", "weights": {"1": "a lot"}}, {"act": "examples", "weights": {"1": None}},
])  # fmt: skip
def test_weights_that_are_none_are_refused_with_an_example_of_some(trunk: Run, bad: dict[str, Any]) -> None:
    with pytest.raises(BadOption, match='an edit of examples is {"act": "examples", "weights": {"17": 0.0}}'):
        trunk.fork(0, [bad])
    assert trunk.branches() == []


@pytest.mark.parametrize("bad", [-1.0, float("nan"), float("inf")])
def test_a_weight_is_finite_and_not_negative(trunk: Run, bad: float) -> None:
    with pytest.raises(StrobeError, match=r"the weight of an example lies between 0 and 1e6, got \{4: "):
        trunk.fork(0, [edit({3: 1.0, 4: bad})])
    assert trunk.branches() == []
