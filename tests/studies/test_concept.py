"""From two lists of texts to a saved concept: on a recorded run, on a Hugging Face directory, from the terminal."""

import csv
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import strobe
from strobe.app.cli import app
from strobe.core.errors import BadOption
from strobe.features.concept import Concept
from strobe.studies.concept import Reader, concept, read_examples, read_model
from toys import LetterNet, letters_again

ON = [f"{a} {b} is red" for a in ("the", "a", "this", "one") for b in ("house", "car", "door", "wall", "ball", "hat")]
OFF = [t.replace("red", "blue") for t in ON]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("c") / "r"
    letters_again(out=str(out))
    return out


FAST: dict[str, Any] = {"permutations": 39, "resamples": 100}


def test_on_a_run_of_the_users_own_loop(run: Path, tmp_path: Path) -> None:
    (tmp_path / "on.txt").write_text("\n".join(ON) + "\n\n")
    found = concept(run, tmp_path / "on.txt", OFF, **FAST)
    assert found.table.there
    assert {r.site for r in found.table.rows} == {"blocks.0", "blocks.1"}
    assert found.saved == run / "concepts" / "3.safetensors"
    back = Concept.load(found.saved)
    assert torch.equal(back.score(found.acts[back.site]), found.scores)
    assert found.scores[:24].mean() > found.scores[24:].mean()
    assert "There:" in found.said()
    assert strobe.open_run(run).last == 3  # it is a run as before


def test_from_the_terminal(run: Path, tmp_path: Path) -> None:
    with (tmp_path / "both.csv").open("w", newline="") as f:
        w = csv.writer(f)
        w.writerow(["words", "kind"])
        w.writerows([[t, "yes"] for t in ON] + [[t, "no"] for t in OFF])
    ask = [
        "concept",
        str(run),
        "--labelled",
        str(tmp_path / "both.csv"),
        "--text",
        "words",
        "--label",
        "kind",
        "--positions",
        "-1",
    ]
    got = CliRunner().invoke(app, [*ask, "--json"])
    assert got.exit_code == 0, got.output
    told = json.loads(got.stdout)
    assert told["there"]
    assert len(told["rows"]) == 14
    assert Path(told["saved"]).exists()
    got = CliRunner().invoke(app, ask)
    assert "Area under the ROC curve, held out (48 examples, 24 with the concept)" in got.output
    assert "Highest" in got.output
    assert "blocks.1" in got.output
    assert "Saved:" in got.output


@pytest.mark.skipif(not importlib.util.find_spec("transformers"), reason="needs transformers")
def test_on_a_hugging_face_directory_in_three_lines(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    words = sorted({w for t in ON + OFF for w in t.split()})
    known = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["[UNK]", *words])}, unk_token="[UNK]"))
    known.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=known, unk_token="[UNK]").save_pretrained(
        tmp_path / "m"
    )  # no padding token
    torch.manual_seed(0)
    GPT2LMHeadModel(
        GPT2Config(vocab_size=len(words) + 1, n_positions=8, n_embd=16, n_layer=2, n_head=2)
    ).save_pretrained(tmp_path / "m")
    found = concept(tmp_path / "m", ON, OFF, **FAST)
    assert found.table.there
    assert found.saved is None
    assert {r.site for r in found.table.rows} == {"h.0", "h.1"}
    assert found.acts.position.tolist() == [3] * 48  # the last token: it writes text
    (tmp_path / "m" / "model.safetensors").unlink()
    with pytest.raises(BadOption, match="cannot be opened as a model"):
        concept(tmp_path / "m", ON, OFF, **FAST)


def test_bad_input_is_said_clearly(run: Path, tmp_path: Path) -> None:
    with pytest.raises(BadOption, match=r"nope.txt cannot be read"):
        concept(run, tmp_path / "nope.txt", OFF)
    with pytest.raises(BadOption, match="positive and negative, or one labelled"):
        concept(run, ON)
    with pytest.raises(BadOption, match="neither a run nor a Hugging Face"):
        concept(tmp_path, ON, OFF)
    with pytest.raises(BadOption, match="8 examples of one kind"):
        concept(run, ON[:8], OFF)
    with pytest.raises(BadOption, match="made no token of example 2"):
        concept(Reader("x", LetterNet(), lambda t: [] if t == "b" else [1], None, "last"), ["a", "b"], ["c"])
    with pytest.raises(BadOption, match="could not be run on token numbers alone .*forward="):
        concept(
            Reader("x", torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU()), lambda t: [1, 2], None, "last"),
            ON,
            OFF,
        )
    letters_again(out=str(tmp_path / "mute"), tokenizer=False)
    with pytest.raises(BadOption, match="has no tokenizer"):
        read_model(tmp_path / "mute")
    (tmp_path / "a.jsonl").write_text('{"text": "x", "label": 1}\nnot json\n')
    with pytest.raises(BadOption, match="line 2 of .* is not JSON"):
        read_examples(None, None, tmp_path / "a.jsonl")
    (tmp_path / "a.csv").write_text("text,kind\nx,1\n")
    with pytest.raises(BadOption, match="has no columns 'text' and 'label'; it has text, kind"):
        read_examples(None, None, tmp_path / "a.csv")
    (tmp_path / "b.csv").write_text("text,label\nx,1\ny,2\nz,3\n")
    with pytest.raises(BadOption, match="has 3 values"):
        read_examples(None, None, tmp_path / "b.csv")


def test_labels_that_have_nothing_to_do_with_the_text(run: Path) -> None:
    texts = ON + OFF
    order = torch.randperm(48, generator=torch.Generator().manual_seed(5)).tolist()
    found = concept(run, [texts[i] for i in order[:24]], [texts[i] for i in order[24:]], **FAST)
    assert not found.table.there
    assert "Not there" in found.said()
