from collections.abc import Callable
from typing import Any

import torch

from strobe.core.report import Report
from strobe.studies.concept_methods import concept_methods, planted


def test_lines_and_bends_are_told_apart(tiny: Callable[[Any], Report]) -> None:
    report = tiny(concept_methods)
    by = {r["concept"]: r for r in report.tables["area on fresh rows"]}
    assert by["even"]["rfm"] > by["even"]["kernel"] > by["even"]["logistic"] + 0.1
    assert abs(by["shuffled"]["rfm"] - 0.5) < 0.1
    assert next(v for v in report.verdicts if "null" in v.predicted.of).word == "fails"


def test_the_planted_concepts_are_what_they_say() -> None:
    for kind, (low, high) in {
        "even": (0.45, 0.55),
        "xor": (0.45, 0.55),
        "ring": (0.45, 0.55),
        "shift": (0.45, 0.55),
    }.items():
        X, y, plane = planted(kind, 4000, 64, 0)
        assert low < float((y > 0).float().mean()) < high
        assert torch.allclose(plane.T @ plane, torch.eye(plane.shape[1]), atol=1e-5)
        p = X @ plane
        line = (p[y > 0].mean(0) - p[y < 0].mean(0)).norm() / p.std()
        assert float(line) > 1 if kind == "shift" else float(line) < 0.15
