from collections.abc import Callable
from typing import Any

import torch

from strobe.core.report import Report
from strobe.studies.diffusion import denoising, diffusion


def test_the_local_machine_is_nearer_than_every_rival_and_the_nulls_fail(tiny: Callable[[Any], Report]) -> None:
    report = tiny(diffusion)
    for v in report.verdicts:
        if "must fail" in v.predicted.of:
            assert v.word == "fails", str(v)
    made = {row["machine"]: row["r²"] for row in report.tables["images made from one noise, convolutions"]}
    assert made.pop("the local machine, places shared") > max(made.values()) + 0.05
    noisy = report.tables["outputs by noise level, convolutions"][-1]
    assert noisy["r²"] > max(noisy["ideal"], noisy["places not shared"], noisy["mean image"])
    fields = {row["network"]: row["receptive field"] for row in report.tables["receptive fields"]}
    assert fields == {"convolutions": 5, "perceptron": 15}


def test_the_weighted_loss_of_what_it_sees_is_that_of_the_wiener_filter() -> None:
    """With an inner network of zeros, x̂ = a y (pixels of variance 1): its squared error over 1 − a² is 1."""
    world = denoising(width=4, levels=3)
    model = world.build(0)
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    losses = [world.loss(model, world.batch(0, t)).item() for t in range(30)]
    assert abs(sum(losses) / 30 - 1) < 0.05
