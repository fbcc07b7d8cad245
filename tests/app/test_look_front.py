"""Trait and loss at several doses: by hand text for text, unchanged at dose 0, moved by the direction of the unembedding."""

import pytest
import torch

from contracts.traces import same, state_of
from strobe.app.look import Kit, look
from strobe.core.errors import BadOption
from strobe.core.snapshot import Snapshot
from toys import letters_world

ON = [f"{a} {b}" for a in ("the", "a", "this") for b in ("house", "car", "door")]
OFF = [t.replace("e", "z") + "x" for t in ON]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Snapshot, Kit]:
    return letters_world(tmp_path_factory.mktemp("l") / "r")


def by_hand(snap: Snapshot, kit: Kit, texts: list[str]) -> float:
    assert kit.encode is not None
    means = []
    for text in texts:
        x = torch.tensor([kit.encode(text)])
        with torch.no_grad():
            p = snap.model.eval()(x)[0].double().softmax(-1)
        means.append(sum(float(p[i, x[0, i + 1]].log()) for i in range(x.shape[1] - 1)) / (x.shape[1] - 1))
    return sum(means) / len(means)


def test_the_trait_is_the_likelihood_of_one_kind_less_the_other(world: tuple[Snapshot, Kit]) -> None:
    snap, kit = world
    before = state_of(snap)
    got = look("front", snap, kit, positive=[*ON, " "], negative=OFF)
    assert same(before, state_of(snap))
    assert got["trait"][0] == pytest.approx(by_hand(snap, kit, ON) - by_hand(snap, kit, OFF), abs=1e-4)
    assert got["doses"] == [0.0]
    assert len(got["on"][0]) == len(got["off"][0]) == 9
    assert sum(got["each"][0]) / len(got["each"][0]) == pytest.approx(got["loss"][0], rel=1e-4)
    assert got["control"] is None
    assert got["trait_err"][0] > 0
    assert got["loss_err"][0] > 0


def test_steering_moves_the_trait_and_zero_does_not(world: tuple[Snapshot, Kit]) -> None:
    snap, kit = world
    assert kit.encode is not None
    weight = dict(snap.model.named_parameters())["head.weight"]  # of e against z, which tells the texts apart
    toward = (weight[kit.encode("e")[0]] - weight[kit.encode("z")[0]]).tolist()
    got = look(
        "front", snap, kit, positive=ON, negative=OFF, site="blocks.1", direction=toward, by=3.0, doses=[-1.0, 0.0, 1.0]
    )
    plain = look("front", snap, kit, positive=ON, negative=OFF)
    assert got["trait"][1] == plain["trait"][0] == got["control"]["trait"][1]
    assert got["loss"][1] == plain["loss"][0]
    assert got["trait"][0] < got["trait"][1] < got["trait"][2]
    wild = [
        look(
            "front",
            snap,
            kit,
            positive=ON,
            negative=OFF,
            site="blocks.1",
            direction=toward,
            by=3.0,
            doses=[1.0],
            seed=i,
        )
        for i in range(8)
    ]
    moved = [abs(w["control"]["trait"][0] - plain["trait"][0]) for w in wild]
    assert 0 < sum(moved) / 8 < got["trait"][2] - got["trait"][1]


def test_bad_input_is_said_clearly(world: tuple[Snapshot, Kit]) -> None:
    snap, kit = world
    with pytest.raises(BadOption, match="no tokenizer"):
        look("front", snap, Kit(), positive=ON, negative=OFF)
    with pytest.raises(BadOption, match="give site, direction and by"):
        look("front", snap, kit, positive=ON, negative=OFF, site="blocks.0")
    with pytest.raises(BadOption, match="a dose needs its site"):
        look("front", snap, kit, positive=ON, negative=OFF, doses=[1.0])
    with pytest.raises(BadOption, match="a text of each kind"):
        look("front", snap, kit, positive=[" "], negative=OFF)
    with pytest.raises(BadOption, match="one token"):
        look("front", snap, kit, positive=["a"], negative=OFF)
