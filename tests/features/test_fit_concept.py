"""The bake-off says what was planted: linear, bent, absent; and says so when it cannot know."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from strobe.core.capture import Activations
from strobe.core.errors import BadOption, StateMismatch
from strobe.features.concept import Concept
from strobe.features.concept_table import ConceptTable
from strobe.features.fit_concept import fit_concept
from strobe.numerics.auc import auc

N, D = 160, 96


def states(seed: int, n: int = N) -> tuple[Tensor, Tensor]:
    basis = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(5)))[0]
    z = torch.randn(n, D, generator=torch.Generator().manual_seed(seed)) * torch.arange(1, D + 1) ** -0.5
    return z @ basis.T, basis


def acts(**sites: Tensor) -> Activations:
    n = len(next(iter(sites.values())))
    return Activations(sites, torch.arange(n), torch.full((n,), -1), n)


def shifted(seed: int, n: int = N) -> tuple[Tensor, Tensor, Tensor]:
    X, basis = states(seed, n)
    y = torch.arange(n) % 2
    return X + 0.5 * (2.0 * y[:, None] - 1) * basis[:, 20], y, basis[:, 20]


@pytest.fixture(scope="module")
def line() -> tuple[ConceptTable, Activations, Tensor]:
    X, y, u = shifted(0)
    a = acts(early=states(9)[0], late=X)
    return fit_concept(a, y, permutations=60), a, u


def test_a_line_is_found_where_it_is_and_called_a_line(line: tuple[ConceptTable, Activations, Tensor]) -> None:
    got, _, u = line
    assert got.there
    assert got.best.site == "late"
    assert got.linear is True
    assert got.p < 0.05
    assert got.row("late", "logistic").low > 0.7
    assert got.row("early", "logistic").low < 0.5 < got.row("early", "logistic").high
    assert "There:" in got.said()
    assert "Linear:" in got.said()
    c = got.concept("late", "means")
    assert float(c.direction @ u) > 0.8  # towards on
    assert c.gap == pytest.approx(1.0, abs=0.4)


def test_what_bends_is_not_called_a_line() -> None:
    X, basis = states(1, 240)
    p = X @ basis[:, 1]
    got = fit_concept(acts(a=X), (p.abs() > p.abs().median()).int(), permutations=60)
    assert got.there
    assert got.linear is False
    assert got.best.method == "rfm"
    assert got.linearity < 0.8
    assert got.row("a", "rfm").low > 0.85 > 0.65 > got.row("a", "ridge").high
    assert float((got.concept().direction @ basis[:, 1]) ** 2) > 0.8
    assert got.rank < 2


def test_labels_that_have_nothing_to_do_with_the_text_are_not_there() -> None:
    found = []
    for seed in range(8):
        X, _ = states(seed, 60)
        y = torch.randn(60, generator=torch.Generator().manual_seed(100 + seed)) > 0
        found.append(fit_concept(acts(a=X), y, methods=["means", "ridge", "kernel"], permutations=39, resamples=200))
    assert sum(f.there for f in found) <= 2
    assert "Not there" in next(f for f in found if not f.there).said()


def test_the_interval_holds_what_fresh_examples_give() -> None:
    held = 0
    for seed in range(12):
        X, y, _ = shifted(seed, 80)
        got = fit_concept(acts(a=X), y, methods=["means", "ridge"], permutations=0, resamples=400, seed=seed)
        c = got.concept("a", "means")
        F, t, _ = shifted(1000 + seed, 2000)
        area = auc(c.score(F).numpy(), t.numpy() > 0)[0]
        held += got.row("a", "means").low - 0.02 <= area <= got.row("a", "means").high + 0.02
    assert held >= 10


def test_choosing_the_best_of_many_is_paid_for() -> None:
    raw, paid = [], []
    for seed in range(6):
        noise = {f"s{i}": states(50 + 20 * seed + i, 60)[0] for i in range(12)}
        y = torch.arange(60) % 2
        got = fit_concept(acts(**noise), y, methods=["means", "ridge"], permutations=0, resamples=300, seed=seed)
        raw.append(got.best.auroc - 0.5)
        paid.append(got.auroc[0] - 0.5)
    assert np.mean(paid) < 0.5 * np.mean(raw)
    assert np.mean(raw) > 0.12


def test_a_concept_scores_as_in_the_bake_off_and_survives_a_file(
    line: tuple[ConceptTable, Activations, Tensor], tmp_path: Path
) -> None:
    got, _a, _ = line
    X, y, _ = shifted(77, 400)
    for method in ("means", "ridge", "logistic", "lda", "kernel", "rfm"):
        c = got.concept("late", method)
        score = c.score(X)
        assert auc(score.numpy(), y.numpy() > 0)[0] > 0.75
        assert float(((score > c.threshold) == (y > 0)).float().mean()) > 0.65
        back = Concept.load(c.save(tmp_path / f"{method}.safetensors"))
        assert torch.equal(back.score(X), score)
        assert back.facts == c.facts
        assert back.threshold == c.threshold
        assert torch.allclose(c.decode(c.encode(X)) - c.mean, (X - c.mean) @ c.directions.T @ c.directions, atol=1e-4)


def test_a_common_offset_scale_or_turn_changes_nothing() -> None:
    X, y, _ = shifted(4, 80)
    Q = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(8)))[0]
    away = 1000 * X.std() * torch.randn(D, generator=torch.Generator().manual_seed(9))
    old, *others = (fit_concept(acts(a=x), y, permutations=0, resamples=100) for x in (X, X + away, 30 * X, X @ Q))
    for new in others:
        for r, s in zip(old.rows, new.rows, strict=True):
            assert abs(r.auroc - s.auroc) < 0.025


def test_twins_stay_together_and_are_said() -> None:
    X, _ = states(6, 40)
    y = torch.randn(40, generator=torch.Generator().manual_seed(3)) > 0
    X, y = X.repeat(2, 1), y.repeat(2)
    with pytest.warns(UserWarning, match="Leak alarm: 40 rows"):
        got = fit_concept(acts(a=X), y, methods=["means", "kernel"], permutations=19, resamples=200)
    assert got.row("a", "kernel").low < 0.6
    assert "Leak alarm" in got.said()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit_concept(acts(a=X[:40]), y[:40], methods=["means"], permutations=0, resamples=50)


def test_groups_are_never_on_both_sides() -> None:
    X, _ = states(7, 100)
    group = np.repeat(np.arange(20), 5)
    y = (group % 2).astype(int)
    X = X + 3 * torch.randn(20, D, generator=torch.Generator().manual_seed(1))[group]
    loose = fit_concept(acts(a=X), y, methods=["ridge", "kernel"], permutations=19, resamples=200)
    tight = fit_concept(acts(a=X), y, methods=["ridge", "kernel"], permutations=19, resamples=200, groups=list(group))
    assert loose.best.auroc > 0.95
    assert tight.best.auroc < 0.85


def test_bad_input_is_said_clearly() -> None:
    X, y, _ = shifted(0)
    a = acts(a=X)
    for labels, text in (
        (y[:-1], "one for each row"), (torch.ones(N), "of two kinds, these of 1"), (torch.arange(N), "two kinds"),
        (torch.arange(N) < 4, "4 examples of one kind"),
    ):  # fmt: skip
        with pytest.raises(BadOption, match=text):
            fit_concept(a, labels)
    with pytest.raises(BadOption, match=r"no method 'logit'; .*logistic"):
        fit_concept(a, y, methods=["logit"])
    with pytest.raises(BadOption, match="not finite for row 3"):
        fit_concept(acts(a=X.index_fill(0, torch.tensor([3]), float("nan"))), y)
    with pytest.raises(BadOption, match="the same for all examples"):
        fit_concept(acts(a=torch.ones(N, 4) + 1e-30 * torch.arange(N)[:, None]), y)
    with pytest.raises(BadOption, match="no 'means' at 'lat'"):
        fit_concept(a, y, methods=["means"], permutations=0, resamples=50).row("lat", "means")
    c = Concept("a", torch.eye(3)[:1], torch.zeros(3))
    with pytest.raises(StateMismatch, match="has 3 features"):
        c.score(torch.ones(2, 4))
    with pytest.raises(BadOption, match="orthonormal"):
        Concept("a", torch.ones(2, 3), torch.zeros(3))
    with pytest.raises(BadOption, match="cannot be read"):
        Concept.load(Path(__file__))
