"""What the laws say about one recorded run: which apply, which it obeys or breaks, and what that means for its settings."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from strobe.core.data import count, rows
from strobe.core.errors import BadOption, CannotReplay, Diverged, StrobeError
from strobe.core.prediction import judge
from strobe.core.reading import Reading
from strobe.laws.edge_of_stability import edge_of_stability
from strobe.observables.gradient_noise import gradient_noise
from strobe.observables.layer_moves import moved, passing
from strobe.observables.sharpness import preconditioned_sharpness, sharpness
from strobe.runs.run import Run
from strobe.studies.advised_run import Advised

Kind = Literal["wrong", "obeyed", "note", "outside"]
ORDER: tuple[Kind, ...] = ("wrong", "obeyed", "note", "outside")
UNEVEN = 10.0  # how unlike the moves of two layers may be before one learning rate cannot serve both
GAIN = 10.0  # how much larger one layer may make what passes (a small one is often meant: a branch that starts at zero)
NEXT, MEAN = 8, 10  # stored steps looked at for a first move; steps whose mean still speaks of one
POINTS = 9  # stored steps at which the held-out loss is measured
CHUNKS = 16  # of held-out examples, for the error
WORSE = 3.0  # standard errors by which the held-out loss must have risen
MEMORISED = 0.01  # of the first loss: below it a probe is taken for one that was trained on
RISE = 0.02  # and the share of it
SETTLED = 10  # steps after which Adam's second moments are more than one gradient
OPTIMIZERS = {"SGD": "gd", "Adam": "adam", "AdamW": "adam"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: the law, what it says of this run, what was measured, and what that means."""

    kind: Kind
    law: str
    said: str
    measured: str
    means: str
    ref: str = ""
    weight: float = 0.0  # by how much a limit is passed, in octaves: the largest stands first
    numbers: dict[str, Any] = field(default_factory=dict)


