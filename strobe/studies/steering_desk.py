"""What a seed of the steering study works on: documents, activations, prompts on one trained network, and the exact judge."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import stdtrit
from torch import Tensor, nn

from strobe.core.capture import Activations, capture
from strobe.core.reading import Reading
from strobe.core.system import System
from strobe.features.concept import Concept
from strobe.features.concept_table import concept_of
from strobe.features.dose_response import DoseResponse, dose_response, own_log_likelihood, written
from strobe.features.methods import METHODS, Shelf
from strobe.numerics.rfm import Span
from strobe.systems.two_languages import Language

TOPIC, PROMPT, WRITTEN = 2, 10, 24  # the topic that is steered to; tokens of a prompt, and written
ALONE, LANGUAGE, SUCCESS, MOOD = (
    "own log-likelihood, read alone",
    "language's log-likelihood",
    "success",
    "mood + share",
)


@dataclass(frozen=True, eq=False)
class Desk:
    """One seed's documents, activations and prompts on one trained network."""

    world: System
    model: nn.Module
    acts: Activations
    topic: Tensor
    mood: Tensor
    unit: float
    prompts: tuple[Tensor, Tensor]
    seed: int

    @property
    def language(self) -> Language:
        found: Language = self.world.facts["language"]
        return found

    @classmethod
    def of(cls, world: System, model: nn.Module, documents: int, prompts: int, seed: int) -> "Desk":
        rng, L = np.random.default_rng((seed, 41)), world.facts["language"]
        x, k, m = L.documents(rng, documents, 24, language=0)
        acts = capture(model, x, world.facts["sites"], batch=256)
        unit = float(np.mean([float(acts[s].norm(dim=1).mean()) for s in acts.sites]))
        others = [t for t in range(len(L.P) - 1) if t != TOPIC]
        prompt, _, _ = L.documents(rng, prompts, PROMPT, language=0, topic=rng.choice(others, prompts), mood=0)
        return cls(world, model, acts, k, m, unit, (prompt, torch.from_numpy(rng.random((prompts, WRITTEN)))), seed)

    def vectors(self, method: str, on: Tensor) -> list[Concept]:
        made = []
        for site in self.acts.sites:
            shelf = Shelf(Span.of(self.acts[site]), torch.where(on, 1.0, -1.0), self.seed)
            made.append(
                concept_of(shelf, METHODS[method].fitted(shelf, torch.arange(len(on)), {}), site, {"method": method})
            )
        return made

    def steer(
        self, arms: dict[str, list[Concept]], doses: Sequence[float], language: int = 0, random: int = 0
    ) -> DoseResponse:
        L, words = self.language, self.language.of(language)
        prompt, uniform = self.prompts
        if language:  # the same prompts in the other words
            prompt = torch.where(prompt > 1, prompt + L.size, torch.where(prompt == 1, 2, prompt))
        own = own_log_likelihood(PROMPT, words)

        def spoken(text: Tensor) -> Tensor:
            content = (L.kind(text[:, PROMPT:]) == 0).sum(1).clamp_min(1)
            return torch.from_numpy(L.topic_scores(text, PROMPT)[:, :-1].max(1)) / content

        def alone(text: Tensor) -> Tensor:
            return own_log_likelihood(2, words)(self.model, torch.cat([text[:, :2], text[:, PROMPT:]], 1))

        measures = {
            SUCCESS: lambda text: torch.from_numpy(L.topic_scores(text, PROMPT)[:, :-1].argmax(1) == TOPIC).double(),
            MOOD: lambda text: (L.kind(text[:, PROMPT:]) == 2).double().mean(1),
            LANGUAGE: spoken,
            ALONE: alone,
        }
        return dose_response(
            self.model, (prompt, uniform), arms, doses, measures, run=written(WRITTEN, words), likelihood=own, unit=self.unit,
            random=random, seed=self.seed,
        )  # fmt: skip


def over(parts: Sequence[np.ndarray]) -> Reading:
    """Mean over seeds; err over seeds, at least that of so many independent numbers (one more of each outcome for shares)."""
    every = np.concatenate(parts)
    means = [float(p.mean()) for p in parts]
    least = float(every.std()) / len(every) ** 0.5
    if set(np.unique(every)) <= {0.0, 1.0}:
        p = (every.sum() + 1) / (len(every) + 2)
        least = float(np.sqrt(p * (1 - p) / len(every)))
    return Reading(
        float(np.mean(means)), max(spread_of_mean(means), least), "", {"seeds": len(parts), "inputs": len(every)}
    )


def spread_of_mean(values: Sequence[float] | np.ndarray) -> float:
    """Of which two reach as far as Student's 95% interval of the mean: for five values 1.4 standard errors."""
    n = len(values)
    return float(np.std(values, ddof=1) / n**0.5 * stdtrit(n - 1, 0.975) / 2)
