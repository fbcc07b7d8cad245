"""Which parities of its input bits a network computes."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from strobe.core.cards import observable
from strobe.core.errors import BadOption
from strobe.core.reading import Reading
from strobe.core.snapshot import Snapshot
from strobe.numerics.walsh import walsh

MOST = 20  # bits, of which all inputs are tried


@observable(symbol="E_S", of="snapshot", cost="2^bits forward passes, no gradients", ref="arXiv:2502.13870")
def interaction_energy(
    snap: Snapshot,
    *,
    bits: int,
    sets: Mapping[str, Sequence[int]],
    unit: int = 0,
    clip: float = 5.0,
    values: tuple[float, float] = (1.0, -1.0),
) -> Reading:
    """The share of a network's output, over all inputs of `bits` bits, that is the parity of each set of bits.

        E_S = c_S² / Σ_{T ≠ ∅} c_T²,    f(x) = Σ_S c_S Π_{i in S} (-1)^{x_i},    f the output, clipped to ± `clip`

    Args: the model takes (n, bits) floats, `values` of a bit that is 0 and of one that is 1; `unit` of its outputs (n, k) is
    looked at, or all there is of (n,); `sets` names the sets, {"cue": [0], "rule": [1, 2]}. The snapshot's data are not used.
    Value: a share for each set; `how["labels"]` names them, `how["variance"]` is Σ_{T ≠ ∅} c_T², `how["largest"]` the five largest.
    Err: 0, for no input is left out; it says nothing of inputs that are not bits.
    Regime: up to 20 bits. An output that is constant has no shares: all are 0. Raises `BadOption`.
    Ref: the Walsh-Fourier form of a Boolean function; interactions of networks as in Kang et al., arXiv:2502.13870.

    >>> xor = torch.nn.Linear(2, 1); _ = torch.nn.init.zeros_(xor.weight)
    >>> with torch.no_grad(): _ = xor.weight.copy_(torch.tensor([[2.0, 1.0]]))
    >>> got = interaction_energy(Snapshot(xor, lambda m, d: m(d).sum(), None), bits=2, sets={"a": [0], "ab": [0, 1]})
    >>> got.value.round(3).tolist()                                                # 2² of 2² + 1²
    [0.8, 0.0]
    """
    if not 1 <= bits <= MOST:
        raise BadOption(f"all inputs are tried, so bits is 1 to {MOST}, got {bits}")
    if odd := [f"{k}: {list(v)}" for k, v in sets.items() if not v or not all(0 <= i < bits for i in v)]:
        raise BadOption(f"sets are of bits 0 to {bits - 1}, at least one each; got {', '.join(odd)}")
    if not sets:
        raise BadOption('name at least one set of bits, as {"cue": [0]}')
    numbers = torch.arange(2**bits)
    index = (numbers[:, None] >> torch.arange(bits)) & 1
    first = next(iter(snap.params().values()), torch.zeros(1))
    x = torch.where(index == 0, torch.tensor(values[0]), torch.tensor(values[1])).to(first)
    with snap.quiet() as model, torch.no_grad():
        out = model(x)
    if out.ndim > 2 or len(out) != len(x) or (out.ndim == 2 and not 0 <= unit < out.shape[1]):
        raise BadOption(
            f"the model gave {tuple(out.shape)} for {tuple(x.shape)}: unit {unit} of one number per input is needed"
        )
    f = (out if out.ndim == 1 else out[:, unit]).double().clamp(-clip, clip).cpu().numpy()
    energy = walsh(f) ** 2
    energy[0] = 0.0
    total = float(energy.sum())
    share = energy / total if total > 1e-12 else np.zeros_like(energy)
    value = np.array([share[sum(1 << i for i in set(s))] for s in sets.values()])
    top = np.argsort(-share)[:5]
    largest = {"{" + ", ".join(str(i) for i in range(bits) if k >> i & 1) + "}": float(share[k]) for k in top.tolist()}
    how = {"labels": list(sets), "variance": total, "largest": largest, "clip": clip, "inputs": len(x)}
    return Reading(value, np.zeros(len(value)), "share", how)
