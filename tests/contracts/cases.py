"""One case per entry of the catalogue: what the contracts run on. An entry without a case fails the contracts."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import nn

from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot
from strobe.systems.attention_language import AttentionOnly
from strobe.systems.deep_linear import deep_linear

VOCAB, CONTEXT = 24, 12


@dataclass(frozen=True)
class Look:
    """A snapshot observable on a population: `at(seed)` is the same network on another sample of data."""

    at: Callable[[int], Snapshot]
    options: dict[str, Any] = field(default_factory=dict)
    seeded: bool = False  # has it randomness of its own, besides the data?
    takes_noise: bool = True  # does another sample of data give another number?
    share: float = 1.0  # the share of entries of an array that must be honest


@cache
def language() -> nn.Module:
    torch.manual_seed(1)
    return AttentionOnly(VOCAB, CONTEXT, 16, 2, 2, "rotary", 2, False)


def tokens(seed: int) -> torch.Tensor:
    """Text in which the next token is the last one plus 1, or anything."""
    g = torch.Generator().manual_seed(seed)
    steps = torch.where(torch.rand(48, CONTEXT, generator=g) < 0.7, 1, torch.randint(VOCAB, (48, CONTEXT), generator=g))
    return torch.cat([torch.randint(VOCAB, (48, 1), generator=g), steps], 1).cumsum(1) % VOCAB


def reads(seed: int) -> Snapshot:
    def loss(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())

    return Snapshot(language(), loss, tokens(seed))


@cache
def small() -> nn.Module:
    torch.manual_seed(2)
    return nn.Sequential(nn.Linear(5, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Dropout(0.2), nn.Linear(12, 1)).train()


def on_or_off(seed: int) -> Snapshot:
    x = torch.randn(120, 5, generator=torch.Generator().manual_seed(seed))
    noise = torch.randn(120, generator=torch.Generator().manual_seed(seed + 1000))
    return Snapshot(small(), lambda m, d: m(d[0]).square().mean(), (x, (x[:, 0] + noise > 0).int()))


def fits(seed: int, n: int = 256) -> Snapshot:
    x = torch.randn(n, 5, generator=torch.Generator().manual_seed(seed))
    return Snapshot(small(), lambda m, d: (m(d[0]).squeeze(-1) - d[1]).square().mean(), (x, x.sin().sum(1) + 0.3))


@cache
def classifier() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 10), nn.Tanh(), nn.Linear(10, 3))


def classifies(seed: int) -> Snapshot:
    g = torch.Generator().manual_seed(seed)
    y = torch.arange(240) % 3
    x = torch.randn(240, 4, generator=g) + 2 * torch.eye(4)[y]
    return Snapshot(classifier(), lambda m, d: nn.functional.cross_entropy(m(d[0]), d[1]), (x, y))


@cache
def second() -> nn.Module:
    torch.manual_seed(4)
    return nn.Sequential(nn.Linear(4, 10), nn.Tanh(), nn.Linear(10, 3))


@cache
def taught(seed: int) -> nn.Module:
    """A classifier that has learned its task."""
    torch.manual_seed(seed)
    net, snap = nn.Sequential(nn.Linear(4, 10), nn.Tanh(), nn.Linear(10, 3)), classifies(100)
    optimizer = torch.optim.Adam(net.parameters(), lr=0.03)
    for _ in range(100):
        optimizer.zero_grad()
        snap.loss(net, snap.data).backward()
        optimizer.step()
    optimizer.zero_grad()
    return net


def linear(seed: int) -> Snapshot:
    world = deep_linear(dim=4, width=5, singular_values=(2.0, 1.0), start=0.3)
    return Snapshot(world.build(0), world.loss, world.probe(seed))


@cache
def valley() -> Snapshot:
    """A least-squares fit at its minimum."""
    x = torch.randn(128, 4, generator=torch.Generator().manual_seed(0))
    y = x.sum(1) + 0.3 * x[:, 0].sin()
    net = nn.Linear(4, 1, bias=False)
    with torch.no_grad():
        net.weight.copy_(torch.linalg.lstsq(x, y[:, None]).solution.T)
    return Snapshot(net, lambda m, d: (m(d[0]).squeeze(-1) - d[1]).square().mean(), (x, y))


@cache
def denoises() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Conv2d(1, 6, 3, padding=1), nn.Tanh(), nn.Conv2d(6, 1, 3, padding=1))


def noisy(seed: int) -> Snapshot:
    return Snapshot(
        denoises(),
        lambda m, d: m(d).square().mean(),
        torch.randn(48, 1, 8, 8, generator=torch.Generator().manual_seed(seed)),
    )


def sticky(seed: int) -> Snapshot:
    """A stream of 4 tokens in which each is the one before it or anything: |C(n)| = 0.7^n / 4 in the operator norm."""
    g = torch.Generator().manual_seed(seed)
    at = torch.arange(20_000)
    first = torch.where(torch.rand(20_000, generator=g) < 0.7, torch.zeros_like(at), at).cummax(0).values
    return Snapshot(small(), lambda m, d: m(d).sum(), torch.randint(4, (20_000,), generator=g)[first])


def plane(n: int, scale: float) -> tuple[torch.Tensor, torch.Tensor]:
    x = scale * torch.randn(n, 4, generator=torch.Generator().manual_seed(n))
    return x, x.sum(1) + 0.3 * x[:, 0].sin()


FRAME = deep_linear(dim=4, width=5, singular_values=(2.0, 1.0)).facts
ONES = {k: torch.full_like(p, 2.0) for k, p in fits(0).params().items()}

OBSERVABLES: dict[str, Look] = {
    "token_loss": Look(reads),
    "loss_by_position": Look(reads),
    "ngram_kl": Look(
        reads,
        {"log_probs": torch.log_softmax(torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(0)), -1)},
    ),
    "in_context_score": Look(reads),
    "previous_token_score": Look(reads),
    "induction_score": Look(reads, seeded=True),
    "prefix_matching_score": Look(reads, seeded=True),
    "sharpness": Look(lambda seed: fits(0), seeded=True, takes_noise=False),
    "preconditioned_sharpness": Look(lambda seed: fits(0), {"preconditioner": ONES}, seeded=True, takes_noise=False),
    "spectral_density": Look(
        lambda seed: fits(0),
        {"probes": 6, "steps": 20, "span": (-1.0, 4.0), "width": 0.1, "points": 60},
        seeded=True,
        takes_noise=False,
    ),
    "hessian_trace": Look(lambda seed: fits(0), {"vectors": 8}, seeded=True, takes_noise=False),
    "hessian_diagonal": Look(lambda seed: fits(0), {"sketch": 5}, seeded=True, takes_noise=False, share=0.98),
    "block_sharpness": Look(lambda seed: fits(0), seeded=True, takes_noise=False),
    "neural_collapse": Look(classifies, {"classifier": "2"}),
    "cka": Look(
        lambda seed: classifies(0), {"other": replace(classifies(0), model=second()), "sites": ["1"]}, seeded=True
    ),
    "mutual_neighbours": Look(
        lambda seed: classifies(0), {"other": replace(classifies(0), model=second()), "sites": ["1"]}, seeded=True
    ),
    "mode_connectivity": Look(
        lambda seed: replace(classifies(seed), model=taught(5)),
        {"other": replace(classifies(0), model=taught(6)), "match": ["0", "2"]},
    ),
    "effective_rank": Look(classifies, {"sites": ["1"]}),
    "weight_spectrum": Look(classifies, {"matrices": ["0.weight"]}, takes_noise=False),
    "gradient_covariance": Look(fits, {"chunks": 64, "k": 2}, seeded=True),
    "gradient_noise": Look(fits, {"chunks": 32}, seeded=True),
    "llc": Look(lambda seed: valley(), {"budget": 300, "batch": 32, "chains": 8}, seeded=True, takes_noise=False),
    "refined_llc": Look(
        lambda seed: valley(),
        {"parts": {"all": "*", "two": "weight"}, "budget": 300, "batch": 32, "gamma": 5.0},
        seeded=True,
        takes_noise=False,
    ),
    "susceptibilities": Look(
        lambda seed: valley(),
        {
            "probes": {"other": plane(64, 2.0), "less": plane(48, 0.3)},
            "parts": {"all": "*", "two": ":param.weight/2@1[0]"},
            "nbeta": 100.0,
            "gamma": 5.0,
            "budget": 400,
            "batch": 32,
        },
        seeded=True,
        takes_noise=False,
    ),
    "influence": Look(
        lambda seed: valley(),
        {
            "examples": plane(12, 1.0),
            "queries": plane(9, 1.0),
            "nbeta": 100.0,
            "gamma": 5.0,
            "budget": 400,
            "chains": 16,
        },
        seeded=True,
        takes_noise=False,
    ),
    "rlct": Look(lambda seed: valley(), {"budget": 300, "chains": 8}, seeded=True, takes_noise=False),
    "posterior_variance": Look(
        lambda seed: valley(), {"budget": 400, "batch": 32, "chains": 16}, seeded=True, takes_noise=False
    ),
    "wbic": Look(lambda seed: valley(), {"budget": 300, "batch": 32, "chains": 8}, seeded=True, takes_noise=False),
    "waic": Look(lambda seed: valley(), {"budget": 300, "chains": 16}, seeded=True, takes_noise=False),
    "singular_fluctuation": Look(lambda seed: valley(), {"budget": 300, "chains": 16}, seeded=True, takes_noise=False),
    "feature_ansatz": Look(fits, {"layers": ["0", "4"]}),
    "weight_norms": Look(fits, takes_noise=False),
    "readability": Look(on_or_off, {"site": "0"}, seeded=True),
    "branch_coherence": Look(
        lambda seed: fits(seed, 256),
        {"branches": ["0", "2"], "start": {n: 0.5 * p.detach() for n, p in small().named_parameters()}},
    ),
    "update_spectrum": Look(
        fits, {"start": {"0.weight": torch.zeros(12, 5), "4.weight": torch.zeros(1, 12)}}, takes_noise=False
    ),
    "kernel_alignment": Look(lambda seed: fits(seed, 48)),
    "signal_propagation": Look(lambda seed: fits(seed, 48), {"sites": ["0", "2"]}),
    "ntk": Look(lambda seed: fits(0, 12), {"probes": None}, takes_noise=False),
    "token_correlation": Look(sticky, {"distances": [1, 2, 4]}),
    "receptive_field": Look(noisy, takes_noise=False),
    "local_score_match": Look(
        noisy,
        {"data": torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(9)), "patch": 3, "signal": 0.6},
        seeded=True,
    ),
    "interaction_energy": Look(
        lambda seed: fits(0), {"bits": 5, "sets": {"a": [0], "b": [1, 2]}, "clip": 0.3}, takes_noise=False
    ),
    "mode_strengths": Look(linear, {"left": FRAME["left"], "right": FRAME["right"]}, takes_noise=False),
    "balancedness": Look(linear, {"layers": ["0", "1"]}, takes_noise=False),
    "rescale_charges": Look(linear, {"layers": ["0", "1"]}, takes_noise=False),
}
OF_RUNS = {
    "stages": "tests/observables/test_stages.py",
    "trajectory_pca": "tests/observables/test_trajectory_pca.py",
    "essential_dynamics": "tests/observables/test_essential_dynamics.py",
    "vertices": "tests/observables/test_vertices.py",
    "llc_plateaus": "tests/observables/test_llc_plateaus.py",
    "boundary_agreement": "tests/observables/test_boundary_agreement.py",
    "best_learning_rate": "tests/observables/test_width_scaling.py",
    "coordinate_check": "tests/observables/test_width_scaling.py",
}


@dataclass(frozen=True)
class Said:
    """A law: knobs it takes, knobs it must refuse, and a measurement that refutes it."""

    good: dict[str, Any]
    bad: list[dict[str, Any]]
    refuted_by: Reading


LAWS: dict[str, Said] = {
    "edge_of_stability": Said(
        {"lr": 0.1}, [{"lr": 0}, {"lr": -1}, {"lr": float("nan")}, {"lr": 0.1, "optimizer": "sgdd"}, {"lr": 0.1, "momentum": 0.9}],
        Reading(26.0, 0.1),
    ),
    "ngram_floor": Said(
        {"order": 2, "entropy": 3.6, "err": 0.02},
        [{"order": 3, "entropy": 3.6, "err": 0.02}, {"order": 2, "entropy": -1, "err": 0.02}, {"order": 2, "entropy": 3.6, "err": -1}],
        Reading(2.9, 0.05),
    ),
    "normal_crossing_rlct": Said(
        {"exponents": [2, 2]}, [{"exponents": []}, {"exponents": [3]}, {"exponents": [2], "rtol": 0}], Reading(1.0, 0.01)
    ),
    "weighted_rlct": Said(
        {"weights": [0.25, 1 / 6], "vanishing": 2}, [{"weights": []}, {"weights": [-1.0]}, {"weights": [0.5], "vanishing": 1}],
        Reading(1.0, 0.01),
    ),
    "sum_rlct": Said(
        {"parts": [0.5, 0.25], "multiplicities": [2, 1]}, [{"parts": []}, {"parts": [0.0]}, {"parts": [0.5], "multiplicities": [0]}],
        Reading(1.5, 0.01),
    ),
    "tanh_rlct": Said({"hidden": 4}, [{"hidden": 0}, {"hidden": 2.5}, {"hidden": 2, "of": "lambda"}], Reading(4.0, 0.01)),
    "reduced_rank_rlct": Said(
        {"widths": [5, 3, 5], "rank": 1}, [{"widths": [5, 3]}, {"widths": [5, 3, 5], "rank": 4}, {"widths": [5, 0, 5]}], Reading(15.0, 0.1)
    ),
    "deep_linear_rlct": Said(
        {"widths": [3, 3, 3, 3], "rank": 1}, [{"widths": [3]}, {"widths": [3, 3], "rank": -1}, {"widths": [3, 1.5, 3]}], Reading(13.5, 0.1)
    ),
    "linear_fibre_rlct": Said(
        {"widths": [6, 4, 5, 3], "layers": [2]}, [{"widths": [6]}, {"widths": [6, 4, 5, 3], "layers": [4]}], Reading(10.0, 0.1)
    ),
    "newton_rlct": Said(
        {"exponents": [[2, 0], [0, 2]]}, [{"exponents": []}, {"exponents": [[0, 0]]}, {"exponents": [[2], [1, 1]]}], Reading(0.5, 0.01)
    ),
    "regular_rlct": Said({"directions": 2}, [{"directions": 0}, {"directions": 1.5}], Reading(0.41, 0.01)),  # (w1 w2)^2
    "quadratic_llc": Said(
        {"curvatures": [0.0, 0.0], "nbeta": 1e4, "gamma": 1.0},
        [{"curvatures": [-1.0], "nbeta": 1.0, "gamma": 1.0}, {"curvatures": [1.0], "nbeta": 0.0, "gamma": 1.0}], Reading(0.41, 0.01),
    ),
    "deep_linear_modes": Said(
        {"singular_values": [2.0, 1.0], "start": 0.01, "lr": 0.01, "steps": [0, 200, 1000]},
        [{"singular_values": [], "start": 0.01, "lr": 0.01, "steps": [0]}, {"singular_values": [2.0], "start": 0, "lr": 0.01, "steps": [0]},
         {"singular_values": [2.0], "start": 0.1, "lr": 5.0, "steps": [0]}],
        Reading(np.array([[0.01, 0.01], [2.0, 1.0], [2.0, 1.0]]), np.zeros((3, 2))),
    ),
    "mode_half_times": Said(
        {"singular_values": [2.0, 1.0], "starts": [0.01, 0.02], "lr": 0.01},
        [{"singular_values": [2.0], "starts": [0.01, 0.02], "lr": 0.01}, {"singular_values": [2.0], "starts": [0.2], "lr": 0.01},
         {"singular_values": [2.0], "starts": [0.01], "lr": 0.5}, {"singular_values": [2.0], "starts": [0.0], "lr": 0.1}],
        Reading(np.array([100.0, 250.0]), np.full(2, 0.5)),
    ),
    "superposition_loss": Said(
        {"corners": 5}, [{"corners": 1}, {"corners": 7}, {"corners": 5, "plus": 2}, {"corners": 5, "rtol": 0.0}], Reading(0.0309, 1e-4)
    ),
    "superposition_llc": Said(
        {"corners": 5}, [{"corners": 3}, {"corners": 5, "plus": 1, "features": 7}, {"corners": 5, "rtol": 0.0}], Reading(8.5, 0.1)
    ),
    "superposition_phase_change": Said(
        {"first": (5, 0), "second": (6, 0)},
        [{"first": (4, 0), "second": (5, 0)}, {"first": (6, 0), "second": (5, 0)}, {"first": (5, 0), "second": (6, 0), "factor": 1.0}],
        Reading(5.5, 0.1),
    ),
    "free_energy": Said(
        {"n": [100, 1000], "rlct": 1.5}, [{"n": [100], "rlct": 1.5}, {"n": [100, 1000], "rlct": 0.0}, {"n": [2, 5], "rlct": 1.0}],
        Reading(np.array([9.2]), np.array([0.1])),
    ),
    "phase_gap": Said(
        {"n": 1000, "first": (0.03, 2.0), "second": (0.02, 3.0)},
        [{"n": 1, "first": (0.03, 2.0), "second": (0.02, 3.0)}, {"n": 10, "first": (0.03, -2.0), "second": (0.02, 3.0)}],
        Reading(-3.0, 0.1),
    ),
    "phase_change": Said(
        {"first": (0.03, 2.0), "second": (0.02, 3.0)},
        [{"first": (0.02, 2.0), "second": (0.03, 3.0)}, {"first": (0.03, 3.0), "second": (0.02, 3.0)},
         {"first": (0.03, 2.0), "second": (0.02, 3.0), "factor": 1.0}],
        Reading(9.0, 0.1),
    ),
    "bayes_generalization": Said(
        {"n": [200, 3200], "rlct": 3.5}, [{"n": [200], "rlct": 0}, {"n": [], "rlct": 1.0}, {"n": [200], "rlct": 1.0, "multiplicity": 0}],
        Reading(np.array([6.0, 6.0]), np.array([0.1, 0.1])),
    ),
    "regular_generalization": Said(
        {"n": [200, 3200], "parameters": 12}, [{"n": [200], "parameters": 0}, {"n": [1], "parameters": 2}],
        Reading(np.array([3.5, 3.5]), np.array([0.1, 0.1])),
    ),
    "incontext_predictors": Said(
        {"predictor": "dmmse", "tasks": [[1.0, 0.0], [0.0, -1.0]], "length": 3, "noise": 0.1},
        [{"predictor": "dmmse", "dimension": 2, "length": 3, "noise": 0.1}, {"dimension": 2, "length": 3, "noise": 0},
         {"predictor": "lasso", "dimension": 2, "length": 3, "noise": 0.1}],
        Reading(np.array([1.1, 0.9, 0.8]), np.full(3, 0.01)),
    ),
    "ridge_crossing": Said(
        {"tasks": [[1.0, 0.0], [0.0, -1.0]], "length": 4, "noise": 0.2, "rise": 30.0},
        [{"tasks": [[1.0, 0.0]], "length": 4, "noise": 0.2, "rise": 0.0}, {"tasks": [1.0], "length": 4, "noise": 0.2, "rise": 3.0}],
        Reading(9.0, 0.1),
    ),
    "charge_change": Said(
        {"lr": 0.1, "spent": [0.5, -0.2]}, [{"lr": 0, "spent": [1.0]}, {"lr": 0.1, "spent": []}, {"lr": 0.1, "spent": [float("nan")]}],
        Reading(np.array([0.0, 0.0]), np.zeros(2)),
    ),
    "charge_drift_order": Said({"rates": [0.1, 0.05]}, [{"rates": [0.1]}, {"rates": [0.1, -0.1]}], Reading(2.0, 0.1)),
    "diagonal_net_bias": Said(
        {"x": [[1.0, 2.0]], "y": [1.0], "alpha": 1e-3},
        [{"x": [[1.0, 2.0]], "y": [1.0], "alpha": 0.0}, {"x": [[1.0, 2.0], [2.0, 4.0]], "y": [1.0, 2.0], "alpha": 0.1},
         {"x": [[1.0]], "y": [1.0], "alpha": 0.1}, {"x": [[1.0, 2.0]], "y": [1.0, 2.0], "alpha": 0.1}],
        Reading(np.array([0.2, 0.4]), np.full(2, 1e-4)),  # least |β|₂
    ),
    "alternating_gradient_flow": Said(
        {"x": [[2.0, 0.0], [0.0, 1.0]], "y": [2.0, 1.0], "alpha": 1e-8},
        [{"x": [[1.0]], "y": [1.0], "alpha": 0.1}, {"x": [[1.0]], "y": [1.0], "alpha": 1e-8, "of": "time"},
         {"x": [[1.0]], "y": [0.0], "alpha": 1e-8}, {"x": [[1.0]], "y": [1.0], "alpha": 1e-8, "until": 0.1}],
        Reading(np.array([3.0, 6.0]), np.full(2, 0.01)),
    ),
    "max_margin": Said(
        {"x": [[2.0, 1.0], [2.0, -1.0]], "y": [1, 1]},
        [{"x": [[1.0], [1.0]], "y": [1, -1]}, {"x": [[1.0]], "y": [0]}, {"x": [[1.0]], "y": [1], "of": "margin"},
         {"x": [[1.0]], "y": [1], "rtol": 0.0}],
        Reading(np.array([0.0, 0.0]), np.full(2, 0.01)),
    ),
    "feature_collapse": Said(
        {"classes": 4, "weight_decay": 5e-3},
        [{"classes": 1, "weight_decay": 0.1}, {"classes": 4, "weight_decay": 0.0}, {"classes": 4, "weight_decay": 0.1, "width": 2},
         {"classes": 4, "weight_decay": 0.3, "of": "cosine"}, {"classes": 4, "weight_decay": 0.1, "of": "angle"}],
        Reading(0.12, 1e-4),
    ),
    "shared_representation": Said(
        {"widths": [16, 64]}, [{"widths": []}, {"widths": [64, 16]}, {"widths": [16], "margin": -1.0}],
        Reading(np.array([0.0, 0.01]), np.full(2, 0.01)),
    ),
    "matched_connectivity": Said(
        {"widths": [16, 64]}, [{"widths": [0]}, {"widths": [16], "drop": 1.0}], Reading(np.array([1.0, 1.1]), np.full(2, 0.1))
    ),
    "spectrum_outliers": Said(
        {"classes": 10, "widths": [64]},
        [{"classes": 10, "widths": [16]}, {"classes": 1, "widths": [64]}, {"classes": 10, "widths": [64], "slack": 9}],
        Reading(np.array([0.0]), np.zeros(1)),
    ),
    "quadratic_addition": Said(
        {"p": 31, "widths": [31, 62]}, [{"p": 33, "widths": [62]}, {"p": 31, "widths": [5]}, {"p": 31, "widths": []}],
        Reading(np.array([0.9, 1.0]), np.full(2, 0.01)),
    ),
    "word_embedding_modes": Said(
        {"eigenvalues": [2.0, 1.0], "starts": [0.01, 0.02], "lr": 0.01},
        [{"eigenvalues": [1.0, 2.0], "of": "share"}, {"eigenvalues": [2.0], "starts": [0.5], "lr": 0.01}, {"eigenvalues": [2.0]},
         {"eigenvalues": [2.0], "starts": [0.01], "lr": 0.1}, {"eigenvalues": [2.0], "of": "span"}],
        Reading(np.array([100.0, 250.0]), np.full(2, 0.5)),
    ),
    "catapult": Said(
        {"lr": 0.3, "kernel": 10.0},
        [{"lr": 0.0, "kernel": 1.0}, {"lr": 1.0, "kernel": 1.0}, {"lr": 4.0, "kernel": 1.0, "of": "converged"}],
        Reading(10.0, 0.1),  # gradient flow leaves the kernel where it was
    ),
    "wide_kernel": Said(
        {"inputs": [[1.0, 0.0], [0.5, 0.5]], "depth": 1, "width": 100, "nets": 4},
        [{"inputs": [[1.0]], "depth": 1, "width": 1, "nets": 1}, {"inputs": [1.0], "depth": 1, "width": 10, "nets": 1},
         {"inputs": [[1.0]], "depth": 1, "width": 10, "nets": 1, "activation": "tanh"}],
        Reading(0.4, 1e-5),
    ),
    "kernel_spread": Said({"widths": [64, 256]}, [{"widths": [64]}, {"widths": [0, 64]}], Reading(-1.0, 0.05)),  # the order of the bias
    "kernel_fluctuation": Said(
        {"widths": [64] * 6}, [{"widths": []}, {"widths": [1, 64]}, {"widths": [16] * 4}], Reading(1.0, 0.01)  # it does not vary
    ),
    "depth_fluctuation": Said(
        {"widths": [64] * 8}, [{"widths": []}, {"widths": [64, 32], "branch": 0.5}, {"widths": [64], "outputs": 0}],
        Reading(0.078, 0.01),  # that of one layer
    ),
    "residual_growth": Said(
        {"depths": [4, 16], "branch": 0.5},
        [{"depths": [], "branch": 0.5}, {"depths": [4], "branch": 0.3}, {"depths": [4, 64], "branch": 0.0},
         {"depths": [4], "branch": 1.0, "rtol": 0}],
        Reading(np.array([1.28, 1.06]), np.full(2, 0.01)),  # of branches scaled by 1/L
    ),
    "depth_slope": Said(
        {"depths": [4, 8, 16], "branch": 1.0, "rate": 0.0},
        [{"depths": [4, 16], "branch": 1.0, "rate": 0.0}, {"depths": [4, 8, 16], "branch": 1.0, "rate": 0.5},
         {"depths": [4, 8, 16], "branch": 0.5, "rate": 0.5, "tol": 0.0}],
        Reading(1.0, 0.02),  # without a rule
    ),
    "depth_transfer": Said(
        {"depths": [4, 32], "branch": 1.0, "rate": 0.0},
        [{"depths": [4, 16], "branch": 1.0, "rate": 0.0}, {"depths": [4, 4, 32], "branch": 1.0, "rate": 0.0},
         {"depths": [4, 32], "branch": 2.0, "rate": 0.0}],
        Reading(2.0, 0.2),
    ),
    "coherence_slope": Said(
        {"depths": [4, 8, 16]}, [{"depths": [4, 8]}, {"depths": [4, 8, 16], "tol": 0.0}, {"depths": [4, 8, 16], "of": "end"}],
        Reading(-0.5, 0.04),  # branches scaled by 1/√L
    ),
    "order_chaos": Said(
        {"activation": "tanh", "weight": 1.5, "bias": 0.1, "layers": 4, "of": "correlation"},
        [{"activation": "gelu", "weight": 1.5, "bias": 0.1, "layers": 4}, {"activation": "relu", "weight": 3.0, "bias": 0.1, "layers": 4},
         {"activation": "tanh", "weight": 0.5, "bias": 0.0, "layers": 4}],
        Reading(np.full(4, 0.5), np.full(4, 0.01)),  # it stays what it was
    ),
    "lazy_scale": Said(
        {"alphas": [10, 100]}, [{"alphas": [10]}, {"alphas": [1, 10]}, {"alphas": [10, 100], "of": "loss"}], Reading(0.0, 0.01)
    ),
    "linearised_training": Said(
        {"kernel": [[2.0]], "targets": [1.0], "lr": 0.25, "steps": [0, 1, 2]},
        [{"kernel": [[2.0]], "targets": [1.0], "lr": 1.0, "steps": [1]}, {"kernel": [[-2.0]], "targets": [1.0], "lr": 0.1, "steps": [1]},
         {"kernel": [[2.0]], "targets": [1.0, 2.0], "lr": 0.1, "steps": [1]}],
        Reading(np.array([[0.0], [0.9], [1.0]]), np.zeros((3, 1))),
    ),
    "learning_curve": Said(
        {"spectrum": [1.0] * 100, "coefficients": [0.1] * 100, "n": [10, 20], "ridge": 0.1},
        [{"spectrum": [1.0], "coefficients": [0.1, 0.2], "n": [10], "ridge": 0.1},
         {"spectrum": [1.0] * 100, "coefficients": [0.1] * 100, "n": [20], "ridge": 0.1, "population": 100},
         {"spectrum": [1.0] * 100, "coefficients": [0.1] * 100, "n": [100], "ridge": 0.0}],
        Reading(np.array([0.8, 0.6]), np.full(2, 0.01)),  # what is not learned, without the overfitting
    ),
    "leave_one_out": Said(
        {"dual_squares": [0.25, 1.0], "inverse_diagonal": [0.5, 0.8]},
        [{"dual_squares": [1.0], "inverse_diagonal": [1.0]}, {"dual_squares": [1.0, 1.0], "inverse_diagonal": [0.0, 1.0]}],
        Reading(0.25, 0.01),  # the training error at a ridge of 0.6
    ),
    "kernel_alignment_risk": Said(
        {"dual_squares": [0.25, 1.0], "inverse_diagonal": [0.5, 0.8]},
        [{"dual_squares": [1.0], "inverse_diagonal": [1.0]}, {"dual_squares": [1.0, 1.0], "inverse_diagonal": [0.0, 1.0]}],
        Reading(1.28, 0.01),  # leaving one out
    ),
    "hermite_curve": Said(
        {"variances": [0.1] * 10, "width": 3.0, "target": {"0": 1.0}, "n": [100], "ridge": 1e-3, "noise": 0.1},
        [{"variances": [], "width": 3.0, "target": {"0": 1.0}, "n": [100], "ridge": 1e-3},
         {"variances": [0.1] * 10, "width": 3.0, "target": {"77": 1.0}, "n": [100], "ridge": 1e-3}],
        Reading(np.array([1.1]), np.array([0.01])),  # nothing learned
    ),
    "source_capacity": Said(
        {"source": 2.0, "capacity": 1.5}, [{"source": 1.0, "capacity": 1.5}, {"source": 2.0, "capacity": 1.5, "of": "width"}],
        Reading(-3.0, 0.02),  # of the spectrum alone
    ),
    "central_flow": Said(
        {"lr": 0.5, "losses": [0.1, 0.05], "variances": [0.0, 0.01]},
        [{"lr": 0.0, "losses": [0.1], "variances": [0.0]}, {"lr": 0.5, "losses": [0.1], "variances": [-1.0]},
         {"lr": 0.5, "losses": [0.1, 0.2], "variances": [0.0]}],
        Reading(np.array([0.1, 0.05]), np.full(2, 1e-3)),  # gradient flow
    ),
    "width_transfer": Said(
        {"widths": [32, 512]}, [{"widths": [32]}, {"widths": [32, 64]}, {"widths": [32, 512], "parametrisation": "ntk"}], Reading(2.2, 0.2)
    ),
    "coordinate_slopes": Said(
        {"roles": ["input", "hidden", "output"]},
        [{"roles": []}, {"roles": ["middle"]}, {"roles": ["hidden"], "optimizer": "lion"}, {"roles": ["hidden"], "tol": 0.0}],
        Reading(np.array([0.0, 1.0, 1.0]), np.full(3, 0.02)),
    ),
    "spectra_settle": Said(
        {"of": "updates", "widths": [32, 64, 128, 256], "numbers": 3},
        [{"of": "bulk", "widths": [32, 64, 128, 256], "numbers": 3}, {"of": "updates", "widths": [32, 64], "numbers": 3},
         {"of": "updates", "widths": [32, 64, 128, 256], "numbers": 0}],
        Reading(np.array([0.0, 1.0, 1.0]), np.full(3, 0.02)),  # the standard parametrisation
    ),
    "standard_updates": Said(
        {"roles": ["input", "hidden", "output"], "widths": [32, 64, 128, 256]},
        [{"roles": [], "widths": [32, 64, 128, 256]}, {"roles": ["hidden"], "widths": [32, 64, 96, 128]}],
        Reading(np.zeros(3), np.full(3, 0.02)),  # the maximal update one
    ),
    "batch_scaling": Said(
        {"batch": 8, "factor": 4, "noise_scale": 100.0},
        [{"batch": 0, "factor": 4, "noise_scale": 100.0}, {"batch": 8, "factor": 1, "noise_scale": 100.0},
         {"batch": 8, "factor": 4, "noise_scale": 0.0}, {"batch": 8, "factor": 4, "noise_scale": 9.0, "optimizer": "sgdd"}],
        Reading(0.57, 0.01),  # the root rule
    ),
    "critical_batch": Said(
        {"batches": [10, 100], "noise_scale": 100.0, "fewest_steps": 50},
        [{"batches": [], "noise_scale": 1.0, "fewest_steps": 1}, {"batches": [1], "noise_scale": -1.0, "fewest_steps": 1}],
        Reading(np.array([50.0, 50.0]), np.ones(2)),  # no gain from a smaller batch's noise
    ),
    "two_batch_noise": Said({"draws": 200}, [{"draws": 3}, {"draws": 200, "rtol": 0.0}], Reading(0.5, 0.02)),
    "scaling_law": Said(
        {"sizes": [1e9], "examples": [1e10], "floor": 1.7, "a": 400, "b": 400, "alpha": 0.34, "beta": 0.28},
        [{"sizes": [], "examples": [], "floor": 1.7, "a": 1, "b": 1, "alpha": 0.3, "beta": 0.3},
         {"sizes": [1e9], "examples": [1e10], "floor": -1, "a": 1, "b": 1, "alpha": 0.3, "beta": 0.3},
         {"sizes": [1e9], "examples": [1e9, 1e10], "floor": 1, "a": 1, "b": 1, "alpha": 0.3, "beta": 0.3}],
        Reading(np.array([4.0]), np.array([0.01])),
    ),
    "compute_optimal": Said(
        {"alpha": 0.34, "beta": 0.28}, [{"alpha": 0, "beta": 1}, {"alpha": 1, "beta": 1, "tol": 0}], Reading(0.73, 0.01)
    ),
    "quanta": Said(
        {"alpha": 0.4}, [{"alpha": 0}, {"alpha": 0.4, "of": "rank"}, {"alpha": 0.4, "tol": 0.0}], Reading(0.0, 0.05)
    ),
    "data_exponent": Said(
        {"gamma": 2.0, "beta": 1.5, "gamma_err": 0.02, "beta_err": 0.02},
        [{"gamma": 0.0, "beta": 1.0}, {"gamma": 1.0, "beta": -1.0}, {"gamma": 1.0, "beta": 1.0, "tol": 0.0},
         {"gamma": 1.0, "beta": 1.0, "beta_err": -0.1}, {"gamma": 1.0, "beta": 1.0, "gamma_err": float("nan")}],
        Reading(0.5, 0.01),  # the rate of a fixed number of correlations
    ),
    "local_denoiser": Said(
        {"patches": [3], "receptive": 5, "image": 8},
        [{"patches": [], "receptive": 5, "image": 8}, {"patches": [4], "receptive": 5, "image": 8},
         {"patches": [7], "receptive": 5, "image": 8}, {"patches": [3], "receptive": 4, "image": 8},
         {"patches": [3], "receptive": 5, "image": 8, "least": 1.0}, {"patches": [3], "receptive": 5, "image": 8, "of": "score"}],
        Reading(np.array([0.85]), np.array([0.01])),  # the ideal machine
    ),
    "neural_feature_ansatz": Said({"init": 0.1}, [{"init": 0.0}, {"init": 0.1, "least": 1.0}], Reading(0.76, 0.01)),  # the default start
    "simplicity_bias": Said({"classes": 10}, [{"classes": 1}, {"classes": 3, "least": 0.5}], Reading(0.9, 0.05)),
}  # fmt: skip

EDITS: dict[str, list[Callable[[int], dict[str, Any]]]] = {  # of the size of the site's last dimension
    "ablate": [lambda n: {}, lambda n: {"to": "mean"}],
    "scale": [lambda n: {"factor": 0.5}],
    "scale_direction": [
        lambda n: {"direction": [1.0] * n},
        lambda n: {"direction": [1.0] * n, "factor": 2.0, "mean": [0.5] * n},
    ],
    "steer": [
        lambda n: {"direction": [1.0] * n, "by": 2.0},
        lambda n: {"direction": [1.0] * n, "by": 2.0, "gate": [1.0] * n, "above": -9.0},
    ],
    "clamp": [lambda n: {"direction": [1.0] * n, "value": 7.0, "mean": [0.5] * n}],
    "low_rank": [lambda n: {"rotation": [[1.0] + [0.0] * (n - 1)], "weight": [[0.5] * n], "bias": [1.0]}],
    "add_outer": [lambda n: {"left": [1.0] * 12, "right": [0.5] * n}],
}
SYSTEMS: dict[str, dict[str, Any]] = {
    "attention_language": {
        "vocab": 280,
        "context": 16,
        "d_model": 16,
        "heads": 2,
        "batch": 4,
        "held_fraction": 0.3,
        "probe_size": 6,
    },
    "deep_linear": {"dim": 4, "width": 5, "singular_values": (2.0, 1.0)},
    "digits": {"width": 8, "batch": 16},
    "hidden_markov_mixture": {"context": 8, "d_model": 8, "layers": 1, "batch": 4, "probe_size": 8},
    "shortcut_digits": {"width": 8, "layers": 1, "batch": 8},
    "cue_parity": {"bits": 5, "rows": 40, "width": 6, "batch": 8},
    "modular_addition": {"p": 7, "width": 12, "batch": 8},
    "incontext_regression": {"width": 8, "heads": 2, "layers": 1, "batch": 4, "probe_size": 16},
    "relations": {
        "names": 6,
        "pairs": 20,
        "context": 6,
        "d_model": 8,
        "heads": 2,
        "layers": 1,
        "batch": 4,
        "probe_size": 6,
    },
    "repeated_bigrams": {
        "vocab": 12,
        "context": 8,
        "d_model": 8,
        "heads": 2,
        "batch": 4,
        "probe_size": 6,
        "phrases": 3,
    },
    "toy_superposition": {"samples": 50, "batch": 8},
    "reduced_rank": {"samples": 20},
    "two_languages": {
        "context": 8,
        "words": 6,
        "moods": 2,
        "d_model": 8,
        "heads": 2,
        "layers": 1,
        "batch": 4,
        "probe_size": 6,
        "tune_from": 6,
    },
    "turing": {"problem": "parityCheck", "length": 2, "program": "mark pairs"},
}
