"""A concept from two lists of texts, on a run or a Hugging Face model: the same thing from the terminal and from Python."""

import contextlib
import csv
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from strobe.core.capture import Activations, Forward, capture
from strobe.core.data import leaves
from strobe.core.errors import BadOption, StrobeError
from strobe.features.concept import Concept
from strobe.features.concept_table import ConceptTable
from strobe.features.fit_concept import fit_concept
from strobe.features.monitor import fit_monitor
from strobe.numerics.bake_off import areas, folds_of
from strobe.numerics.probes import closed_forms
from strobe.numerics.rfm import Span
from strobe.observables.readability import enough
from strobe.runs import directory
from strobe.runs.run import Opened, open_run
from strobe.runs.texts import encode, tokenizer_of

Texts = str | Path | Sequence[str]
RATE = 0.05  # of false alarms that a page's monitor promises


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """A model and how it reads text: `ids(text)`, at most `length` tokens. Made by `read_model`."""

    name: str
    model: nn.Module
    ids: Callable[[str], list[int]]
    length: int | None
    positions: str
    step: int | None = None
    forward: Forward | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A concept in a model: the table, the activations, the texts with the score of each (not held out), and where it was saved."""

    table: ConceptTable
    acts: Activations
    texts: tuple[str, ...]
    labels: tuple[bool, ...]
    scores: Tensor
    concept: Concept
    saved: Path | None
    cut: int

    def said(self) -> str:
        """What the bake-off says, and what was cut."""
        cut = f" {self.cut} texts were longer than the model reads and were cut." if self.cut else ""
        return self.table.said() + cut


def concept(
    source: str | Path | Reader, positive: Texts | None = None, negative: Texts | None = None, *,
    labelled: str | Path | None = None, text: str = "text", label: str = "label", step: int | None = None,
    sites: Sequence[str] | None = None, positions: str | int | None = None, out: str | Path | None = None, seed: int = 0,
    progress: Callable[[str, float], None] | None = None, **options: Any,
) -> Found:  # fmt: skip
    """Is a concept in this model, where, and is a line enough: `capture`, then `fit_concept`, and the best one saved.

    Args: source, a run directory, a Hugging Face model directory, or a `Reader`; positive, negative: a text file (one example a
    line), or a list; or labelled, a CSV, JSONL or Parquet file with a column of texts and one of two labels, the larger of which is "on";
    step, of a run, by default the last; sites, default the blocks; positions, default the last token, of an encoder the mean; out, a
    file for the concept, by default RUN/concepts/STEP.safetensors, and none for a model directory; options of `fit_concept`.
    Raises `BadOption` for texts that are not there, a model that reads no text, and all that `capture` and `fit_concept` raise.
    """
    say = progress or (lambda what, part: None)
    texts, labels = read_examples(positive, negative, labelled, text, label)
    reader = source if isinstance(source, Reader) else read_model(source, step=step)
    tokens = [reader.ids(t) for t in texts]
    if empty := [i for i, t in enumerate(tokens) if not t]:
        raise BadOption(f"the tokenizer made no token of example {empty[0] + 1}, {texts[empty[0]][:40]!r}")
    cut = sum(reader.length is not None and len(t) > reader.length for t in tokens)
    where = reader.positions if positions is None else positions
    try:
        acts = capture(
            reader.model, [t[: reader.length] for t in tokens], sites, positions=where, forward=reader.forward,
            progress=lambda part: say("reading", part),
        )  # fmt: skip
    except (TypeError, RuntimeError, IndexError, ValueError, AttributeError) as e:
        if isinstance(e, StrobeError):
            raise
        raise BadOption(
            f"the model could not be run on token numbers alone ({type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}); "
            "in Python, a Reader with forward=lambda model, ids: ... says how it is run"
        ) from e
    table = fit_concept(
        acts, [int(b) for b in labels], seed=seed, progress=lambda part: say("comparing", part), **options
    )
    best = table.concept()
    place = Path(out) if out is not None else None
    if place is None and reader.step is not None:
        place = Path(reader.name) / "concepts" / f"{reader.step}.safetensors"
    saved = None if place is None else best.save(place)
    return Found(table, acts, tuple(texts), tuple(labels), best.score(acts[best.site]), best, saved, cut)


def read_model(source: str | Path, *, step: int | None = None) -> Reader:
    """A run at a step, or a Hugging Face model directory, ready to read text. Raises `BadOption` where it is neither."""
    path = Path(source)
    if directory.exists(path):
        run = open_run(path)
        opened = Opened(run)
        at = run.last if step is None else step
        snap = opened.at(at)
        known = tokenizer_of(run, opened.recorder)
        if known is None:
            raise BadOption(
                f"{path} has no tokenizer, so no text can be read; record it with strobe.record(..., tokenizer=...), or capture "
                "activations of its own inputs and call fit_concept on them"
            )
        sizes = [t.shape[1] for t in leaves(snap.data) if t.ndim == 2 and not t.is_floating_point()]
        return Reader(str(path), snap.model, lambda t: encode(known, t), max(sizes) - 1 if sizes else None, "last", at)
    if (path / "config.json").is_file():
        return _hugging_face(path)
    raise BadOption(f"{path} is neither a run nor a Hugging Face model directory (with a config.json)")


def _hugging_face(path: Path) -> Reader:
    try:
        from transformers import AutoConfig, AutoModel, AutoTokenizer
    except ModuleNotFoundError as e:
        raise BadOption("a Hugging Face model needs transformers: pip install 'strobe[huggingface]'") from e
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    try:
        config = AutoConfig.from_pretrained(path, local_files_only=True)
        known = AutoTokenizer.from_pretrained(path, local_files_only=True)
        model = AutoModel.from_pretrained(path, local_files_only=True, use_safetensors=True).eval()
    except (OSError, ValueError, KeyError, ImportError) as e:
        raise BadOption(f"{path} cannot be opened as a model with a tokenizer: {str(e).splitlines()[0]}") from e
    if getattr(config, "is_encoder_decoder", False):
        model = model.get_encoder()
    causal = any("CausalLM" in a or "LMHead" in a for a in getattr(config, "architectures", None) or [])
    most = min(int(n) for n in (known.model_max_length, getattr(config, "max_position_embeddings", 1 << 30)))
    return Reader(
        str(path), model, lambda t: encode(known, t), most if most < 1 << 29 else None, "last" if causal else "mean"
    )


def read_examples(
    positive: Texts | None,
    negative: Texts | None,
    labelled: str | Path | None = None,
    text: str = "text",
    label: str = "label",
) -> tuple[list[str], list[bool]]:
    """Texts and whether each is on. Raises `BadOption` for files or columns that are not there, and for empty ones."""
    if labelled is not None:
        if positive is not None or negative is not None:
            raise BadOption("give positive and negative texts, or one labelled file, not both")
        return _labelled(Path(labelled), text, label)
    if positive is None or negative is None:
        raise BadOption("a concept needs examples with it and without it: positive and negative, or one labelled file")
    on, off = _lines(positive, "positive"), _lines(negative, "negative")
    return [*on, *off], [True] * len(on) + [False] * len(off)


def _lines(given: Texts, which: str) -> list[str]:
    found = (
        list(given) if not isinstance(given, str | Path) else [line.strip() for line in _read(Path(given)).splitlines()]
    )
    if not all(isinstance(t, str) for t in found):
        raise BadOption(f"the {which} examples are texts, not {type(found[0]).__name__}")
    found = [t for t in found if t]
    if not found:
        raise BadOption(f"there is no {which} example in {given!r}: one a line")
    return found


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as e:
        raise BadOption(f"{path} cannot be read as text: {e}") from e


def _labelled(path: Path, text: str, label: str) -> tuple[list[str], list[bool]]:
    kind = path.suffix.lower()
    if kind in (".csv", ".tsv"):
        rows: list[dict[str, Any]] = list(
            csv.DictReader(_read(path).splitlines(), delimiter="\t" if kind == ".tsv" else ",")
        )
    elif kind in (".jsonl", ".ndjson"):
        rows = []
        for i, line in enumerate(_read(path).splitlines(), 1):
            try:
                rows += [json.loads(line)] if line.strip() else []
            except json.JSONDecodeError as e:
                raise BadOption(f"line {i} of {path} is not JSON: {e}") from e
    elif kind == ".parquet":
        try:
            from pyarrow import ArrowException, parquet
        except ModuleNotFoundError as e:
            raise BadOption("a Parquet file needs pyarrow: pip install pyarrow, or give a CSV or JSONL file") from e
        try:
            rows = parquet.read_table(path).to_pylist()
        except (OSError, ArrowException) as e:
            raise BadOption(f"{path} cannot be read as Parquet: {e}") from e
    else:
        raise BadOption(f"{path} is none of .csv, .tsv, .jsonl, .parquet")
    if not rows or text not in rows[0] or label not in rows[0]:
        raise BadOption(
            f"{path} has no columns {text!r} and {label!r}; it has {', '.join(rows[0]) if rows else 'no rows'}: name them"
        )
    kinds = sorted({str(r[label]) for r in rows})
    if len(kinds) != 2:
        raise BadOption(
            f"column {label!r} of {path} has {len(kinds)} values ({', '.join(kinds[:5])}); a concept needs two"
        )
    kept = [r for r in rows if r[text]]
    return [str(r[text]) for r in kept], [str(r[label]) == kinds[1] for r in kept]


def seen(
    reader: Reader,
    positive: Sequence[str],
    negative: Sequence[str],
    *,
    whole: bool = True,
    most: int = 5,
    seed: int = 0,
) -> dict[str, Any]:
    """What a page shows, as plain data: the table with its verdict, a direction to steer by, and the texts at both ends, token by token.

    Without `whole` only the areas of a line and of a kernel at each block, at fixed settings: for many steps in turn.
    Raises as `concept` does.
    """
    if not whole:
        texts, labels = read_examples(positive, negative)
        acts = capture(
            reader.model,
            [reader.ids(t)[: reader.length] for t in texts],
            positions=reader.positions,
            forward=reader.forward,
        )
        on = enough([int(b) for b in labels], len(labels))
        fold = folds_of(on, acts.example.numpy(), 5, np.random.default_rng(seed))
        both = [
            [float(areas(s[0], on, fold)) for s in closed_forms(Span.of(acts[site]), fold, on[None])[1:]]
            for site in acts.sites
        ]
        return {"sites": list(acts.sites), "line": [b[0] for b in both], "kernel": [b[1] for b in both]}
    found = concept(reader, positive, negative, seed=seed, permutations=100, resamples=400)
    t = found.table
    steer = t.concept(t.best.site, "means")
    order = found.scores.argsort(descending=True).tolist()
    shown = [*order[:most], *order[-most:]] if len(order) > 2 * most else order
    ids = [reader.ids(found.texts[i])[: reader.length] for i in shown]
    site = found.concept.site
    every = capture(reader.model, ids, [site], positions="all", forward=reader.forward)
    score = found.concept.score(every[site])
    watch: dict[str, Any] | None = None
    with contextlib.suppress(BadOption):  # too few texts for the rate
        m = fit_monitor(found.acts, [int(b) for b in found.labels], t, rate=RATE, seed=seed)
        watch = {"rate": RATE, "auroc": m.auroc, "err": m.err, "caught": list(m.caught), "sites": len(m.concepts)}
    return {
        "monitor": watch,
        "said": found.said(), "there": t.there, "linear": t.linear, "methods": list(dict.fromkeys(r.method for r in t.rows)),
        "rows": [{k: getattr(r, k) for k in ("site", "method", "auroc", "low", "high", "stability")} for r in t.rows],
        "best": {"site": t.best.site, "method": t.best.method}, "threshold": found.concept.threshold,
        "steer": {"site": steer.site, "direction": steer.direction.tolist(), "gap": steer.gap},
        "texts": [
            {"text": found.texts[i], "on": found.labels[i], "score": float(found.scores[i]),
             "tokens": list(zip(ids[k], score[every.example == k].tolist(), strict=True))}
            for k, i in enumerate(shown)
        ],
    }  # fmt: skip
