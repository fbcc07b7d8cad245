"""Three runs with a planted fault, a healthy one, and one for which no law speaks."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import strobe
from strobe.runs.run import open_run
from strobe.studies.advice import Finding, advise

FEATURES, CLASSES = 20, 4


def examples(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """A smooth task of two layers; one label in ten is wrong."""
    g = torch.Generator().manual_seed(99)
    hidden, out = torch.randn(FEATURES, 12, generator=g), torch.randn(12, CLASSES, generator=g)
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, FEATURES, generator=g)
    y = (torch.tanh(x @ hidden / FEATURES**0.5) @ out).argmax(1)
    return x, torch.where(torch.rand(n, generator=g) < 0.1, torch.randint(CLASSES, (n,), generator=g), y)


def loss(model: nn.Module, data: Any) -> Tensor:
    return nn.functional.cross_entropy(model(data[0]), data[1])


def network(width: int, spread: float = 1.0) -> nn.Module:
    torch.manual_seed(0)
    sizes = [FEATURES, width, width, CLASSES]
    layers = [m for a, b in pairwise(sizes) for m in (nn.Linear(a, b), nn.ReLU())][:-1]
    net = nn.Sequential(*layers)
    with torch.no_grad():
        net[2].weight.mul_(spread)
    return net


def trained(
    out: str,
    *,
    width: int = 64,
    spread: float = 1.0,
    lr: float = 0.1,
    adam: bool = False,
    distinct: int = 20_000,
    steps: int = 150,
) -> Path:
    model = network(width, spread)
    optimizer = (torch.optim.Adam if adam else torch.optim.SGD)(model.parameters(), lr=lr)
    x, y = examples(distinct, 0)
    entry = (
        trained,
        {"out": out, "width": width, "spread": spread, "lr": lr, "adam": adam, "distinct": distinct, "steps": steps},
    )
    with strobe.record(out, model=model, optimizer=optimizer, loss=loss, probe=examples(1024, 1), entry=entry) as rec:
        for step in rec.steps(steps):
            at = torch.randint(distinct, (64,), generator=torch.Generator().manual_seed(step))
            value = loss(model, (x[at], y[at]))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            rec.step(loss=value)
    return rec.path


def advice(path: Path) -> list[Finding]:
    return advise(open_run(path))


def wrong(found: list[Finding]) -> list[str]:
    return [f.law for f in found if f.kind == "wrong"]


@pytest.mark.filterwarnings("ignore::strobe.runs.directory.StrobeWarning")
def test_a_learning_rate_over_the_edge_is_named_first_with_the_largest_stable_one(tmp_path: Path) -> None:
    found = advice(trained(str(tmp_path / "r"), lr=60.0))
    assert wrong(found)[0] == "edge of stability"
    numbers = found[0].numbers
    assert numbers["lr"] == 60.0
    assert numbers["largest_stable_lr"] == pytest.approx(2 / numbers["sharpness"], rel=1e-6)
    mended = advice(trained(str(tmp_path / "s"), lr=numbers["largest_stable_lr"] / 8))
    assert not wrong(mended)


def test_a_wide_model_in_the_standard_parametrisation_is_named_by_its_layers(tmp_path: Path) -> None:
    found = advice(trained(str(tmp_path / "r"), width=1536, lr=0.05, adam=True, steps=30))
    assert wrong(found)[0] == "layer moves"
    rows = {r["layer"]: r["relative"] for r in found[0].numbers["layers"]}
    assert rows["2"] > 10 * rows["0"]


def test_initial_values_that_do_not_fit_the_width_are_named(tmp_path: Path) -> None:
    found = advice(trained(str(tmp_path / "r"), width=512, spread=40.0, lr=1e-3, steps=30))
    assert wrong(found)[0] == "layer moves"
    assert found[0].measured.startswith("2: ")


def test_a_run_limited_by_its_data_is_named(tmp_path: Path) -> None:
    found = advice(trained(str(tmp_path / "r"), lr=5e-3, adam=True, distinct=80, steps=400))
    assert wrong(found) == ["held-out loss"]
    assert found[0].numbers["rise"] > 3 * found[0].numbers["err"]


@pytest.mark.parametrize("adam", [False, True])
def test_a_healthy_run_has_nothing_to_complain_about(tmp_path: Path, adam: bool) -> None:
    found = advice(trained(str(tmp_path / "r"), lr=3e-3 if adam else 0.1, adam=adam))
    assert not wrong(found)
    assert {f.law for f in found if f.kind == "obeyed"} >= {"edge of stability", "layer moves", "held-out loss"}


def test_where_no_law_applies_it_says_so_and_why(tmp_path: Path) -> None:
    model = nn.Linear(3, 1)
    with strobe.record(tmp_path / "r", model=model) as rec:  # no optimizer, no loss, no probe
        for _ in range(3):
            rec.step(loss=1.0)
    found = advise(open_run(tmp_path / "r"))
    assert {f.kind for f in found} == {"outside"}
    assert all(f.means for f in found)


def descend(
    out: Path,
    model: nn.Module,
    optimizer: Any,
    data: Any,
    steps: int,
    *,
    schedule: Any = None,
    name: str = "loss",
    **options: Any,
) -> None:
    """A recorded full-batch loop of a user's own."""
    if schedule is not None:
        options["scheduler"] = schedule
    with strobe.record(out, model=model, optimizer=optimizer, **options) as rec:
        for _ in range(steps):
            optimizer.zero_grad()
            value = loss(model, data)
            value.backward()
            optimizer.step()
            if schedule is not None:
                schedule.step()
            rec.step(**{name: value})


