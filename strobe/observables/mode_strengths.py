"""How strongly a network carries each given input-output mode."""

from typing import Any

import torch
from torch import Tensor

from strobe.core.cards import observable
from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot


@observable(symbol="u_i", of="snapshot", cost="1 forward of 2r + 1 inputs", ref="arXiv:1312.6120")
def mode_strengths(snap: Snapshot, *, left: Any, right: Any) -> Reading:
    """Strength u_i of each mode of a (nearly) linear network f, an array (r,).

        u_i = ½ l_iᵀ [f(r_i) − f(−r_i)]        for a deep linear network = l_iᵀ W_L … W_1 r_i

    Args: `left` (d_out, r), `right` (d_in, r): the modes, e.g. the teacher's singular vectors (`facts` of
    `strobe.systems.deep_linear`). The network must map (n, d_in) to (n, d_out); `snap.data` is not used.
    Err: no sampling is involved; it shows non-linearity and rounding of this one measurement (not that of training):
    ½ |l_iᵀ [f(r_i) + f(−r_i) − 2 f(0)]| + 4 ε ‖l_i‖ max ‖f(± r_i)‖, with ε of the parameters' type.
    Cost: one forward pass of 2r + 1 inputs. Regime: linear networks; for others u_i is the odd part at unit scale.
    Ref: Saxe, McClelland and Ganguli, arXiv:1312.6120, equation 7 (mode strengths).

    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2, bias=False))
    >>> _ = net[0].weight.data.copy_(torch.diag(torch.tensor([3.0, 0.5])))
    >>> mode_strengths(Snapshot(net, loss=None, data=None), left=torch.eye(2), right=torch.eye(2)).value.tolist()
    [3.0, 0.5]
    """
    first = next(snap.model.parameters())
    out_modes, in_modes = (torch.as_tensor(x, dtype=first.dtype, device=first.device) for x in (left, right))
    if out_modes.ndim != 2 or in_modes.ndim != 2 or out_modes.shape[1] != in_modes.shape[1]:
        raise BadOption(
            "left is (d_out, r) and right (d_in, r), one column for each mode; "
            f"got {tuple(out_modes.shape)} and {tuple(in_modes.shape)}"
        )
    modes = in_modes.shape[1]
    with snap.quiet() as model, torch.no_grad():
        out = model(torch.cat([in_modes.T, -in_modes.T, torch.zeros_like(in_modes.T[:1])]))
    if not isinstance(out, Tensor) or out.shape != (2 * modes + 1, out_modes.shape[0]):
        raise BadOption(f"the model must map (n, {in_modes.shape[0]}) to (n, {out_modes.shape[0]}) to have these modes")
    plus, minus = out[:-1].chunk(2)
    odd, even = ((out_modes.T * (plus + s * minus - (1 + s) * out[-1])).sum(1).double() / 2 for s in (-1, 1))
    size = torch.maximum(plus.norm(dim=1), minus.norm(dim=1)) * out_modes.norm(dim=0)
    err = even.abs() + 4 * torch.finfo(first.dtype).eps * size
    return Reading(odd.cpu().numpy(), err.double().cpu().numpy(), unit="mode strength", how={"modes": modes})
