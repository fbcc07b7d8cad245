"""The flow about which gradient descent oscillates at the edge of stability."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

NEAR = 0.999  # of 2 / lr: from here on a direction may be active


@dataclass(frozen=True)
class Flow:
    """Along the flow, at each whole step: places (steps, P), losses, Σσ² and the largest eigenvalue, (steps,)."""

    places: Tensor
    losses: np.ndarray
    variances: np.ndarray
    sharpness: np.ndarray
    active: np.ndarray


def flow(
    loss: Callable[[Tensor], Tensor], start: Tensor, *, lr: float, steps: int, central: bool = True, most: int = 3,
    substeps: int = 4, rounds: int = 15, seed: int = 0,
) -> Flow:  # fmt: skip
    """Integrate dw/dt = −lr (∇L + ½ Σ σᵢ² ∇λᵢ) from `start` (P,), with t in steps of descent.

    σ² >= 0 solves (½ lr ∇λᵢ·∇λⱼ) σⱼ² = −lr ∇λᵢ·∇L + (λᵢ − 2 / lr) / relax over the directions at the edge, by
    non-negative least squares: what keeps dλᵢ/dt <= 0 there. ∇λᵢ is the gradient of uᵢᵀ H uᵢ at a held uᵢ, which is exact for a
    single eigenvalue. Without `central` it is gradient flow. `most` directions are followed by subspace iteration, from
    `rounds` rounds at the start; Euler steps of 1 / `substeps`.

    >>> f = flow(lambda w: 2 * w.square().sum(), torch.ones(1), lr=0.1, steps=10, central=False, substeps=100)
    >>> abs(float(f.places[-1]) - 2.718281828 ** (-0.1 * 4 * 9)) < 1e-3
    True
    """
    w = start.detach().clone()
    g = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(len(w), min(most, len(w)), generator=g, dtype=w.dtype))[0]
    places, losses, extra, sharp, active = [], [], [], [], []
    edge, relax = 2 / lr, 4 / substeps
    for t in range(steps):
        for sub in range(substeps):
            point = w.detach().requires_grad_()
            value = loss(point)
            grad = torch.autograd.grad(value, point, create_graph=central)[0]
            step, sigma, top, number = -lr * grad.detach(), np.zeros(0), 0.0, 0
            if central:
                basis, values = _turned(point, grad, basis, rounds if t == sub == 0 else 1)
                top = float(values.max())
                on = [i for i, v in enumerate(values) if v >= NEAR * edge]
                number = len(on)
                if on:
                    pulls = torch.stack([_slope(point, grad, basis[:, i]) for i in on])
                    a = 0.5 * lr * (pulls @ pulls.T).double().numpy()
                    b = (pulls @ step).double().numpy() + (values[on] - edge) / relax
                    sigma = nnls(a, b)[0]
                    step = step - 0.5 * lr * torch.from_numpy(sigma).to(w) @ pulls
            if sub == 0:
                places.append(w.clone())
                losses.append(float(value.detach()))
                extra.append(float(sigma.sum()))
                sharp.append(top)
                active.append(number)
            w = w + step / substeps
    return Flow(torch.stack(places), np.array(losses), np.array(extra), np.array(sharp), np.array(active))


def _turned(point: Tensor, grad: Tensor, basis: Tensor, rounds: int) -> tuple[Tensor, np.ndarray]:
    """The basis, turned towards the top eigenvectors by Rayleigh-Ritz on it and its image; and the eigenvalues, ascending."""
    values = torch.zeros(0)
    for _ in range(rounds):
        image = _products(point, grad, basis)
        wide = torch.linalg.qr(torch.cat([basis, image], 1))[0]
        small = wide.T @ _products(point, grad, wide)
        values, turn = torch.linalg.eigh((small + small.T) / 2)
        basis = wide @ turn[:, -basis.shape[1] :]
    return basis.detach(), values[-basis.shape[1] :].detach().double().numpy()


def _products(point: Tensor, grad: Tensor, vectors: Tensor) -> Tensor:
    return torch.stack([torch.autograd.grad(grad, point, v, retain_graph=True)[0] for v in vectors.T.detach()], 1)


def _slope(point: Tensor, grad: Tensor, u: Tensor) -> Tensor:
    """∇ (uᵀ H u) at a held u."""
    u = u.detach()
    product = torch.autograd.grad(grad, point, u, create_graph=True)[0]
    return torch.autograd.grad(product @ u, point, retain_graph=True)[0].detach()
