"""Vectors that, added to a subject, make the model say an attribute of it: learned from its own probabilities, its weights left alone."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from strobe.core.capture import frozen
from strobe.core.errors import BadOption, Diverged
from strobe.features.questions import Questions


@dataclass(frozen=True, slots=True, eq=False)
class AttributeEdits:
    """One vector e_a (k, d) for each attribute, to be added at the subject; words (k,), what the model is to answer.

    losses (steps,): the mean −ln p of the wanted words, in nats, at each step. weight (d, p) and bias (d,): with encodings, e = W a + b.
    """

    site: str
    words: Tensor
    vectors: Tensor
    losses: Tensor
    weight: Tensor | None = None
    bias: Tensor | None = None

    def of(self, encodings: Tensor) -> Tensor:
        """e = W a + b, (k, d), of encodings (k, p), also of attributes not learned from. Raises `BadOption` where there are none."""
        if self.weight is None or self.bias is None or encodings.shape[-1] != self.weight.shape[1]:
            raise BadOption(
                "these edits were not learned from encodings of this size: give encodings= to attribute_edits"
            )
        return encodings.to(self.weight) @ self.weight.T + self.bias

    def plain(self, which: int, place: int) -> dict[str, Any]:
        """The plain edit of one attribute at one token, for `patch`, forks and journals."""
        e = self.vectors[which].double()
        kwargs = {"direction": e.tolist(), "by": float(e.norm()), "first": place, "tokens": 1}
        return {"act": "site", "site": self.site, "edit": "strobe.edits.steer:steer", "kwargs": kwargs,
                "label": f"word {int(self.words[which])} at {self.site}"}  # fmt: skip


def attribute_edits(
    asked: Questions, site: str, words: Tensor, *, encodings: Tensor | None = None, own: Tensor | None = None, penalty: float = 0.01,
    steps: int = 250, lr: float = 0.1, batch: int = 48, seed: int = 0, progress: Callable[[float], None] | None = None,
) -> AttributeEdits:  # fmt: skip
    """Learn all e_a at once: the least mean of −ln p(word_a | s_i + e_a) + penalty ‖e_a‖² / mean ‖s‖², over subjects i and attributes a.

    Args: asked, questions of one relation, whose subjects need not have the attributes; words (k,), the token the model is to answer for
    each; encodings (k, p), what stands for each attribute: then e_a = W a + b is learned, which speaks of other attributes as well.
    own (n,): the one attribute that each question may be given (default any): with the questions about one subject given one, a vector is
    learned for each subject, as the value to write into a weight for it (`edits.rewrite`).
    Each step asks `batch` questions, each with an attribute drawn at random, in one pass; Adam, at lr times the root mean square of a
    feature of s, falling to 0. The model runs in eval mode; its weights and their gradients stay as they are, bit for bit.
    Regime: the word is one token. What it does to other relations of the subject is not part of the loss: measure it.
    Raises `BadOption`, also where the subject does not reach the answer; `SiteNotFound`; `Diverged` for a loss that is not finite.
    Ref: Hernandez, Li and Andreas 2023 (arXiv:2304.00740), REMEDI, without its term for the prior.
    """
    k = len(words)
    if words.ndim != 1 or words.is_floating_point() or not k or (encodings is not None and len(encodings) != k):
        raise BadOption(f"words are numbers of tokens (k,), encodings (k, p) or none, got words {tuple(words.shape)}")
    if own is not None and (own.shape != (len(asked),) or bool((own < 0).any()) or int(own.max()) >= k):
        raise BadOption(f"own gives each of {len(asked)} questions one of {k} attributes, got {tuple(own.shape)}")
    if steps < 1 or batch < 1 or not lr > 0 or not penalty >= 0:
        raise BadOption(f"steps and batch are at least 1, lr > 0, penalty >= 0; got {steps}, {batch}, {lr}, {penalty}")
    gen = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    with frozen(asked.model):
        s = asked.read(site)
        size = s.square().sum(1).mean()
        unit = (size / s.shape[1]).sqrt()
        code = torch.eye(k).to(s) if encodings is None else encodings.to(s) / encodings.to(s).square().mean().sqrt()
        if not code.isfinite().all() or not float(unit) > 0:
            raise BadOption(f"the encodings are finite and not all zero, nor is what {site} carries")
        learned = [torch.zeros(s.shape[1], code.shape[1]).to(s)]
        if encodings is not None:
            learned.append(torch.zeros(s.shape[1]).to(s))
        for t in learned:
            t.requires_grad_()
        adam = torch.optim.Adam(learned, lr=lr * float(unit))
        for step in range(steps):
            adam.param_groups[0]["lr"] = lr * float(unit) * (1 - step / steps)
            index = torch.randint(len(asked), (batch,), generator=gen)
            which = torch.randint(k, (batch,), generator=gen) if own is None else own[index]
            part = asked.part(index)
            e = _vectors(code, learned)
            logits, _ = part.run({site: (part.subject, e[which.to(e.device)].add)})
            if step == 0 and int(words.max()) >= logits.shape[1]:
                raise BadOption(f"the model has {logits.shape[1]} words; there is no word {int(words.max())}")
            told = cross_entropy(logits, words[which].to(logits.device))
            value = told + penalty * e.square().sum(1).mean() / size
            if not value.isfinite():
                raise Diverged(f"the loss is {float(value.detach())} at step {step}: lower lr={lr}")
            adam.zero_grad()
            value.backward()
            if step == 0 and not any(bool(t.grad.any()) for t in learned if t.grad is not None):
                raise BadOption(f"nothing at the subject of {site} reaches the answer: name a place that it reads")
            adam.step()
            losses.append(float(told.detach()))
            if progress is not None:
                progress((step + 1) / steps)
    vectors = _vectors(code, [t.detach() for t in learned])
    if encodings is None:
        return AttributeEdits(site, words, vectors, torch.tensor(losses))
    scale = encodings.to(s).square().mean().sqrt()
    return AttributeEdits(
        site, words, vectors, torch.tensor(losses), learned[0].detach() / scale, learned[1].detach().clone()
    )


def _vectors(code: Tensor, learned: list[Tensor]) -> Tensor:
    e = code @ learned[0].T
    return e if len(learned) == 1 else e + learned[1]