def test_an_outside_optimizer_is_said_and_the_other_laws_go_on(tmp_path: Path) -> None:
    model = network(32)
    optimizer = torch.optim.Rprop(model.parameters(), lr=1e-3)
    data = examples(256, 0)
    descend(tmp_path / "r", model, optimizer, data, 20)
    found = advise(open_run(tmp_path / "r"), model=network(32), loss=loss, probe=data)
    said = {f.law: f for f in found}
    assert "Rprop" in said["learning rate"].means
    assert said["layer moves"].kind == "obeyed"


class Reader(nn.Module):
    """Token ids in, a zero-initialised branch beside the stream, small embeddings, ReLU in place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.embed = nn.Embedding(30, 16)
        self.norm = nn.LayerNorm(16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(16, 30)
        with torch.no_grad():
            self.embed.weight.mul_(0.02)
            self.down.weight.zero_()
            self.down.bias.zero_()

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        return self.head(self.norm(x + self.down(self.act(self.up(self.norm(x))))))


def next_token(model: nn.Module, tokens: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


def words(n: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return (torch.randint(30, (n, 1), generator=g) + torch.arange(12) * torch.randint(1, 3, (n, 1), generator=g)) % 30


def test_small_embeddings_zero_branches_in_place_activations_and_schedules_are_not_blamed(tmp_path: Path) -> None:
    model = Reader()
    decayed = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1, "lr": 3e-3}, {"params": rest, "weight_decay": 0.0, "lr": 1e-3}]
    optimizer = torch.optim.AdamW(groups)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda t: min(t / 5, 1.0) * (1 - t / 120)
    )  # from 0 and to 0
    with strobe.record(tmp_path / "r", model=model, optimizer=optimizer, scheduler=schedule) as rec:
        for step in rec.steps(120):
            value = next_token(model, words(32, step))
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            schedule.step()
            rec.step(loss=value)
    found = advise(open_run(tmp_path / "r"), model=Reader(), loss=next_token, probe=words(256, 10_000))
    assert not wrong(found), found[0]
    assert "layer moves" in {f.law for f in found if f.kind == "obeyed"}


@pytest.mark.filterwarnings("ignore::strobe.runs.directory.StrobeWarning")
def test_a_loss_of_another_name_and_one_that_is_no_number_are_seen(tmp_path: Path) -> None:
    model = network(32)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e4)
    data = examples(256, 0)
    descend(tmp_path / "r", model, optimizer, data, 20, name="train_loss", snapshots=1)
    found = advise(open_run(tmp_path / "r"), model=network(32), loss=loss, probe=data)
    assert wrong(found) == ["edge of stability", "finite loss"]


def test_weight_decay_over_the_edge_is_in_the_curvature(tmp_path: Path) -> None:
    """lr · decay = 2.5 > 2: every direction diverges, whatever the loss; plain curvature alone is stable at the start."""
    model = network(32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, weight_decay=5.0)
    data = examples(256, 0)
    descend(tmp_path / "r", model, optimizer, data, 12)
    found = advise(open_run(tmp_path / "r"), model=network(32), loss=loss, probe=data)
    assert wrong(found)[0] == "edge of stability"
    assert "decay 5" in found[0].measured
    assert 0.1 < found[0].numbers["largest_stable_lr"] < 0.4


def test_a_schedule_that_ends_at_zero_keeps_what_was_measured_before(tmp_path: Path) -> None:
    model, data = network(32), examples(256, 0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 40)
    descend(tmp_path / "r", model, optimizer, data, 40, schedule=schedule)
    edge = [
        f
        for f in advise(open_run(tmp_path / "r"), model=network(32), loss=loss, probe=data)
        if f.law == "edge of stability"
    ]
    assert edge
    assert all(f.numbers["lr"] > 0 for f in edge)
