"""Two networks of one training loss: can it be told from inside which has learnt the rule and which the shortcut?"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from strobe.core.cards import study
from strobe.core.errors import BadOption
from strobe.core.prediction import Prediction, Verdict, judge
from strobe.core.reading import Reading
from strobe.core.report import Report
from strobe.core.snapshot import Snapshot
from strobe.numerics.auc import auc
from strobe.observables.interaction_energy import interaction_energy
from strobe.observables.llc import llc
from strobe.runs.loop import train
from strobe.runs.notes import Notes
from strobe.runs.recorder import Recorder
from strobe.runs.schedule import log_spaced
from strobe.studies.side_by_side import Descent, side_by_side
from strobe.systems.cue_parity import cue_parity

QUESTION = "At one training loss, can it be told from inside which network has learnt the rule and which the shortcut?"
MIXES = (1.0, 0.98, 0.9, 0.5, 0.0)  # share of the rows whose cue is right on purpose
TARGET, HELD = 0.002, 0.1  # nats of all that is trained on, and how far from it counts as the same
SETS = {"cue": [0], "rule": [1, 2]}
ROWS = 512  # of conflict, and held out
GAMMA = 10.0  # one for all: the default goes with |w|
LOOK = 5  # steps from one kept place to the next
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Size:
    seeds: int
    steps: int
    recorded: int
    budget: int
    chains: int


SCALES = {
    "tiny": _Size(2, 60, 60, 200, 4),
    "small": _Size(10, 4000, 3000, 2000, 16),
    "full": _Size(50, 4000, 3000, 10_000, 32),
}


@study(
    question="At one training loss, can it be told from inside which network has learnt the rule and which the shortcut?",
    ref="",
)
def same_loss_different_inside(
    out: Path, *, scale: str = "small", seed: int = 0, progress: Progress | None = None
) -> Report:
    """Networks that are right on all training rows and at one loss, told apart before a row with a wrong cue is shown.

    Five mixes of data, side by side: the cue is y always, in 98, 90 or 50% of the rows, or a coin (as in the other rows).
    Each network is taken where its training loss first is 0.002 nats. From inside: the share of its output that is the
    cue's parity and the rule's (`interaction_energy`: outputs on all inputs, no label), and λ̂ on the training rows.
    Sealed before training: where the cue has more energy than the rule, at most 5% of the conflict rows come out right,
    else 95% or more, and so by mix as in the specification; λ̂ is smaller for the shortcut, which needs one bit. Only then
    the conflict rows are opened. Errors are over seeds (start, batches; the data are one draw each).
    Cost: seconds at "tiny", two minutes at "small" on one core. Raises `BadOption`.
    Ref: the setting and its figures: specs/attrib.md, 2.10, after the position paper "You are what you eat".
    """
    if scale not in SCALES:
        raise BadOption(f"scale is 'tiny', 'small' or 'full', got {scale!r}")
    return _Study(out, SCALES[scale], seed, progress or (lambda *_: None)).report()


def energy(snap: Snapshot) -> Reading:
    """The shares of cue and rule in the logit, of all inputs."""
    return interaction_energy(snap, bits=snap.data[0].shape[1], sets=SETS)


def right(snap: Snapshot, data: tuple[Tensor, Tensor]) -> float:
    """The share of rows whose logit has the sign of their label."""
    with snap.quiet() as model, torch.no_grad():
        return float(((model(data[0]) > 0) == (data[1] > 0.5)).float().mean())


@dataclass
class _Study:
    out: Path
    size: _Size
    seed: int
    progress: Progress
    sealed: dict[str, Prediction] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)

    def report(self) -> Report:
        """Seal, record one, train all, look inside, and open the conflict rows last."""
        s = self.size
        path = train(cue_parity(mix=0.9), self.out / "recorded", steps=s.recorded, seed=self.seed, setup=self._seal,
                     snapshots=log_spaced(8))  # fmt: skip
        seeds = [1000 * (self.seed + 1) + i for i in range(s.seeds)]
        worlds = [cue_parity(mix=m) for m in MIXES for _ in seeds]
        runs = side_by_side(worlds, seeds * len(MIXES), steps=s.steps, at=range(0, s.steps + 1, LOOK),
                            progress=lambda i, of: self.progress("side by side", i, of))  # fmt: skip
        rows = []
        for i, (world, run) in enumerate(zip(worlds, runs, strict=True)):
            snap, loss = _matched(run, world.facts["rows"])
            rows.append(
                self._inside(world.knobs["mix"], snap, loss, seeds[i % s.seeds], world.facts["rows"], world.probe(0))
            )
            self.progress("looking inside", i + 1, len(runs))
        with Notes(path) as self.notes:
            self.notes.event("opened", text=f"looked inside {len(rows)} networks; the conflict rows are opened now")
            for row, world, run in zip(rows, worlds, runs, strict=True):
                row["conflict"] = right(run.at(row["step"]), world.facts["conflict"])
            self._judge_all(rows)
        by = [[r for r in rows if r["mix"] == m] for m in MIXES]
        summary = [{"mix": m, **{k: _mean(mine, k) for k in ("loss", "train", "in distribution", "cue", "rule", "λ̂", "conflict")},
                    "sd of λ̂": float(np.std([r["λ̂"] for r in mine], ddof=1))} for m, mine in zip(MIXES, by, strict=True)]  # fmt: skip
        return Report(QUESTION, self.verdicts, [path], {"by mix, means over seeds": summary, "every network": rows},
                      ["Sharkey et al. 2025, arXiv:2501.16496 (open problems)", "Lau et al. 2023, arXiv:2308.12108"],
                      {"loss": TARGET, "γ": GAMMA, "networks": len(rows)})  # fmt: skip

    def _seal(self, rec: Recorder) -> None:
        def say(key: str, of: str, value: float, side: Any) -> None:
            when = f"all right on their training rows, at losses equal to {HELD:.0%}"
            self.sealed[key] = rec.seal(Prediction(of, value, 0.0, when=when, side=side))

        say("same", f"largest |training loss / {TARGET} - 1|", HELD, "below")
        say("inside", "mean |share of conflict rows right - (energy of rule > energy of cue)|", 0.05, "below")
        say("1.0", "conflict rows right, mix 1.0", 0.05, "below")
        for m in MIXES[2:]:  # of 0.98 the specification says nothing
            say(str(m), f"conflict rows right, mix {m}", 0.95, "above")
        say("cue", "energy of the cue, mix 1.0", 0.9, "above")
        say("rule", "energy of the rule, mix 0", 0.9, "above")
        say("llc", "ln of λ̂ at mix 1.0 over that at mix 0", 0.0, "below")
        say("tells", "AUC of λ̂, networks with most conflict rows wrong below the others", 0.95, "above")
        rec.watch(energy, every=log_spaced(8))
        rec.event("page", question=QUESTION, caption="One network, mix 0.9; the study's others run side by side.", panels=[
            {"title": "what the logit is made of", "series": ["energy"], "unit": "share", "labels": {"energy": "parity of"}},
            {"title": "training loss", "series": ["loss"], "unit": "nats", "log": True},
        ])  # fmt: skip

    def _inside(self, mix: float, snap: Snapshot, loss: float, seed: int, rows: Any, probe: Any) -> dict[str, Any]:
        s, seen = self.size, energy(snap)
        got = llc(Snapshot(snap.model, snap.loss, rows), gamma=GAMMA, chains=s.chains, budget=s.budget, seed=seed)
        return {"mix": mix, "seed": seed, "step": snap.step, "loss": loss, "train": right(snap, rows),
                "in distribution": right(snap, probe), "cue": float(seen.value[0]), "rule": float(seen.value[1]),
                "λ̂": got.value, "err": got.err, "flags": len(got.how["flags"])}  # fmt: skip

    def _judge_all(self, rows: list[dict[str, Any]]) -> None:
        off = np.array([abs(r["loss"] / TARGET - 1) for r in rows])
        same = bool(off.max() <= HELD) and min(r["train"] for r in rows) == 1.0
        why = "" if same else f"losses differ by {off.max():.0%}, or some training rows are wrong"

        def say(key: str, x: Any, *, applies: bool = same) -> None:
            x = np.atleast_1d(np.asarray(x, float))
            err = max(float(x.std(ddof=1)), 1 / ROWS) / len(x) ** 0.5 if len(x) > 1 else 0.0  # no row in ROWS: not nil
            verdict = judge(
                self.sealed[key], Reading(float(x.mean()), err, "", {"networks": len(x)}), applies=applies, why=why
            )
            self.verdicts.append(self.notes.verdict(verdict))

        def of(mix: float, key: str) -> np.ndarray:
            return np.array([r[key] for r in rows if r["mix"] == mix], float)

        say("same", off.max(), applies=True)
        say("inside", [abs(r["conflict"] - (r["rule"] > r["cue"])) for r in rows])
        for m in (1.0, *MIXES[2:]):
            say(str(m), of(m, "conflict"))
        say("cue", of(1.0, "cue"))
        say("rule", of(0.0, "rule"))
        say("llc", np.log(np.maximum(of(1.0, "λ̂"), 1e-9) / np.maximum(of(0.0, "λ̂"), 1e-9)))
        wrong = np.array([r["conflict"] < 0.5 for r in rows])
        told = same and bool(wrong.any() and not wrong.all())
        value, err = auc(-np.array([r["λ̂"] for r in rows]), wrong) if told else (None, 0.0)
        verdict = judge(self.sealed["tells"], Reading(value, err, "", {"err": "DeLong"}), applies=told, why=why)
        self.verdicts.append(self.notes.verdict(verdict))


def _matched(run: Descent, rows: Any) -> tuple[Snapshot, float]:
    """Where the loss of all training rows first is the target or less, and that loss; else the end."""
    losses = run.loss.losses(run.places, rows)
    below = (losses <= TARGET).nonzero()
    i = int(below[0]) if len(below) else len(losses) - 1
    return run.at(run.steps[i]), float(losses[i])


def _mean(rows: list[dict[str, Any]], key: str) -> float:
    return float(np.mean([r[key] for r in rows]))