def advise(
    run: Run, *, model: nn.Module | None = None, loss: Any = None, probe: Any = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> list[Finding]:  # fmt: skip
    """The laws that apply to a run, what was measured for each, and what that means; what is wrong first, by how much.

    Learning rate: λ₁ at an early and at the last stored step against the edge of its optimizer (`edge_of_stability`).
    Width: how far one step moves each layer's own output, in units of that output, and how layers scale what passes
    (`coordinate_slopes`: in the maximal update parametrisation no layer is left behind or thrown). Data: the held-out loss along
    the run, against its training loss. Batch: the gradient noise scale.
    Only what is measured here is said; a law whose regime is not met is listed as outside, with the reason. Nothing is written.
    Args: model, loss, probe, for a run whose loop cannot be run again (as in `Run.at`).
    Raises `BadOption` for a run without a stored step.
    """
    if not run.stored():
        raise BadOption(f"{run.name} has no stored step to look at: record it with snapshots=")
    about = Advised(run, model, loss, probe)
    checks = {"loss": _lost, "learning rate": _edge, "width": _layers, "data": _data, "batch": _batch}
    found: list[Finding] = []
    for k, (name, check) in enumerate(checks.items()):
        if progress:
            progress(f"measuring: {name}", k, len(checks))
        try:
            found += check(about)
        except StrobeError as e:
            found.append(Finding("outside", name, "", "not measured", str(e)))
        except Exception as e:  # the user's own model or loss: told, and the other laws go on
            found.append(Finding("outside", name, "", "not measured", f"{type(e).__name__}: {e}"))
    if progress:
        progress("measuring", len(checks), len(checks))
    if any(
        f.law == "layer moves" and f.kind == "wrong" for f in found
    ):  # the cause; a rate over the edge is what follows
        found = [replace(f, weight=-1.0, means=f"{f.means} This follows from the layers, above.")
                 if f.kind == "wrong" and f.law == "edge of stability" else f for f in found]  # fmt: skip
    return sorted(found, key=lambda f: (ORDER.index(f.kind), -f.weight))


def _lost(about: Advised) -> list[Finding]:
    """Is the loss a number to the end?"""
    if about.lost is None:
        return []
    _, values = about.losses
    good = values[np.isfinite(values)]
    saw = f"not a number from step {about.lost} on" + (
        f"; {good[0]:.3g} at first, {good[-1]:.3g} at last" if len(good) else ""
    )
    means = "All after that step is lost. If nothing above names the cause, look at the batch of that step and at half precision."
    return [
        Finding(
            "wrong", "finite loss", "the loss is a number at every step", saw, means, "", -0.5, {"step": about.lost}
        )
    ]


def _edge(about: Advised) -> list[Finding]:
    """λ₁ lr over the edge of this optimizer: early, and at the last stored step with a learning rate."""
    finite = about.finite()
    kind, _, _ = about.optimizer(finite[0])
    if kind not in OPTIMIZERS:
        raise CannotReplay(f"edge_of_stability knows no optimizer {kind}; it knows torch.optim.SGD, Adam and AdamW")
    after = 0 if OPTIMIZERS[kind] == "gd" else SETTLED
    usable = [s for s in finite if s >= about.run.start + after] or [s for s in finite if s > about.run.start]
    if not usable:
        raise CannotReplay("no step after the first is stored, and Adam has no preconditioner before it")
    running = lambda steps: next((s for s in steps if float(about.optimizer(s)[1]["lr"]) > 0), None)  # noqa: E731
    early, late = running(usable), running(reversed(usable))
    if early is None or late is None:
        raise CannotReplay("the learning rate is 0 at every stored step")
    found = [_at_edge(about, early)]
    if found[0].kind != "wrong" and late != early and not about.worse:
        found.append(_at_edge(about, late))
    return found


def _at_edge(about: Advised, step: int) -> Finding:
    kind, group, p = about.optimizer(step)
    law, snap = _stable(kind, group), about.at(step)
    got = preconditioned_sharpness(snap, preconditioner=p) if p else sharpness(snap)
    decay = (
        float(group.get("weight_decay", 0.0)) if kind == "SGD" else 0.0
    )  # L2: its curvature adds to every eigenvalue
    reading = Reading(np.ravel(got.value)[0] + decay, np.ravel(got.err)[0], got.unit)
    verdict = judge(replace(law, side="below"), reading)
    times, err = reading.value / law.value, reading.err / law.value
    said = f"stable below λ₁ = {law.value:.4g} (lr {group['lr']:.3g}, {law.knobs['optimizer']})"
    name = f"λ₁ + decay {decay:.2g}" if decay else "λ₁"
    saw = f"{name} = {reading.value:.4g} ± {reading.err:.2g} at step {step}: {times:.3g} ± {err:.1g} of it"
    largest = group["lr"] / times if times > 0 else float("inf")
    numbers = {"step": step, "sharpness": reading.value, "err": reading.err, "edge": law.value, "lr": float(group["lr"]),
               "word": verdict.word, "largest_stable_lr": largest}  # fmt: skip
    kinds: Kind = "obeyed"
    means = f"Stable: curvature alone would allow a rate up to {largest:.2g} here."
    if verdict.word == "fails" and about.worse:
        kinds, (_, values) = "wrong", about.losses
        end = f"{values[-1]:.3g}" if np.isfinite(values[-1]) else "not a number"
        means = (f"The learning rate is {times:.2g} times the largest stable one, {largest:.2g}, and the loss went from "
                 f"{values[0]:.3g} to {end}: start below {largest:.2g}, or warm up to it.")  # fmt: skip
    elif verdict.word == "fails":
        kinds = "note"
        means = "Over the edge, and yet the loss falls: a passing spike, or noise of small batches. Look at the strip there."
    elif times > 0.8:
        means = "At the edge, where training holds its own sharpness: a larger rate would train flatter, or not at all."
    return Finding(kinds, "edge of stability", said, saw, means, law.ref, float(np.log2(max(times, 1e-9))), numbers)


def _stable(kind: str, group: dict[str, Any]) -> Any:
    lr, momentum = float(group["lr"]), float(group.get("momentum", 0.0))
    if OPTIMIZERS[kind] == "adam":
        return edge_of_stability(lr=lr, optimizer="adam", beta1=float(group["betas"][0]))
    if group.get("dampening"):
        raise CannotReplay("edge_of_stability speaks of momentum without dampening")
    name = ("nesterov" if group.get("nesterov") else "heavy_ball") if momentum else "gd"
    return edge_of_stability(lr=lr, optimizer=name, momentum=momentum)


def _layers(about: Advised) -> list[Finding]:
    """How far the first recorded steps move each layer's own output, and how layers scale what passes at the start."""
    finite = about.finite()
    first, later = finite[0], finite[1:NEXT]
    if not later:
        raise CannotReplay("two stored steps are needed to see how layers move")
    snap = about.at(first)
    seen = passing(snap)
    if len(seen) < 2:
        raise CannotReplay("it has fewer than two layers with a matrix: none is left behind by another")
    held = sum(p.numel() for path in seen for p in snap.model.get_submodule(path).parameters(recurse=False))
    unseen = sum(p.numel() for p in snap.model.parameters()) - held
    for then in later:  # a warm-up may begin at a rate of zero
        table = moved(about.at(then), seen, then - first)
        least = min((r for r in table if r["relative"] > 0), key=lambda r: r["relative"], default=None)
        if least is not None:
            break
    most = max(table, key=lambda r: r["relative"])
    moves = [r["relative"] for r in table]
    if least is None:
        raise CannotReplay(f"no layer moved between steps {first} and {then}")
    said = "one step moves no layer's own output by more than its size, and all by like amounts"
    saw = f"{most['layer']} by {most['relative']:.3g} of its size a step, {least['layer']} by {least['relative']:.2g}"
    saw += f" (the mean of steps {first} to {then})" if then - first > 1 else f" (step {first} to {then})"
    saw += f"; {unseen:,} parameters are in modules not looked at" if unseen > 0 else ""
    ref, numbers = "arXiv:2203.03466", {"layers": table, "steps": [first, then]}
    wild = most["relative"] > max(1, UNEVEN * least["relative"]) and least["relative"] < 1  # all thrown: it is the rate
    odd = [r for r in table[:-1] if r["gain"] is not None and r["gain"] > GAIN]
    weight = float(np.log2(max(max(moves), *(r["gain"] / GAIN for r in odd), 1e-9)))
    if odd:
        worst = max(odd, key=lambda r: r["gain"])
        means = (f"At step {first} {worst['layer']} makes what passes {worst['gain']:.3g} times larger: its values do not fit its width. "
                 "Divide their spread by √(inputs), or take the table of strobe.edits.mup.")  # fmt: skip
        said, saw = f"a layer makes what passes at most {GAIN:g} times larger", f"{worst['layer']}: {worst['gain']:.3g}"
        return [Finding("wrong", "layer moves", said, saw, means, ref, weight, numbers)]
    if wild:
        means = (f"One learning rate does not serve these widths: {most['layer']} is thrown while {least['layer']} hardly moves. "
                 "Parametrise for width (strobe.edits.mup.widening) rather than lower the rate for all.")  # fmt: skip
        return [Finding("wrong", "layer moves", said, saw, means, ref, weight, numbers)]
    if max(moves) > 1:
        means = "A step moves a layer by more than its own size. All layers alike: it is the rate, not the width."
        return [Finding("note", "layer moves", said, saw, means, ref, weight, numbers)]
    means = "No layer is thrown by a step."
    if then - first > MEAN:
        means = f"Over {then - first} steps no layer is thrown in the mean; single steps are not known: store steps 0 and 1."
        return [Finding("note", "layer moves", said, saw, means, ref, weight, numbers)]
    return [Finding("obeyed", "layer moves", said, saw, means, ref, weight, numbers)]


def _data(about: Advised) -> list[Finding]:
    """The loss on held-out examples at stored steps, each chunk of them against itself."""
    if about.lost is not None:
        raise CannotReplay(f"the loss is not a number from step {about.lost} on")
    finite = about.finite()
    if len(finite) < 3:
        raise CannotReplay("three stored steps are needed to see a held-out loss turn")
    chosen = sorted({finite[int(i)] for i in np.linspace(0, len(finite) - 1, POINTS)})
    snap = about.at(chosen[0])
    total = count(snap.data)
    size = max(total // CHUNKS, 1)
    parts = [rows(snap.data, i, i + size) for i in range(0, total - size + 1, size)]
    held = []
    for step in chosen:
        snap = about.at(step)
        with snap.quiet(), torch.no_grad():
            held.append([float(snap.loss(snap.model, part)) for part in parts])
    table = np.array(held)
    if not np.isfinite(table).all():
        raise Diverged("the held-out loss is not a number at a stored step")
    mean = table.mean(1)
    best = int(np.argmin(mean))
    rise = table[-1] - table[best]
    x, err = float(rise.mean()), float(rise.std(ddof=1) / len(parts) ** 0.5)
    steps, values = about.losses
    if not about.told:
        raise CannotReplay("no training loss was recorded to set against it: rec.step(loss=loss)")
    width = max(len(steps) // 50, 1)

    def near(step: int) -> float:
        i = int(np.searchsorted(steps, step))
        return float(np.nanmean(values[max(i - width, 0) : i + width + 1]))

    then, now = near(chosen[best]), near(chosen[-1])
    said = "held-out loss falls while the training loss does, until the data are used up"
    saw = (f"held-out {mean[best]:.4g} at step {chosen[best]}, {mean[-1]:.4g} at step {chosen[-1]} (+{x:.3g} ± {err:.1g}); "
           f"training {then:.3g} to {now:.3g}")  # fmt: skip
    if chosen[best] == chosen[-1]:
        saw = f"held-out {mean[0]:.4g} at step {chosen[0]}, {mean[-1]:.4g} at step {chosen[-1]}; training now {now:.3g}"
    numbers = {"steps": chosen, "held_out": mean.tolist(), "rise": x, "err": err, "training": [then, now]}
    if x > WORSE * err and x > RISE * mean[best] and now < then:
        means = (f"Data-limited: past step {chosen[best]} it learns its examples, not the task. More examples or regularisation "
                 "help; more steps or width do not.")  # fmt: skip
        return [
            Finding(
                "wrong",
                "held-out loss",
                said,
                saw,
                means,
                "arXiv:2203.15556",
                float(np.log2(1 + x / mean[best])),
                numbers,
            )
        ]
    if chosen[best] != chosen[-1] and x > WORSE * err:
        return [
            Finding(
                "note", "held-out loss", said, saw, "It rose, with the training loss or by little.", "", 0.0, numbers
            )
        ]
    if mean[-1] < MEMORISED * mean[0] and mean[-1] < 2 * now:
        means = "The probe is fitted as closely as the training data: is it held out? Then nothing is missing."
        return [Finding("note", "held-out loss", said, saw, means, "", 0.0, numbers)]
    gain = mean[0] - mean[-1]
    means = (
        "Not limited by its data so far, if the probe is held out."
        if gain > 0
        else "It did not fall: nothing was learned of these examples."
    )
    return [Finding("obeyed" if gain > 0 else "note", "held-out loss", said, saw, means, "", 0.0, numbers)]


def _batch(about: Advised) -> list[Finding]:
    """The gradient noise scale at the last stored step: the batch size beyond which larger ones gain little."""
    if about.worse:
        raise CannotReplay("the loss ended above its start: the noise there says nothing of a batch size")
    step = about.finite()[-1]
    got = gradient_noise(about.at(step), chunks=min(64, count(about.at(step).data)))
    said = "below the noise scale a batch twice as large does the work of two steps; far above it nothing is gained"
    saw = f"noise scale {got.value:.3g} ± {got.err:.1g} examples at step {step}"
    means = (
        f"Batches up to about {got.value:.2g} examples are worth their cost there, the learning rate growing with them."
    )
    if got.err > got.value / 2:
        means = "Not known from so few examples: the gradient is small against its noise. Give a larger probe."
    numbers = {"noise_scale": got.value, "err": got.err, "step": step}
    return [Finding("note", "gradient noise scale", said, saw, means, "arXiv:1812.06162", 0.0, numbers)]
