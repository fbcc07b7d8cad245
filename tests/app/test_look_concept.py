"""What the page Concepts asks: the table and the texts token by token, a quick trace, a dose of steering."""

import pytest

from contracts.traces import same, state_of
from strobe.app.look import Kit, look
from strobe.core.errors import BadOption
from strobe.core.snapshot import Snapshot
from toys import letters_world

ON = [f"{a} {b} is red" for a in ("the", "a", "this", "one") for b in ("house", "car", "door", "wall", "ball", "hat")]
OFF = [t.replace("red", "blue") for t in ON]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Snapshot, Kit]:
    return letters_world(tmp_path_factory.mktemp("l") / "r")


def test_the_table_the_texts_and_a_direction_to_steer_by(world: tuple[Snapshot, Kit]) -> None:
    snap, kit = world
    before = state_of(snap)
    got = look("concept", snap, kit, positive=ON, negative=[*OFF, "  "])
    assert same(before, state_of(snap))
    assert got["there"]
    assert got["said"].startswith("There:")
    assert len(got["rows"]) == 14
    assert {t["on"] for t in got["texts"][:5]} == {True}
    assert {t["on"] for t in got["texts"][-5:]} == {False}
    first = got["texts"][0]
    assert len(first["tokens"]) == len(first["text"])
    assert first["tokens"][-1]["score"] == pytest.approx(first["score"], rel=1e-3)
    assert got["monitor"]["rate"] == 0.05
    assert got["monitor"]["caught"][0] > 0.5
    steer = got["steer"]
    dose = look(
        "dose",
        snap,
        kit,
        site=steer["site"],
        edit="steer",
        direction=steer["direction"],
        by=steer["gap"],
        doses=[-1.0, 0.0, 1.0],
    )
    assert dose["loss"][1] == dose["base"]["value"] != dose["loss"][2]
    quick = look("concept", snap, kit, positive=ON, negative=OFF, whole=False)
    assert quick["sites"] == ["blocks.0", "blocks.1"]
    assert quick["line"][1] > 0.9


def test_bad_input_is_said_clearly(world: tuple[Snapshot, Kit]) -> None:
    snap, kit = world
    with pytest.raises(BadOption, match="no tokenizer"):
        look("concept", snap, Kit(), positive=ON, negative=OFF)
    with pytest.raises(BadOption, match="list of at most 400 texts"):
        look("concept", snap, kit, positive="red", negative=OFF)
    with pytest.raises(BadOption, match="9 examples of one kind"):
        look("concept", snap, kit, positive=ON[:9], negative=OFF)
    with pytest.raises(BadOption, match="9 inputs with the concept"):
        look("concept", snap, kit, positive=ON[:9], negative=OFF, whole=False)
    with pytest.raises(BadOption, match="needs its direction and by"):
        look("dose", snap, kit, site="blocks.0", edit="steer", direction=[1.0] * 16)
    with pytest.raises(BadOption, match="only a dose of steer"):
        look("dose", snap, kit, site="blocks.0", by=1.0)
