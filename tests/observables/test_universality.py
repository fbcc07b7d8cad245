"""Similarity, matching and spectra: rotations and permutations they must not see, changes they must, and what they refuse."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from strobe.core.errors import BadOption, SiteNotFound
from strobe.core.snapshot import Snapshot
from strobe.numerics.similarity import unbiased_cka
from strobe.observables.effective_rank import _median_mp, effective_rank, weight_spectrum
from strobe.observables.mode_connectivity import mode_connectivity
from strobe.observables.representation_similarity import cka, mutual_neighbours


def loss(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
    return cross_entropy(model(data[0]), data[1])


def mlp(seed: int, width: int = 16, steps: int = 0) -> Snapshot:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(300, 6, generator=g)
    y = (x[:, 0] * x[:, 1] > 0).long() + 2 * (x[:, 2] > 0).long()
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 4))
    optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(net, (x, y)).backward()
        optimizer.step()
    optimizer.zero_grad()
    return Snapshot(net, loss, (x, y))


def turned(snap: Snapshot, seed: int) -> Snapshot:
    g = torch.Generator().manual_seed(seed)
    s = {k: v.clone() for k, v in snap.model.state_dict().items()}
    for a, b in (("0", "2"), ("2", "4")):
        order = torch.randperm(len(s[f"{a}.bias"]), generator=g)
        s[f"{a}.weight"], s[f"{a}.bias"], s[f"{b}.weight"] = (
            s[f"{a}.weight"][order],
            s[f"{a}.bias"][order],
            s[f"{b}.weight"][:, order],
        )
    other = mlp(0, len(s["0.bias"]))
    other.model.load_state_dict(s)
    return other


def test_similarity_is_blind_to_rotation_and_scale_and_has_no_bias() -> None:
    g = np.random.default_rng(0)
    x = g.standard_normal((60, 40))
    q = np.linalg.qr(g.standard_normal((40, 40)))[0]
    assert unbiased_cka(x, 3 * x @ q + 5) == pytest.approx(1.0)
    alone = [unbiased_cka(g.standard_normal((60, 40)), g.standard_normal((60, 40))) for _ in range(60)]
    assert abs(np.mean(alone)) < 3 * np.std(alone) / 60**0.5  # the plain estimator gives about 0.4 here
    a, b = g.standard_normal((60, 40)), g.standard_normal((60, 40))
    a, b = a - a.mean(0), b - b.mean(0)
    assert np.linalg.norm(a.T @ b) ** 2 / np.linalg.norm(a.T @ a) / np.linalg.norm(b.T @ b) > 0.3


def test_trained_pairs_exceed_untrained_ones_and_untrained_pairs_do_not() -> None:
    a, b = mlp(1, steps=300), mlp(2, steps=300)
    for measure in (cka, mutual_neighbours):
        got = measure(a, other=b, sites=["1", "3"])
        assert (got.value > 2 * got.err).all()
        assert np.allclose(got.value, np.array(got.how["raw"]) - got.how["null"])
        null = measure(mlp(3), other=mlp(4), sites=["1", "3"])
        assert (np.abs(null.value) < 4 * null.err).all()
    assert cka(a, other=a, sites=["1|3"]).how["raw"][0] < 1
    same = cka(a, other=turned(a, 0), sites=["1", "3"])
    assert np.allclose(same.how["raw"], 1)
    given = cka(a, other=b, sites=["3"], untrained=[(a, b)])
    assert abs(given.value[0]) < 1e-12


def test_similarity_refuses() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(6, 4))

        def forward(self, x: Tensor) -> Tensor:
            return x @ self.w

    a = mlp(1)
    own = Snapshot(Own(), loss, a.data)
    with pytest.raises(BadOption, match="no reset_parameters"):
        cka(own, other=own, sites=[""])
    with pytest.raises(SiteNotFound):
        cka(a, other=a, sites=["7"])
    with pytest.raises(BadOption, match="a list of"):
        cka(a, other=a, sites="1")
    with pytest.raises(BadOption, match="quarter"):
        mutual_neighbours(a, other=a, sites=["1"], k=80)
    few = Snapshot(a.model, loss, (a.data[0][:20], a.data[1][:20]))
    with pytest.raises(BadOption, match="at least 40"):
        cka(few, other=few, sites=["1"])


def test_matching_undoes_a_permutation_exactly_and_lowers_the_barrier_of_other_seeds() -> None:
    a = mlp(1, 24, 300)
    twin = mode_connectivity(a, other=turned(a, 3), match=["0", "2", "4"])
    assert twin.value[0] > 0.05
    assert abs(twin.value[1]) < 1e-6
    got = mode_connectivity(a, other=mlp(2, 24, 300), match=["0", "2", "4"])
    assert got.value[1] < 0.5 * got.value[0]
    assert got.value[0] == mode_connectivity(a, other=mlp(2, 24, 300)).value
    assert got.how["curve"][0] == pytest.approx(loss(a.model, a.data).item(), rel=1e-5)
    assert got.how["curve"][-1] == pytest.approx(got.how["matched"][-1], rel=1e-4)


def test_a_convex_loss_has_no_barrier() -> None:
    x, y = mlp(0).data
    a, b = (Snapshot(nn.Linear(6, 4), loss, (x, y)) for _ in range(2))
    got = mode_connectivity(a, other=b)
    assert got.value == pytest.approx(0, abs=1e-6)


def test_connectivity_refuses_what_is_no_chain() -> None:
    a = mlp(1, 24, 20)
    with pytest.raises(BadOption, match="differ in shape"):
        mode_connectivity(a, other=mlp(1, 12))
    with pytest.raises(BadOption, match="not one after the other|changes the loss"):
        mode_connectivity(a, other=mlp(2, 24, 20), match=["0", "4"])
    with pytest.raises(BadOption, match="no linear layer"):
        mode_connectivity(a, other=mlp(2, 24), match=["0", "1"])

    class Skip(nn.Module):  # x + f(x): the units of the stream may not be permuted at one place alone
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            h = x + torch.tanh(self.a(x))
            return self.c(h + torch.tanh(self.b(h)))

    torch.manual_seed(0)
    one, two = (Snapshot(Skip(), loss, a.data) for _ in range(2))
    with pytest.raises(BadOption, match="changes the loss"):
        mode_connectivity(one, other=two, match=["a", "b", "c"])


def test_effective_ranks_by_hand() -> None:
    a = mlp(1)
    with torch.no_grad():
        w = torch.outer(torch.ones(16), torch.arange(16.0))
        a.model[2].weight.copy_(w)  # type: ignore[index, operator, union-attr]
    assert effective_rank(a, sites=["2:param.weight"]).value[0] == pytest.approx(1, abs=1e-3)
    got = effective_rank(a, sites=["0", "2"])
    assert 3 < got.value[0] <= 6 + 1e-6  # six inputs
    assert got.value[1] == pytest.approx(1, abs=0.05)  # bias is centred away
    assert got.err[0] > 0
    with pytest.raises(BadOption, match="at least 40"):
        effective_rank(Snapshot(a.model, loss, (a.data[0][:9], a.data[1][:9])), sites=["0"])


def test_the_edge_is_marchenko_pastur_and_spikes_stick_out() -> None:
    g = torch.Generator().manual_seed(0)
    net = nn.Linear(300, 200, bias=False)
    noise = 0.3 * torch.randn(200, 300, generator=g)
    u = torch.linalg.qr(torch.randn(200, 3, generator=g))[0]
    v = torch.linalg.qr(torch.randn(300, 3, generator=g))[0]
    edge = 0.3 * (200**0.5 + 300**0.5)
    with torch.no_grad():
        net.weight.copy_(noise + u @ torch.diag(torch.tensor([4.0, 3.0, 2.5]) * edge) @ v.T)
    rank, stable, top, outliers = weight_spectrum(Snapshot(net, None, None)).value[0]
    assert outliers == 3
    assert 3.5 < top < 5
    assert stable < rank
    values = np.linalg.eigvalsh(noise.numpy() @ noise.numpy().T / 300) / 0.09
    assert np.median(values) == pytest.approx(_median_mp(200 / 300), rel=0.02)
    with pytest.raises(BadOption, match="no trainable matrix"):
        weight_spectrum(Snapshot(nn.Linear(4, 4), None, None))
    with pytest.raises(BadOption, match="'weights' is no trainable matrix"):
        weight_spectrum(Snapshot(net, None, None), matrices=["weights"])
