import torch
from torch import nn

from strobe.core.snapshot import Snapshot


def test_quiet_leaves_no_trace_and_measures_in_the_mode_asked_for() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout(0.5)).train()
    net[0].weight.grad = torch.ones(3, 3)
    x = torch.randn(8, 3)
    for mode in ("eval", "train"):
        before = {k: v.clone() for k, v in net.state_dict().items()}
        rng = torch.get_rng_state()
        with Snapshot(net, lambda m, d: m(d).sum(), x, mode=mode).quiet() as model:
            assert model.training == (mode == "train")
            model(x).sum().backward()
            torch.rand(3)
        assert net.training
        assert torch.equal(net[0].weight.grad, torch.ones(3, 3))
        assert torch.equal(torch.get_rng_state(), rng)
        assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_hvp_agrees_with_the_dense_hessian() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()
    x = torch.randn(10, 2, dtype=torch.float64)
    snap = Snapshot(net, lambda m, d: m(d).square().mean(), x)
    names, sizes = list(snap.params()), [p.numel() for p in snap.params().values()]

    def flat_loss(flat: torch.Tensor) -> torch.Tensor:
        parts = dict(zip(names, flat.split(sizes), strict=True))
        return snap.loss_at({k: v.view_as(snap.params()[k]) for k, v in parts.items()})

    theta = torch.cat([p.reshape(-1) for p in snap.params().values()])
    dense = torch.autograd.functional.hessian(flat_loss, theta)
    v = {k: torch.randn_like(p) for k, p in snap.params().items()}
    got = torch.cat([h.reshape(-1) for h in snap.hvp(v).values()])
    assert torch.allclose(got, dense @ torch.cat([a.reshape(-1) for a in v.values()]), atol=1e-10)
