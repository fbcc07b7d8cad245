"""How long signals are at each place of a network, and how alike those of different inputs."""

from collections.abc import Sequence

import numpy as np
import torch

from strobe.core.cards import observable
from strobe.core.data import count
from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot
from strobe.core.tap import tap
from strobe.observables.tangent_factors import Forward, inputs_of, outputs_of


@observable(symbol="q_l, c_l", of="snapshot", cost="one forward pass", ref="arXiv:1606.05340")
def signal_propagation(snap: Snapshot, *, sites: Sequence[str], forward: Forward | None = None) -> Reading:
    """The mean square of the activations at each site, and the mean cosine between those of two inputs: an array (sites, 2).

        q_l = mean_i |z_l(x_i)|² / d_l,     c_l = mean_{i≠j} z_l(x_i)·z_l(x_j) / (|z_l(x_i)| |z_l(x_j)|)

    What `order_chaos` speaks of, for random weights and pre-activations (the outputs of linear layers): c that goes to 1 with depth is
    order, c that goes away from it chaos.
    Args: sites, as `tap` reads them, in the order of the forward pass; the activations of an example, over all positions, are one vector;
    forward(model, data), default the model on the first element of the data.
    Err: standard errors over examples, of c by leaving one out; the network itself is one draw, which they leave out.
    Regime: three examples or more, and sites whose first dimension is the examples. Raises `BadOption`, `SiteNotFound`.
    Ref: Poole et al., arXiv:1606.05340, section 2; Schoenholz et al., arXiv:1611.01232.

    >>> net = torch.nn.Sequential(torch.nn.Identity())
    >>> signal_propagation(Snapshot(net, None, torch.eye(3)), sites=["0"]).value.round(4).tolist()
    [[0.3333, 0.0]]
    """
    data = inputs_of(snap.data, forward)
    n = count(data)
    if n < 3 or not sites or isinstance(sites, str):
        raise BadOption(f"three examples and one site at least, in a list; got {n} examples and {sites!r}")
    with snap.quiet() as model, torch.no_grad(), tap(model, sites) as seen:
        (forward or outputs_of)(model, data)
    values, errs = [], []
    for site in sites:
        if len(seen[site]) != n:
            raise BadOption(f"{site} gave {tuple(seen[site].shape)}: its first dimension is not the {n} examples")
        z = seen[site].reshape(n, -1).double().cpu().numpy()
        if not (np.isfinite(z).all() and z.any(1).all()):
            raise BadOption(
                f"the activations at {site} are not finite, or all zero for an example: they have no direction"
            )
        lengths = np.square(z).mean(1)
        unit = z / np.linalg.norm(z, axis=1, keepdims=True)
        cosines = unit @ unit.T
        own = cosines.sum(1) - np.diag(cosines)
        without = (own.sum() - 2 * own) / ((n - 1) * (n - 2))
        values.append([lengths.mean(), own.sum() / (n * (n - 1))])
        errs.append([lengths.std(ddof=1) / n**0.5, np.sqrt((n - 1) / n * np.square(without - without.mean()).sum())])
    how = {"sites": list(sites), "labels": ["mean square", "mean cosine"], "examples": n}
    return Reading(np.array(values), np.array(errs), "", how)
