"""Text: round trip, split by hash, the cache, and corpora that cannot be used."""

from pathlib import Path

import numpy as np
import pytest

from strobe.core.errors import BadOption
from strobe.systems.text import text

pytest.importorskip("tokenizers")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    words = ["alpha", "beta", "gamma", "naïve", "π", "def", "return", "=", "(", ")"]
    root = tmp_path / "corpus"
    (root / "deep").mkdir(parents=True)
    for i in range(20):
        at = root / ("deep" if i % 2 else ".") / f"{i}.txt"
        at.write_text(" ".join(rng.choice(words, 200)) + "\n", encoding="utf-8")
    (root / "picture.bin").write_bytes(b"\x89PNG\0\0")
    (root / "latin.txt").write_bytes("é".encode("latin-1"))
    (root / "copy.txt").write_bytes((root / "0.txt").read_bytes())
    (root / "empty.txt").write_text("")
    (root / ".hidden").mkdir()
    (root / ".hidden" / "secret.txt").write_text("not read")
    return root


def test_tokens_give_the_text_back_and_no_file_is_in_both_halves(folder: Path, tmp_path: Path) -> None:
    made = text(folder, vocab=300, held_fraction=0.3, cache=tmp_path / "cache")
    said = [f for half in (made.train, made.held) for f in made.decode(half).split("<|end|>") if f]
    originals = {p.read_text(encoding="utf-8") for p in folder.rglob("[0-9]*.txt")}
    assert sorted(said) == sorted(originals)  # exact, also beyond ASCII; the duplicate once
    assert (made.manifest["files"], made.manifest["skipped"]) == (20, 2)
    assert made.manifest["train_files"] + made.manifest["held_files"] == 20
    assert len(made.held_starts) == made.manifest["held_files"]
    assert int(max(made.train.max(), made.held.max())) < 300


def test_the_second_time_comes_from_the_cache_and_is_the_same(folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    first = text(
        folder, vocab=300, cache=tmp_path / "cache", held_fraction=0.3, progress=lambda what, part: said.append(what)
    )
    assert "tokenising" in said
    said.clear()
    again = text(
        folder, vocab=300, cache=tmp_path / "cache", held_fraction=0.3, progress=lambda what, part: said.append(what)
    )
    assert said == ["reading"]
    assert np.array_equal(first.train, again.train)
    assert first.manifest == again.manifest
    (next((tmp_path / "cache").iterdir()) / "train.npy").write_bytes(b"cut short")
    assert np.array_equal(text(folder, vocab=300, cache=tmp_path / "cache", held_fraction=0.3).train, first.train)
    said.clear()
    text(folder, vocab=300, cache=tmp_path / "cache", held_fraction=0.3, progress=lambda what, part: said.append(what))
    assert said == ["reading"]  # the damaged one was replaced
    (folder / "0.txt").write_text("changed " * 50)
    assert (
        text(folder, vocab=300, cache=tmp_path / "cache", held_fraction=0.3).manifest["digest"]
        != first.manifest["digest"]
    )


def test_a_single_file_is_split_into_pieces(tmp_path: Path) -> None:
    one = tmp_path / "book.txt"
    one.write_text("".join(f"line {i} of a long book about {i * i}\n" for i in range(6000)))
    made = text(one, vocab=280, held_fraction=0.3, cache=tmp_path / "cache")
    assert made.manifest["files"] > 10
    assert len(made.held) > 1000


def test_a_cache_that_cannot_be_written_is_not_needed(folder: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("a file where a folder would have to be")
    assert len(text(folder, vocab=300, held_fraction=0.3, cache=blocked / "cache").train) > 100


def test_unusable_corpora_are_refused_with_a_reason(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    for corpus, options, word in (
        (tmp_path / "absent", {}, "no corpus at"),
        (tmp_path / "none", {}, "no readable"),
        (folder, {"vocab": 200}, "256 bytes"),
        (folder, {"held_fraction": 0.0}, "strictly between"),
        (folder / "deep" / "1.txt", {}, "cannot be split"),
    ):
        with pytest.raises(BadOption, match=word):
            text(corpus, cache=tmp_path, **options)  # type: ignore[arg-type]
