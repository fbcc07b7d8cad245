"""A relation between a subject and what the model says of it, as one affine map: the mean Jacobian from the one to the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from strobe.core.capture import frozen
from strobe.core.errors import BadOption, Diverged
from strobe.features.questions import Questions, rows

BETAS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0)


@dataclass(frozen=True, slots=True, eq=False)
class LinearRelation:
    """o ≈ beta W s + b: s what `source` carries at the subject, o what `target` carries at the answer.

    weight W (m, d), the mean Jacobian, and bias b (m,), in double; sigma, left, right: its singular values and vectors, largest first.
    """

    source: str
    target: str
    weight: Tensor
    bias: Tensor
    left: Tensor
    sigma: Tensor
    right: Tensor
    beta: float = 1.0

    def predicted(self, s: Tensor) -> Tensor:
        """beta W s + b, (n, m), of subjects (n, d)."""
        return self.beta * s.to(self.weight) @ self.weight.T + self.bias

    def pulled(self, o: Tensor, rank: int) -> Tensor:
        """W_r⁺ o, (n, d): the smallest change of the subject that W, kept to its `rank` largest singular values, turns into o (n, m).

        Raises `BadOption` for a rank above that of W (singular values below 1e-9 of the largest count as none).
        """
        most = int((self.sigma > 1e-9 * self.sigma[0]).sum())
        if not 1 <= rank <= most:
            raise BadOption(
                f"rank is 1 to {most}, that of the relation from {self.source} to {self.target}; got {rank}"
            )
        return (o.to(self.weight) @ self.left[:, :rank] / self.sigma[:rank]) @ self.right[:rank]

    def concepts(self, objects: Tensor, rank: int) -> Tensor:
        """v = W_r⁺ (o − b), each of length 1, (k, d), of mean objects (k, m): s · v tells how much a subject has the attribute.

        Ref: Chanin, Hunter and Camburu 2023 (arXiv:2311.08968), linear relational concepts.
        """
        v = self.pulled(objects.to(self.weight) - self.bias, rank)
        return v / v.norm(dim=1, keepdim=True).clamp_min(1e-30)

    def answered(self, asked: Questions, s: Tensor | None = None) -> Tensor:
        """Logits (n, words) where the object is the predicted one, of the subjects as they are or of s (n, d): does the map do the work?"""
        o = self.predicted(asked.read(self.source) if s is None else s)
        return asked.answered({self.target: (asked.answer, lambda x: o.to(x))})

    def swapped(self, asked: Questions, objects: Tensor, rank: int) -> Tensor:
        """Logits (n, words) of the whole model with subjects s + W_r⁺ (object − o): does it say then what it says of those objects?

        objects (n, m), or one for all (m,): what `target` carries where the model gives the wanted answer, a mean of such.
        """
        push = self.pulled(objects.to(self.weight) - asked.read(self.target, asked.answer).to(self.weight), rank)
        return asked.answered({self.source: (asked.subject, lambda x: x + push.to(x))})


def linear_relation(
    asked: Questions, source: str, target: str, *, batch: int = 64, chunk: int = 32, progress: Callable[[float], None] | None = None
) -> LinearRelation:  # fmt: skip
    """W = (1/n) Σ J_i and b = (1/n) Σ (o_i − J_i s_i), J_i = ∂o_i / ∂s_i: s_i at `source`, o_i at `target`, from the model itself.

    Args: asked, questions of one relation with different subjects; source, a site before the target, as blocks.1; target, usually the last
    block; `batch` questions and `chunk` features of the object at a time.
    Exact where the model is affine in between. Cost: a forward pass and m backward passes of each question, m the features of the target,
    `chunk` of them as one; no example's own Jacobian is kept. beta is 1: `fit_beta` chooses it on other questions.
    Regime: a map of first order. What the model reads elsewhere than at the subject it does not see, whatever a probe finds there.
    Raises `BadOption`, also where the subject does not reach the object; `SiteNotFound`; `Diverged` where a derivative is not finite.
    Ref: Hernandez et al. 2023 (arXiv:2308.09124), section 3.

    >>> net = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 2))
    >>> found = linear_relation(Questions(net, torch.randn(9, 3)), "0", "1")
    >>> torch.allclose(found.weight.float(), net[1].weight), torch.allclose(found.bias.float(), net[1].bias, atol=1e-6)
    (True, True)
    """
    if chunk < 1:
        raise BadOption(f"chunk is at least 1, got {chunk}")
    weight, bias, done = None, torch.zeros(0, dtype=torch.float64), 0
    with frozen(asked.model), sdpa_kernel(SDPBackend.MATH):  # which takes many cotangents at once
        for part in asked.parts(batch):
            s = part.read(source)
            shift = torch.zeros_like(s).requires_grad_()
            _, seen = part.run({source: (part.subject, shift.add)}, [target])
            o = rows(seen[target], part.answer, len(part), target)
            if weight is None:
                weight, bias = (torch.zeros(o.shape[1], k, dtype=torch.float64) for k in (s.shape[1], 1))
            for first in range(0, o.shape[1], chunk):
                J = _backward(o, shift, first, min(first + chunk, o.shape[1])).double().cpu()  # (features, n, d)
                weight[first : first + chunk] += J.sum(1)
                bias[first : first + chunk, 0] -= (J * s.double().cpu()).sum((1, 2))
            bias[:, 0] += o.detach().double().cpu().sum(0)
            done += len(part)
            if progress is not None:
                progress(done / len(asked))
    assert weight is not None
    weight, bias = weight / done, bias[:, 0] / done
    if not weight.isfinite().all() or not bias.isfinite().all():
        raise Diverged(f"the derivative of {target} by {source} is not finite: look at an earlier step or site")
    if not weight.any():
        raise BadOption(
            f"nothing at the subject of {source} reaches {target} at the answer: name a source before the target"
        )
    left, sigma, right = torch.linalg.svd(weight, full_matrices=False)
    return LinearRelation(source, target, weight, bias, left, sigma, right)


def fit_beta(
    relation: LinearRelation,
    asked: Questions,
    wanted: Tensor,
    *,
    among: Tensor | None = None,
    betas: Sequence[float] = BETAS,
) -> tuple[LinearRelation, list[float]]:
    """The relation at the beta with which it gives the wanted answers (n,) most often, the nearest to 1 of equals; and all the shares.

    The Jacobian is smaller than what the model makes of large changes, through its layer norms: hence beta. Choose it on questions that
    are not those it is tested on. among: the words that compete (default all). Raises `BadOption`.
    """
    if not betas or wanted.shape != (len(asked),):
        raise BadOption(
            f"give betas, and one wanted answer for each of {len(asked)} questions, got {tuple(wanted.shape)}"
        )
    s = asked.read(relation.source)
    tried = [replace(relation, beta=float(b)) for b in betas]
    shares = [float((best(r.answered(asked, s), among) == wanted).double().mean()) for r in tried]
    order = sorted(range(len(tried)), key=lambda i: (-shares[i], abs(tried[i].beta - 1)))
    return tried[order[0]], shares


def best(logits: Tensor, among: Tensor | None = None) -> Tensor:
    """The word (n,) of the largest logit (n, words), of all or of those named."""
    return logits.argmax(1) if among is None else among.to(logits.device)[logits[:, among].argmax(1)]


def _backward(o: Tensor, shift: Tensor, first: int, last: int) -> Tensor:
    """(features first to last, n, d): derivatives of those features of each o_i by its own s_i; inputs do not see each other."""
    ask = torch.eye(o.shape[1], dtype=o.dtype, device=o.device)[first:last, None].expand(-1, len(o), -1)
    if not o.requires_grad:
        return o.new_zeros(last - first, *shift.shape)
    try:
        got = torch.autograd.grad(o, shift, ask, retain_graph=True, is_grads_batched=True, allow_unused=True)[0]
    except RuntimeError:  # a layer whose backward pass does not batch
        each = [torch.autograd.grad(o, shift, a, retain_graph=True, allow_unused=True)[0] for a in ask]
        got = None if each[0] is None else torch.stack(each)
    return o.new_zeros(last - first, *shift.shape) if got is None else got
