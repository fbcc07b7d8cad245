import pytest
import torch

from strobe.core.errors import BadOption
from strobe.systems.cue_parity import cue_parity


@pytest.mark.parametrize(("mix", "share"), [(1.0, 1.0), (0.5, 0.75), (0.0, 0.5)])
def test_the_cue_is_right_as_often_as_it_says(mix: float, share: float) -> None:
    world = cue_parity(mix=mix, rows=4000)
    for x, y in (world.facts["rows"], world.probe(0)):
        assert torch.equal(y, (x[:, 1] * x[:, 2] < 0).float())
        assert float(((x[:, 0] < 0) == (y > 0)).float().mean()) == pytest.approx(share, abs=0.08)
    x, y = world.facts["conflict"]
    assert torch.equal(y, (x[:, 1] * x[:, 2] < 0).float())
    assert not ((x[:, 0] < 0) == (y > 0)).any()


def test_what_is_held_out_is_another_draw_and_batches_are_of_the_rows() -> None:
    world = cue_parity(rows=64)
    known = {tuple(r) for r in world.facts["rows"][0].tolist()}
    assert {tuple(r) for r in world.batch(0, 3)[0].tolist()} <= known
    assert not torch.equal(world.probe(0)[0], world.probe(1)[0])


def test_bad_knobs_are_said() -> None:
    with pytest.raises(BadOption, match="0 <= mix <= 1"):
        cue_parity(mix=1.5)
