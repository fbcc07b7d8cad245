"""A language known to the last number: its chain, its phrases, and what is said twice."""

import numpy as np
import pytest
import torch

from strobe.core.errors import BadOption, SiteNotFound
from strobe.core.site import Site
from strobe.systems.repeated_bigrams import repeated_bigrams

SMALL = {"vocab": 12, "context": 24, "d_model": 8, "heads": 2, "phrases": 3}


def test_without_phrases_the_text_is_the_chain() -> None:
    world = repeated_bigrams(**SMALL, phrase_rate=0.0, repeated=0.0, probe_size=8000)
    tokens = world.probe(0)
    pairs = torch.zeros(12, 12).index_put(
        (tokens[:, :-1].flatten(), tokens[:, 1:].flatten()), torch.tensor(1.0), accumulate=True
    )
    share = pairs / pairs.sum(1, keepdim=True)
    assert (share - world.facts["table"].exp()).abs().max() < 0.02
    assert (world.facts["bigram"].exp() - world.facts["table"].exp()).abs().max() < 0.03


def test_phrases_occur_at_their_rate_and_whole() -> None:
    world = repeated_bigrams(vocab=64, phrases=4, phrase_length=5, phrase_rate=0.1, repeated=0.0, probe_size=2000)
    tokens, found = world.probe(0).numpy(), 0
    for phrase in world.facts["phrases"].numpy():
        found += int((np.lib.stride_tricks.sliding_window_view(tokens, 5, axis=1) == phrase).all(-1).sum())
    begun = 2000 * 28 / (5 + 9)  # one begins every 1/0.1 - 1 tokens of chain, and lasts 5
    assert found == pytest.approx(begun, rel=0.1)


def test_what_is_said_twice_has_no_fixed_distance() -> None:
    world = repeated_bigrams(**SMALL, repeated=1.0, probe_size=200)
    lengths = []
    for row in world.facts["twice"]:
        fits = [n for n in range(6, 13) if torch.equal(row[:-n], row[n:])]
        assert fits
        lengths.append(fits[0])
    assert len(set(lengths)) == 7
    plain = world.facts["plain"]
    assert sum(any(torch.equal(row[:-n], row[n:]) for n in range(6, 13)) for row in plain) == 0


def test_each_head_has_its_parameters_once() -> None:
    world = repeated_bigrams(**SMALL)
    model = world.build(0)
    seen = {k: torch.zeros_like(p) for k, p in model.named_parameters()}
    for sites in world.facts["head_parts"].values():
        for text in sites:
            site = Site.parse(text)
            site.view(seen[f"{site.path}.{site.item}"]).add_(1)
    for name, count in seen.items():
        whole = name.split(".")[-2] in "qkvo"
        assert bool((count == whole).all()), name


def test_bad_knobs_are_refused() -> None:
    wrong = {"context": 2}, {"phrase_rate": 1.0}, {"d_model": 9}, {"lr": 0.0}
    said = "context >= 4", "probability below 1", "multiple of heads", "lr must be positive"
    for bad, text in zip(wrong, said, strict=True):
        with pytest.raises(BadOption, match=text):
            repeated_bigrams(**{**SMALL, **bad})
    with pytest.raises(SiteNotFound):
        Site.parse("blocks.7.attn.q:param.weight/2@0[0]").parameter(repeated_bigrams(**SMALL).build(0))
