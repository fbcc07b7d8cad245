"""Do two statistics of a text say how fast the loss falls with the number of training tokens?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from strobe.core.cards import study
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.core.snapshot import Snapshot
from strobe.core.system import System
from strobe.laws.data_exponent import data_exponent
from strobe.numerics.power_decay import Decay, decay
from strobe.observables.token_correlation import token_correlation
from strobe.observables.token_loss import loss_by_position
from strobe.observables.tokens import losses_of
from strobe.studies.copied_chain import STRENGTH, VOCAB, Chain, Scorer, lag_weights
from strobe.studies.docket import Docket, Progress, sized
from strobe.systems.attention_language import attention_language
from strobe.systems.text import text

QUESTION = "Do two statistics of a text say how fast the loss falls with the number of training tokens?"
SCALES = {  # tokens for statistics at most; of chains: powers of two of D, streams each; of text: steps on all, on a part; windows
    "tiny": ((200_000, (10, 12, 14, 16), 1), (15, 15, 64)),
    "small": ((4_000_000, (12, 14, 16, 18, 20), 6), (1000, 600, 1024)),
    "full": ((16_000_000, (12, 14, 16, 18, 20, 22), 16), (10_000, 10_000, 4096)),
}
DECAYS, ORDERS = (1.25, 1.75), (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96)  # of the chains
FEW = 16  # powers of two of D up to which streams are cheap, and four times as many
DRIFT = 0.25  # of an exponent, between the lower and the upper half of the lags: above it, it is no power law
WORDS, CONTEXT, BATCH = 512, 64, 16  # of the text and its transformer
HELD, EVERY, PATIENCE = 128, 25, 5  # held-out windows to stop on, steps between looks at them, looks without a gain
PARTS = (4096, 8192, 16_384, 32_768, 65_536)  # training tokens of the text


@study(question="Do two statistics of a text say how fast the loss falls with training tokens?", ref="arXiv:2602.07488")
def data_scaling(out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None) -> Report:
    """Chains of copied tokens with known long memory, and the standard library's text: γ and β first, then training on ever more tokens.

    Chains: β from correlations and γ from models of growing order on one long stream; sealed; then predictors linear in their context,
    their order chosen on a stream of its own, learn from D tokens. Text: β from correlations, γ from the loss by position of a transformer
    trained on all of it; sealed; then the same transformer learns from D tokens, stopped where a held-out part is best. Nulls: the rate ½
    and γ alone, which must fail on chains; shuffled tokens, which are outside.
    Cost: ten seconds at "tiny", 100 s at "small". Raises `BadOption`.
    """
    (long, powers, streams), budget = sized(scale, SCALES)
    tables: dict[str, list[dict[str, Any]]] = {
        "exponents": [],
        "loss on D tokens of a chain": [],
        "loss on D tokens of text": [],
        "correlations of text": [],
    }
    world = attention_language(context=CONTEXT, batch=BATCH, vocab=WORDS, probe_size=16)
    with Docket(world, out / "recorded", QUESTION, steps=min(budget[0], 100), seed=seed) as docket:
        for i, far in enumerate(DECAYS):
            _chain(docket, Chain(far), long, powers, streams, seed, tables)
            if progress:
                progress("chains", i + 1, len(DECAYS))
        _text(docket, world, long, budget, seed, tables, progress)
    return docket.report(
        tables, ["Cagnetta, Raventós, Ganguli and Wyart 2026, arXiv:2602.07488", "Shibata 1980, Annals of Statistics 8"],
        vocab=VOCAB, strength=STRENGTH, streams=streams,
    )  # fmt: skip


def _chain(
    docket: Docket, chain: Chain, long: int, powers: Sequence[int], streams: int, seed: int, tables: dict[str, list[dict[str, Any]]]
) -> None:  # fmt: skip
    name, lags = f"chain n^−{chain.beta:g}", np.array([2, 4, 8, 16, 32])
    scorer, stream = Scorer(chain, (seed, 1)), chain.draw(long, (seed, 2))
    beta, seen = _correlation(stream, lags[:4], 0.0)
    parts = [[scorer.excess(w) for w in lag_weights(part, lags.tolist())] for part in np.array_split(stream, 4)]
    whole = np.array([scorer.excess(w) for w in lag_weights(stream, lags.tolist())])
    gamma = decay(lags, whole, np.std(parts, 0, ddof=1) / 2, floor=0.0)
    said = _seal(docket, name, gamma, beta)
    far = data_exponent(gamma=2 * chain.beta - 1, beta=chain.beta)
    docket.seal(
        f"{name} far", far, f"exponent of the loss in D, {name}, from the exponents it was built with", fitted=0
    )
    docket.seal(
        f"{name} half",
        said,
        f"exponent of the loss in D, {name}, rival ½ (must fail)",
        value=0.5,
        tol=0.05,
        fitted=0,
        law="",
        knobs={},
    )
    docket.seal(
        f"{name} gamma",
        said,
        f"exponent of the loss in D, {name}, rival γ (must fail)",
        value=gamma.exponent,
        tol=0.05,
        law="",
        knobs={},
    )
    docket.seal(f"{name} shuffled", said, f"exponent of the loss in D, {name}, shuffled (outside)")
    chooser, sizes, losses = Scorer(chain, (seed, 3)), [2**p for p in powers], []
    for p in powers:
        row = []
        for k in range(max(streams, 2) if p > FEW else 4 * streams):
            fits = [np.zeros(1), *lag_weights(chain.draw(2**p, (seed, 4, p, k)), ORDERS)]
            row.append(scorer.excess(min(fits, key=chooser.excess)))
        losses.append(row)
        tables["loss on D tokens of a chain"].append(
            {
                "chain": name,
                "D": 2**p,
                "loss above the entropy rate": float(np.mean(row)),
                "err": float(np.std(row, ddof=1)) / len(row) ** 0.5,
            }
        )
    mean, err = (np.array([f(x) for x in losses]) for f in (np.mean, lambda x: np.std(x, ddof=1) / len(x) ** 0.5))
    found = decay(np.array(sizes), mean, err, floor=0.0)
    read, power = Reading(found.exponent, found.err, "", {"misfit": found.misfit}), seen and _steady(gamma, beta)
    docket.judge(
        name,
        read,
        applies=power,
        why="" if power else "γ or β is not known: no power law over these lags, or an error of more than half",
    )
    docket.judge(f"{name} far", read)
    docket.judge(f"{name} half", read)
    docket.judge(f"{name} gamma", read)
    shuffled = np.random.default_rng((seed, 5)).permutation(stream)
    _, still = _correlation(shuffled, lags[:3], 0.0)
    docket.judge(
        f"{name} shuffled", Reading(None), applies=still, why="" if still else "no correlation stands out of its noise"
    )
    tables["exponents"].append(_row(name, gamma, beta, docket, found, chain.beta))


def _text(
    docket: Docket, world: System, long: int, budget: tuple[int, int, int], seed: int, tables: dict[str, list[dict[str, Any]]],
    progress: Progress | None,
) -> None:  # fmt: skip
    steps, most, windows = budget
    found, name = text(vocab=WORDS), "standard library"
    rng = np.random.default_rng((seed, 6))
    every = np.lib.stride_tricks.sliding_window_view(found.train, CONTEXT + 1)[::CONTEXT]
    held = np.lib.stride_tricks.sliding_window_view(found.held, CONTEXT + 1)[::CONTEXT]
    picked = held[rng.permutation(len(held))[: HELD + windows]].astype(np.int64)
    stop_on, judge_on = (torch.from_numpy(x) for x in (picked[:HELD], picked[HELD:]))
    lags = np.array([1, 2, 4, 8, 16, 32, 64, 128])
    beta, seen = _correlation(found.train[:long], lags, None, tables["correlations of text"])
    reference, _ = _fit(world, every, steps, stop_on, seed, early=False)
    by_length = loss_by_position(Snapshot(reference, _loss, judge_on))
    at = np.unique(np.geomspace(1, CONTEXT, 10).astype(int))  # position t has t + 1 tokens before the next
    gamma = decay(at, by_length.value[at - 1], by_length.err[at - 1])
    said = _seal(docket, name, gamma, beta)
    docket.seal(
        f"{name} half", said, f"exponent of the loss in D, {name}, rival ½", value=0.5, tol=0.05, law="", knobs={}
    )
    docket.seal(f"{name} shuffled", said, f"exponent of the loss in D, {name}, shuffled (outside)")
    losses, limited = [], True
    for i, count in enumerate(PARTS):
        part = every[rng.permutation(len(every))[: count // CONTEXT]]
        model, turned = _fit(world, part, most, stop_on, seed, early=True)
        losses.append(losses_of(Snapshot(model, _loss, judge_on)).mean(1))
        limited = limited and turned
        if progress:
            progress("parts of text", i + 1, len(PARTS))
        row = {
            "D": count,
            "loss": float(losses[-1].mean()),
            "err": float(losses[-1].std(ddof=1)) / len(judge_on) ** 0.5,
        }
        tables["loss on D tokens of text"].append(row | {"held-out loss turned up": turned})
    y = np.array(losses)
    # the windows are the same for all D: what they share moves the floor, not the exponent
    apart = (y - y.mean(0)).std(1, ddof=1) / y.shape[1] ** 0.5
    fall = decay(np.array(PARTS), y.mean(1), apart)
    read, power = Reading(fall.exponent, fall.err, "", {"misfit": fall.misfit}), _steady(gamma, beta)
    why = "" if power and seen else "γ or β is not known: no power law over these lags, or an error of more than half"
    why = why or ("" if limited else "training was not limited by data: the held-out loss still fell at the last step")
    docket.judge(name, read, applies=not why, why=why)
    docket.judge(f"{name} half", read, applies=limited, why="" if limited else why)
    _, still = _correlation(rng.permutation(found.train[:long]), lags[:3], 0.0)
    docket.judge(
        f"{name} shuffled", Reading(None), applies=still, why="" if still else "no correlation stands out of its noise"
    )
    tables["exponents"].append(_row(name, gamma, beta, docket, fall))


def _correlation(
    tokens: np.ndarray, lags: np.ndarray, floor: float | None, rows: list[dict[str, Any]] | None = None
) -> tuple[Decay, bool]:
    """(the decay of the correlation's norm, does it stand out of its noise at every lag)."""
    read = token_correlation(
        Snapshot(nn.Identity(), _loss, torch.from_numpy(tokens)), distances=lags.tolist(), norm="frobenius"
    )
    if rows is not None:
        rows += [
            {"distance": int(n), "norm": float(v), "err": float(e)}
            for n, v, e in zip(lags, read.value, read.err, strict=True)
        ]
    return decay(lags, np.maximum(read.value, 0.0), read.err, floor=floor), bool((read.value > 3 * read.err).all())


def _steady(*found: Decay) -> bool:
    return all(abs(d.drift) <= DRIFT * d.exponent and 2 * d.err <= d.exponent for d in found)


def _seal(docket: Docket, name: str, gamma: Decay, beta: Decay) -> Any:
    said = data_exponent(gamma=gamma.exponent, beta=beta.exponent, gamma_err=gamma.err, beta_err=beta.err)
    return docket.seal(name, said, f"exponent of the loss in D, {name}")


def _row(
    name: str, gamma: Decay, beta: Decay, docket: Docket, alpha: Decay, far: float | None = None
) -> dict[str, Any]:
    """What was found for one text; `far`, the β it was built with, and γ = 2β − 1 with it."""
    p = docket.sealed[name]
    row: dict[str, Any] = {"text": name}
    for key, found, built in (("γ", gamma, 2 * far - 1 if far else None), ("β", beta, far), ("α", alpha, None)):
        row |= {key: found.exponent, f"{key} err": found.err, f"drift of {key}": found.drift} | (
            {f"{key} far": built} if key != "α" else {}
        )
    return row | {"γ / 2β": p.value, "tolerance": p.tol}


def _fit(
    world: System, windows: np.ndarray, steps: int, held: Tensor, seed: int, *, early: bool
) -> tuple[nn.Module, bool]:
    """(a transformer trained on these windows, put back to where its held-out loss was least; did that loss rise before the end?)"""
    model, rng = world.build(seed), np.random.default_rng((seed, len(windows)))
    optimizer = world.optimizer(model, world.lr)
    best, kept, since = np.inf, model.state_dict(), 0
    for t in range(steps):
        ids = rng.integers(len(windows), size=BATCH)
        optimizer.zero_grad()
        _loss(model, torch.from_numpy(windows[ids].astype(np.int64))).backward()
        optimizer.step()
        if early and t % EVERY == EVERY - 1:
            with torch.no_grad():
                value = _loss(model, held).item()
            since = 0 if value < best else since + 1
            if value < best:
                best, kept = value, {k: v.clone() for k, v in model.state_dict().items()}
            elif since == PATIENCE:
                break
    if early:
        model.load_state_dict(kept)
    return model, since == PATIENCE


def _loss(model: nn.Module, tokens: Tensor) -> Tensor:
    return cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
