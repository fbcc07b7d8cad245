"""The size of the weights, module by module."""

import numpy as np
import torch
from torch import Tensor

from strobe.core.cards import observable
from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.core.site import Site
from strobe.core.snapshot import Snapshot


@observable(symbol="‖θ‖", of="snapshot", cost="one pass over the parameters", ref="")
def weight_norms(snap: Snapshot, *, modules: list[str] | None = None) -> Reading:
    """Euclidean norm of the trainable parameters of each module that holds some, in the model's own order.

        ‖θ_m‖ = (Σ θᵢ²)^½    over the parameters directly in module m (with `modules`: in it and all below it)

    Args: modules, module paths to measure instead ("" is the whole model). `how["modules"]` names the values. A tied
    parameter counts where it is met first, as in `model.named_parameters()`.
    Err: a bound on rounding: squares are summed in float64, in which the sum is off by at most n 2⁻⁵³ of itself.
    Cost: one pass, no forward. Regime: always. Raises `SiteNotFound` for a module that is not there, and `BadOption`
    where nothing is trainable. Ref: a definition.

    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False), torch.nn.Linear(1, 1, bias=False))
    >>> _ = [torch.nn.init.ones_(p) for p in net.parameters()]
    >>> r = weight_norms(Snapshot(net, None, None))
    >>> r.value.round(6).tolist(), r.how["modules"]
    ([1.414214, 1.0], ['0', '1'])
    """
    params = snap.params()
    if not params:
        raise BadOption(f"{type(snap.model).__name__} has no trainable parameter to measure")
    if modules is None:
        homes = {name: name.rpartition(".")[0] for name in params}
        groups = {m: [n for n, home in homes.items() if home == m] for m in dict.fromkeys(homes.values())}
    else:
        for m in filter(None, modules):
            Site(m).module(snap.model)
        groups = {m: [n for n in params if not m or n.startswith(f"{m}.")] for m in modules}
        if empty := [m for m, names in groups.items() if not names]:
            raise BadOption(f"module {empty[0]!r} holds no trainable parameter; those that do: {sorted(params)[:6]}")
    value = np.array([np.sqrt(sum(_square(params[n]) for n in names)) for names in groups.values()])
    count = np.array([sum(params[n].numel() for n in names) for names in groups.values()])
    return Reading(value, value * (count + 2) * 2.0**-53, "θ", {"modules": list(groups), "parameters": count.tolist()})


def _square(p: Tensor) -> float:
    real = torch.view_as_real(p) if p.is_complex() else p
    return float(real.double().square().sum())
