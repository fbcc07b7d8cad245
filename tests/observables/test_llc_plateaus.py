from typing import Any

import numpy as np
import pytest

from strobe.core.errors import BadOption
from strobe.observables.llc_plateaus import llc_plateaus

STEPS = np.unique(np.round(np.logspace(0, 4, 40)))


def stairs(seed: int, noise: float = 0.03) -> dict[str, Any]:
    """Two steps up at 10 and 1000: one plateau between them, around 100, and one at each end."""
    x = np.log10(STEPS)
    y = np.tanh((x - 1) / 0.25) + np.tanh((x - 3) / 0.25)
    return {"llc": (STEPS, y + noise * np.random.default_rng(seed).standard_normal(len(x)), np.full(len(x), noise))}


def test_the_plateaus_before_between_and_after_two_rises_have_four_edges() -> None:
    """|d tanh(u/¼)/du| falls below a quarter of the range, 1 per decade, at u = ± ¼ arccosh 2 = ± 0.33 from each rise."""
    found = llc_plateaus(stairs(0), width=0.1)
    rows = found.how["boundaries"]
    assert [b["kind"] for b in rows] == ["plateau ends", "plateau begins", "plateau ends", "plateau begins"]
    assert np.log10(found.value) == pytest.approx([0.67, 1.33, 2.67, 3.33], abs=0.12)
    assert all(b["sure"] > 0.9 for b in rows)
    assert len(found.how["plateaus"]) == 3


def test_a_hump_and_a_dip_are_named() -> None:
    x = np.log10(STEPS)
    y = np.sin(x * np.pi / 2)  # up to 10, down to 1000
    found = llc_plateaus({"llc": (STEPS, y, np.full(len(x), 0.01))}, within=0.25)
    assert [b["kind"] for b in found.how["boundaries"]] == ["maximum", "minimum"]
    assert np.log10(found.value) == pytest.approx([1, 3], abs=0.1)


def test_err_is_honest_over_seeds() -> None:
    found = [llc_plateaus(stairs(seed, 0.06), least=0.0).how["boundaries"] for seed in range(8)]
    for at in (1.33, 2.67):
        near = [min(f, key=lambda b: abs(np.log10(b["step"]) - at)) for f in found]
        assert np.std([np.log10(b["step"]) for b in near]) <= 2 * np.mean([b["decades"] for b in near])


def test_large_errs_of_the_readings_move_it_more() -> None:
    sharp, vague = stairs(3, 0.01), stairs(3, 0.01)
    vague["llc"] = (*vague["llc"][:2], np.full(len(STEPS), 0.15))
    rows = [
        min(llc_plateaus(s, least=0.0).how["boundaries"], key=lambda b: abs(np.log10(b["step"]) - 1.33))
        for s in (sharp, vague)
    ]
    assert rows[1]["decades"] > 1.3 * rows[0]["decades"]


def test_a_trace_without_plateau_has_none_and_bad_input_is_refused() -> None:
    x = np.log10(STEPS)
    assert len(llc_plateaus({"llc": (STEPS, x, 0 * x + 1e-3)}).value) == 0
    with pytest.raises(BadOption, match="6 finite readings"):
        llc_plateaus({"llc": (STEPS[:4], STEPS[:4], STEPS[:4])})
    with pytest.raises(BadOption, match="no range"):
        llc_plateaus({"llc": (STEPS, 0 * x, 0 * x)})
    with pytest.raises(BadOption, match="flat, width, within"):
        llc_plateaus(stairs(0), flat=0)
