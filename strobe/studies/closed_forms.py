"""Two trained systems with a formula: a network that adds modulo p, and embeddings of words from real text."""

import re
import sysconfig
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from strobe.core.cards import study
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.laws.quadratic_addition import quadratic_addition
from strobe.laws.word_embeddings import target, word_embedding_modes
from strobe.studies.docket import Docket, Progress, sized
from strobe.systems.modular_addition import Adder, modular_addition

QUESTION = "Do two closed forms hold: the explicit network for addition, and the modes of word embeddings?"
SCALES: dict[
    str, tuple[list[int], int, int, int, int, int]
] = {  # primes, networks, words, size, modes, steps of word2vec
    "tiny": ([31], 100, 80, 40, 5, 200),
    "small": ([31, 59, 97], 100, 300, 100, 20, 4000),
    "full": ([31, 59, 97, 113], 400, 600, 200, 40, 20_000),
}
WINDOW, SHARED = 5, 10


@study(question="Do the closed forms of modular addition and of word embeddings hold?", ref="arXiv:2502.09863")
def closed_forms(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """Networks with Gromov's weights at widths from p to 4p; embeddings of the words of Python's own library, trained.

    Sealed: the accuracy at each width, averaged over networks; rivals: always right, and (of networks whose read-out has other
    phases) the law, which must fail. When each of the top modes of evenly weighted embeddings is half learned, and that they
    span the top eigenspace of M*; the same of word2vec's own loss; in all of it positive mutual information, as of Levy and
    Goldberg, in the place of M* is the rival. Recorded: a trained adder, for the strip.
    Cost: seconds at "tiny", under a minute at "small". Raises `BadOption`.
    """
    primes, networks, words, size, modes, steps = sized(scale, SCALES)
    tables: dict[str, list[dict[str, Any]]] = {}
    with Docket(modular_addition(p=31, width=32), out / "recorded", QUESTION, steps=50, seed=seed) as docket:
        laws = {p: quadratic_addition(p=p, widths=[p, 3 * p // 2, 2 * p, 4 * p]) for p in primes}
        for p, said in laws.items():
            docket.seal(f"{p}", said, f"accuracy mod {p} at widths {said.knobs['widths']}")
            docket.seal(
                f"{p} other",
                said,
                f"accuracy mod {p}, null: other phases in the read-out (must fail)",
                law="",
                knobs={},
            )
        every = np.ones(4 * len(primes))
        rival = {"value": every, "tol": 0.02 * every, "law": "", "knobs": {}}
        docket.seal("always", laws[primes[0]], f"accuracy mod {primes}, rival: always right (must fail)", **rival)
        found = {p: _addition(docket, p, networks * max(primes) // p, seed) for p in primes}
        values, errs = (
            np.concatenate([np.atleast_1d(getattr(r, k)) for r, _ in found.values()]) for k in ("value", "err")
        )
        docket.judge("always", Reading(values, errs, "accuracy"))
        tables["addition"] = [row for _, rows in found.values() for row in rows]
        if progress:
            progress("closed forms", 1, 2)
        tables |= _words(docket, words, size, modes, steps, seed)
        if progress:
            progress("closed forms", 2, 2)
    return docket.report(
        tables,
        ["Gromov 2023, arXiv:2301.02679", "Karkada et al. 2025, arXiv:2502.09863", "Levy, Goldberg 2014 (NeurIPS)"],
    )


def _addition(docket: Docket, p: int, networks: int, seed: int) -> tuple[Reading, list[dict[str, Any]]]:
    widths, said = docket.sealed[f"{p}"].knobs["widths"], docket.sealed[f"{p}"].value
    least = 1 / (p * p)

    def read(count: int, turned: bool) -> Reading:
        got = np.array(
            [[accuracy(explicit(p, w, seed * 10_000 + i, turned=turned), p) for i in range(count)] for w in widths]
        )
        err = np.maximum(got.std(1, ddof=1), least) / count**0.5
        return Reading(got.mean(1), err, "accuracy", {"networks": count})

    found, null = read(networks, False), read(10, True)
    docket.judge(f"{p}", found)
    docket.judge(f"{p} other", null)
    return found, [{"p": p, "width": w, "law": float(a), "measured": float(b), "err": float(e), "other phases": float(n)}
                   for w, a, b, e, n in zip(widths, said, found.value, found.err, null.value, strict=True)]  # fmt: skip


def explicit(p: int, width: int, seed: int, *, turned: bool = False) -> Adder:
    """The network of `modular_addition` with cosines for weights; `turned`: read out at phases of their own."""
    rng = np.random.default_rng((seed, p, width))
    k, n = rng.integers(1, (p - 1) // 2 + 1, width), np.arange(p)
    a, b = rng.uniform(-np.pi, np.pi, (2, width))
    out = rng.uniform(-np.pi, np.pi, width) if turned else a + b
    wave = 2 * np.pi * np.outer(n, k) / p
    net = Adder(p, width, True)
    with torch.no_grad():
        for weight, value in (
            (net.left.weight, wave + a),
            (net.right.weight, wave + b),
            (net.unembed.weight, wave + out),
        ):
            weight.copy_(torch.from_numpy(np.cos(value)))
    return net


def accuracy(net: Adder, p: int) -> float:
    """Over the whole table."""
    pairs = torch.cartesian_prod(torch.arange(p), torch.arange(p))
    with torch.no_grad():
        said = net(pairs).argmax(1)
    return float((said == pairs.sum(1) % p).double().mean())


def _words(docket: Docket, words: int, size: int, modes: int, steps: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    vocabulary, P = cooccurrences(words)
    m = target(P)
    values, vectors = np.linalg.eigh(m)
    values, vectors = values[::-1][:modes], vectors[:, ::-1][:, :modes]
    lr = float(0.02 / values[0])
    start = 1e-4 * np.random.default_rng((seed, 5)).standard_normal((size, words))
    u0 = np.square(start @ vectors).sum(0)
    said = word_embedding_modes(eigenvalues=values.tolist(), starts=u0.tolist(), lr=lr)
    docket.seal("times", said, "steps at which embedding modes are half learned")
    ppmi = np.where(P > 0, np.maximum(np.log(np.maximum(P, 1e-300) / np.outer(P.sum(1), P.sum(1))), 0), 0)
    others, along = np.linalg.eigh(ppmi)
    others, along = others[::-1][:modes], along[:, ::-1][:, :modes]
    rival = word_embedding_modes(
        eigenvalues=others.tolist(), starts=np.square(start @ along).sum(0).tolist(), lr=min(lr, 0.05 / others[0])
    )
    slower = rival.knobs["lr"] / lr
    docket.seal(
        "same", rival, "the same, rival: mutual information for M* (must fail)", value=rival.value * slower, tol=rival.tol * slower, law="",
        knobs={},
    )  # fmt: skip
    shared = min(SHARED, modes)
    even: dict[str, Any] = {"eigenvalues": values[:shared].tolist(), "of": "share"}
    docket.seal("share", word_embedding_modes(**even), "share of the top eigenspace, evenly weighted loss")
    docket.seal("word2vec", word_embedding_modes(**even, rtol=0.1), "share of the top eigenspace, word2vec's own loss")
    text = "share, word2vec's own loss, rival: the eigenspace of mutual information (must fail)"
    docket.seal("mutual", word_embedding_modes(**even, rtol=0.1), text, law="", knobs={})
    half, w = train_even(start, m, vectors, values, lr, int(1.4 * said.value.max()))
    met = bool(np.isfinite(half).all())
    times = Reading(half if met else None, np.full(modes, 0.5), "steps")
    docket.judge("times", times, applies=met, why="" if met else "a mode was not half learned")
    docket.judge("same", times, applies=met, why="" if met else "a mode was not half learned")
    docket.judge("share", Reading(overlap(w.T @ w, m, shared), 0.0, "share"))
    curve = train_word2vec(P, min(size, 32), steps, seed)
    often = m * (P + np.outer(P.sum(1), P.sum(1)))  # which the loss weighs as it does
    rows = [{"steps": t, "with M*": overlap(s, m, shared), "with mutual information": overlap(s, ppmi, shared),
             "with M* weighted by frequency": overlap(s, often, shared)} for t, s in curve.items()]  # fmt: skip
    docket.judge("word2vec", Reading(rows[-1]["with M*"], 0.0, "share", {"steps": steps}))
    docket.judge("mutual", Reading(rows[-1]["with mutual information"], 0.0, "share", {"steps": steps}))
    first = [{"mode": i, "λ": float(values[i]), "law": float(said.value[i]), "half learned at": float(half[i]),
              "ratio": float(half[i] / said.value[i]), "words": " ".join(vocabulary[np.argsort(-np.abs(vectors[:, i]))[:5]])}
             for i in range(modes)]  # fmt: skip
    return {"evenly weighted embeddings": first, "word2vec's own loss": rows}


def train_even(
    w: np.ndarray, m: np.ndarray, vectors: np.ndarray, values: np.ndarray, lr: float, steps: int
) -> tuple[np.ndarray, np.ndarray]:
    """Descent on ¼‖M − WᵀW‖²: (step at which each mode passes half its eigenvalue, between steps by a line; W)."""
    half, before = np.full(len(values), np.inf), np.square(w @ vectors).sum(0)
    for step in range(1, steps + 1):
        w = w + lr * (w @ m - (w @ w.T) @ w)
        now = np.square(w @ vectors).sum(0)
        new = (now >= values / 2) & np.isinf(half)
        half[new] = step - 1 + (values[new] / 2 - before[new]) / (now - before)[new]
        before = now
    return half, w


def train_word2vec(P: np.ndarray, size: int, steps: int, seed: int, *, lr: float = 30.0) -> dict[int, np.ndarray]:
    """WᵀW along descent on word2vec's expected loss, −Σ P ln σ(z) + p pᵀ ln σ(−z) with z = WᵀW, from a small start."""
    w = 1e-2 * np.random.default_rng((seed, 6)).standard_normal((size, len(P)))
    alone, kept = np.outer(P.sum(1), P.sum(1)), {}
    for step in range(1, steps + 1):
        s = 1 / (1 + np.exp(-w.T @ w))
        w = w + lr * (w @ (P * (1 - s) - alone * s))
        if step in (max(steps // 100, 1), steps // 8, steps // 4, steps // 2, steps):
            kept[step] = w.T @ w
    return kept


def overlap(a: np.ndarray, b: np.ndarray, k: int) -> float:
    """The share of the top-k eigenspace of one symmetric matrix in that of another, 0 to 1."""
    x, y = (np.linalg.eigh(z)[1][:, -k:] for z in (a, b))
    return float(np.square(x.T @ y).sum() / k)


@cache
def cooccurrences(words: int) -> tuple[np.ndarray, np.ndarray]:
    """The most frequent words of Python's standard library, and how often two lie within five words, as frequencies."""
    text = [
        f.read_text(encoding="utf8", errors="ignore") for f in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    ]
    tokens = np.array([w for t in text for w in re.findall(r"[a-z]+", t.lower())])
    known, inverse, counts = np.unique(tokens, return_inverse=True, return_counts=True)
    top = np.argsort(-counts, kind="stable")[:words]
    place = np.full(len(known), -1)
    place[top] = np.arange(len(top))
    ids = place[inverse]
    pairs = np.zeros((words, words))
    for gap in range(1, WINDOW + 1):
        a, b = ids[:-gap], ids[gap:]
        both = (a >= 0) & (b >= 0)
        np.add.at(pairs, (a[both], b[both]), 1.0)
    pairs += pairs.T
    return known[top], pairs / pairs.sum()
