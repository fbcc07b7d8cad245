"""What steering does, dose by dose, beside directions that mean nothing: random ones, and those of labels dealt at random."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from strobe.core.capture import Activations, still
from strobe.core.data import count, mapped
from strobe.core.errors import BadOption
from strobe.core.site import Site
from strobe.core.tap import patch
from strobe.features.concept import Concept
from strobe.numerics.probes import difference_of_means

Arm = Sequence[Concept]  # steered together, each at its site; several at one site add up
Measure = Callable[[Any], Tensor]
ROWS = 2048  # examples that pass together


@dataclass(frozen=True, slots=True, eq=False)
class DoseResponse:
    """values[measure][arm] is (doses, inputs), one number an input; the first of `doses` is 0: the model as it is."""

    doses: tuple[float, ...]
    values: Mapping[str, Mapping[str, np.ndarray]]

    def table(self) -> list[dict[str, Any]]:
        """Rows of arm and dose; of each measure the mean, and its standard error over inputs."""
        rows = []
        for arm in next(iter(self.values.values())):
            for i, dose in enumerate(self.doses):
                row: dict[str, Any] = {"arm": arm, "dose": dose}
                for name, of in self.values.items():
                    x = of[arm][i]
                    err = float(x.std(ddof=1) / len(x) ** 0.5) if len(x) > 1 else math.nan
                    row |= {name: float(x.mean()), f"{name}, err": err}
                rows.append(row)
        return rows


def dose_response(
    model: nn.Module, inputs: Any, arms: Mapping[str, Arm], doses: Sequence[float], measures: Mapping[str, Measure], *,
    run: Callable[[nn.Module, Any], Any] | None = None, likelihood: Callable[[nn.Module, Any], Tensor] | None = None,
    unit: str | float = "norm", random: int = 2, first: int = 0, seed: int = 0,
) -> DoseResponse:  # fmt: skip
    """Steer by every arm at every dose, all in one batch, and measure what comes out.

        x ← x + dose · unit · u / sites     at each site of the arm, for tokens `first` and later

    Args:
        inputs: a batch (nested tensors, one row an input); copies of it for each arm and dose pass together.
        arms: concepts steered together, by name; `random` arms of random directions at the same sites and of the same length are
            added, "random 0", ...; those of shuffled labels come from `shuffled`.
        doses: 0 is added in front: the model without any hook, on the plain batch, bit for bit.
        run: `run(model, inputs)`, what the steered model does (logits by default; or a text it writes: `written`).
        measures: by name, one number a row of what came out. likelihood: the same by the model *without* steering, how likely it
            finds what it wrote (`own_log_likelihood`); it is the measure "own log-likelihood".
        unit: a length in the units of the activations; "norm", the mean over sites of the concepts' norms; or "gap", each concept's own.
    The model runs in eval mode, without gradients, and is left as it was. Err, in the table: over inputs, the arms being given.
    Raises `BadOption`, `SiteNotFound`.
    Ref: doses and sites as in arXiv:2502.03708; the controls are ours.
    """
    ladder = _doses(doses)
    if unit not in ("norm", "gap") and (isinstance(unit, str | bool) or not (math.isfinite(unit) and unit > 0)):
        raise BadOption(f'a dose is in units of "norm", "gap" or a length above 0, got {unit!r}')
    if not arms or not all(arms.values()) or not measures:
        raise BadOption("name at least one arm, with at least one concept, and one measure")
    everything = dict(arms) | _random(next(iter(arms.values())), random, seed)
    n, go = count(inputs), run or (lambda m, x: m(x))

    def told(out: Any, rows: int) -> dict[str, np.ndarray]:
        got = {name: _row(f(out), rows) for name, f in measures.items()}
        return got | ({"own log-likelihood": _row(likelihood(model, out), rows)} if likelihood else {})

    copies = [(name, dose) for name in everything for dose in ladder[1:]]
    together = max(ROWS // n, 1)
    with still(model), torch.no_grad():
        plain = told(go(model, inputs), n)
        found: dict[tuple[str, float], dict[str, np.ndarray]] = {(name, 0.0): plain for name in everything}
        for start in range(0, len(copies), together):
            part = copies[start : start + together]
            many = _repeated(inputs, len(part))
            with patch(model, _shifts([(everything[name], dose) for name, dose in part], n, unit, first)):
                out = go(model, many)
            got = told(out, n * len(part))
            for i, key in enumerate(part):
                found[key] = {name: x[i * n : (i + 1) * n] for name, x in got.items()}
    return DoseResponse(
        tuple(ladder),
        {what: {name: np.stack([found[name, d][what] for d in ladder]) for name in everything} for what in plain},
    )


def shuffled(acts: Activations, labels: Any, sites: Sequence[str] | None = None, *, seed: int = 0) -> list[Concept]:
    """Concepts of labels dealt at random, by difference of means, one a site: directions that the data make of nothing."""
    y = np.asarray(labels.cpu() if isinstance(labels, Tensor) else labels)
    kinds = np.unique(y)
    if len(kinds) != 2:
        raise BadOption(f"labels are of two kinds, these of {len(kinds)}")
    signs = torch.where(torch.from_numpy(np.random.default_rng(seed).permutation(y == kinds[1])), 1.0, -1.0)
    out = []
    for site in acts.sites if sites is None else sites:
        x = acts[site].double()
        mean = x.mean(0)
        u = difference_of_means(x - mean, signs[None].to(x))[0]
        gap = float((x[signs > 0].mean(0) - x[signs < 0].mean(0)).norm())
        out.append(
            Concept(
                site, (u / u.norm())[None].float(), mean.float(), float((x - mean).norm(dim=1).mean()), max(gap, 1e-12)
            )
        )
    return out


def written(
    tokens: int, words: Tensor | None = None, *, context: int | None = None
) -> Callable[[nn.Module, tuple[Tensor, Tensor]], Tensor]:
    """A `run` for models tokens -> logits: inputs (prompts (n, t), uniforms (n, tokens)); the prompts with what the model goes on with.

    Each token is drawn by its uniform number, so that the same input draws alike in every arm; `words` are those it may draw,
    `context` how many tokens it reads at most.
    """

    def run(model: nn.Module, inputs: tuple[Tensor, Tensor]) -> Tensor:
        text, uniform = inputs
        if uniform.shape != (len(text), tokens):
            raise BadOption(f"uniforms are ({len(text)}, {tokens}), one a token, got {tuple(uniform.shape)}")
        for i in range(tokens):
            logits = model(text if context is None else text[:, -context:])[:, -1]
            p = (logits if words is None else logits[:, words]).double().softmax(-1).cumsum(-1)
            drawn = (uniform[:, i : i + 1] > p).sum(-1).clamp_max(p.shape[1] - 1)
            text = torch.cat([text, (drawn if words is None else words[drawn])[:, None]], 1)
        return text

    return run


def own_log_likelihood(start: int, words: Tensor | None = None) -> Callable[[nn.Module, Tensor], Tensor]:
    """A `likelihood`: mean log p(token | those before) of the tokens from `start` on, among `words`, in nats a token."""

    def told(model: nn.Module, text: Tensor) -> Tensor:
        parts = []
        for rows in text.split(256):
            logits = model(rows[:, :-1])[:, start - 1 :]
            if words is not None:
                shut = torch.ones(logits.shape[-1], dtype=torch.bool)
                shut[words] = False
                logits = logits.masked_fill(shut, -torch.inf)
            parts.append(logits.log_softmax(-1).gather(-1, rows[:, start:, None])[..., 0].mean(1))
        return torch.cat(parts)

    return told


def _shifts(
    part: Sequence[tuple[Arm, float]], n: int, unit: str | float, first: int
) -> dict[str | Site, Callable[[Tensor], Tensor]]:
    """By site: add to each row what its arm and dose say."""
    moves: dict[str, list[Tensor | None]] = {}
    for i, (arm, dose) in enumerate(part):
        sites = len({c.site for c in arm})
        one = float(np.mean([c.norm for c in arm])) if isinstance(unit, str) else unit
        for c in arm:
            step = dose * (c.gap if unit == "gap" else one) / sites * c.direction
            row = moves.setdefault(c.site, [None] * len(part))
            row[i] = step if row[i] is None else row[i] + step  # type: ignore[operator]

    def mover(row: list[Tensor | None]) -> Callable[[Tensor], Tensor]:
        d = next(len(v) for v in row if v is not None)
        table = torch.stack([torch.zeros(d) if v is None else v for v in row]).repeat_interleave(n, 0)

        def move(x: Tensor) -> Tensor:
            if x.ndim not in (2, 3) or x.shape[0] != len(table) or x.shape[-1] != d:
                raise BadOption(f"steering moves rows ({len(table)}, ..., {d}), the site carries {tuple(x.shape)}")
            if x.ndim == 2:
                return x + table.to(x)
            at = torch.arange(x.shape[1], device=x.device) >= first
            return x + table.to(x)[:, None] * at[:, None].to(x)

        return move

    return {site: mover(row) for site, row in moves.items()}


def _repeated(inputs: Any, times: int) -> Any:
    return mapped(inputs, lambda t: torch.cat([t] * times) if t.ndim else t)


def _random(like: Arm, draws: int, seed: int) -> dict[str, Arm]:
    """Arms of random directions, at the sites and of the sizes of `like`."""
    g = torch.Generator().manual_seed(seed)
    made: dict[str, Arm] = {}
    for i in range(draws):
        arm = []
        for c in like:
            u = torch.randn(len(c.direction), generator=g)
            arm.append(Concept(c.site, (u / u.norm())[None], c.mean, c.norm, c.gap))
        made[f"random {i}"] = arm
    return made


def _doses(doses: Sequence[float]) -> list[float]:
    ladder = [float(d) for d in doses if d != 0]
    if not ladder or not all(map(math.isfinite, ladder)) or len(set(ladder)) != len(ladder):
        raise BadOption(f"doses are finite numbers, each once, at least one of them not 0, got {list(doses)!r}")
    return [0.0, *ladder]


def _row(x: Tensor, n: int) -> np.ndarray:
    if not isinstance(x, Tensor) or x.shape != (n,):
        shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise BadOption(f"a measure gives one number a row, ({n},), got {shape}")
    return np.asarray(x.detach().double().cpu().numpy())
