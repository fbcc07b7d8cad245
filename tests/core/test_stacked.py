from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from strobe.core import stacked
from strobe.core.data import mapped
from strobe.core.errors import BadOption
from strobe.core.snapshot import Snapshot
from strobe.core.stacked import StackedLoss
from strobe.systems.attention_language import AttentionOnly


def classes(model: nn.Module, data: Any) -> Tensor:
    return nn.functional.cross_entropy(model(data[0]), data[1])


def next_token(model: nn.Module, x: Tensor) -> Tensor:
    return nn.functional.cross_entropy(model(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten())


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, dropout=0.3), 1, enable_nested_tensor=False
        )
        self.out = nn.Linear(8, 11)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.encoder(self.embed(x)))


class Forks(nn.Module):
    """Its branch depends on the data: no tracer may keep the one it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(3))

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.w).square() if float(x.sum()) > 0 else (x @ self.w).abs()


class Writes(nn.Module):
    """Fills what it made empty: what a tracer holds for a constant is not one."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.out = nn.Linear(5, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.inner(x)
        kept = torch.zeros_like(h)
        kept[:, ::2] = h[:, ::2].relu()
        kept += torch.ones_like(h)
        return self.out(kept)


def images(n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 1, 6, 6), torch.randint(3, (n,))


CASES: dict[str, tuple[Any, Any, Any]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.LayerNorm(7), nn.Linear(7, 3)), classes,
            lambda: (torch.randn(6, 5), torch.randint(3, (6,)))),
    "convolution and batch norm": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, 3)), classes,
        lambda: images(5)),
    "attention": (lambda: AttentionOnly(11, 9, 8, 2, 2, "relative", 1, True), next_token, lambda: torch.randint(11, (4, 10))),
    "writing in place": (Writes, classes, lambda: (torch.randn(6, 5), torch.randint(3, (6,)))),
    "encoder with dropout": (Encoder, next_token, lambda: torch.randint(11, (4, 10))),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("way", ["traced", "stacked", "turns"])
def test_every_way_gives_the_numbers_of_the_loop(name: str, way: str) -> None:
    torch.manual_seed(0)
    build, loss, data = CASES[name]
    snap = Snapshot(build(), loss, None)
    with snap.quiet():
        f, slow = StackedLoss(snap, way=way), StackedLoss(snap, way="loop")
        for _ in range(2):  # the second time on other data of the shape
            w, batch = f.center + 0.1 * torch.randn(5, len(f.center)), data()
            got, true = f(w, batch), slow(w, batch)
            torch.testing.assert_close(got[0], true[0], rtol=2e-4, atol=1e-5)
            torch.testing.assert_close(got[1], true[1], rtol=2e-3, atol=1e-5)
            torch.testing.assert_close(f.losses(w, batch), true[0], rtol=2e-4, atol=1e-5)
            torch.testing.assert_close(f.each(w, batch), slow.each(w, batch), rtol=2e-4, atol=1e-5)
            torch.testing.assert_close(f.each(w, batch).mean(1), true[0], rtol=2e-4, atol=1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("way", ["graphed", "traced", "stacked", None])
def test_every_way_on_a_gpu_gives_the_numbers_of_the_loop(name: str, way: str | None) -> None:
    torch.manual_seed(0)
    build, loss, data = CASES[name]
    snap = Snapshot(build().cuda(), loss, None)
    with snap.quiet():
        f, slow, kept = StackedLoss(snap, way=way), StackedLoss(snap, way="loop"), []
        for _ in range(3):
            w, batch = f.center + 0.1 * torch.randn(5, len(f.center)).cuda(), mapped(data(), lambda t: t.cuda())
            kept.append((f(w, batch), slow(w, batch), f.each(w, batch), slow.each(w, batch), f.losses(w, batch)))
        for got, true, each, single, alone in kept:  # an answer is the caller's: the next call leaves it alone
            torch.testing.assert_close(got[0], true[0], rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(got[1], true[1], rtol=5e-3, atol=1e-4)
            torch.testing.assert_close(alone, true[0], rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(each, single, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", list(CASES))
@pytest.mark.parametrize("way", ["traced", "stacked", "turns", "loop", None])
def test_each_copy_may_have_data_of_its_own(name: str, way: str | None) -> None:
    torch.manual_seed(0)
    build, loss, data = CASES[name]
    snap = Snapshot(build(), loss, None)
    with snap.quiet():
        f, slow = StackedLoss(snap, way=way, chunk=None if way else 2), StackedLoss(snap, way="loop")
        for _ in range(2):
            w, batches = f.center + 0.1 * torch.randn(3, len(f.center)), [data() for _ in range(3)]
            together = (
                tuple(map(torch.stack, zip(*batches, strict=True)))
                if isinstance(batches[0], tuple)
                else torch.stack(batches)
            )
            got = f.own(w, together)
            true = [slow(w[i : i + 1], batches[i]) for i in range(3)]
            torch.testing.assert_close(got[0], torch.cat([t[0] for t in true]), rtol=2e-4, atol=1e-5)
            torch.testing.assert_close(got[1], torch.cat([t[1] for t in true]), rtol=2e-3, atol=1e-5)


def test_the_loop_is_the_gradient_of_the_model_itself() -> None:
    torch.manual_seed(0)
    net, (x, y) = nn.Linear(4, 3), (torch.randn(6, 4), torch.randint(3, (6,)))
    snap = Snapshot(net, classes, (x, y))
    f = StackedLoss(snap)
    with snap.quiet():
        loss, grad = f(f.center[None], (x, y))
    own = classes(net, (x, y))
    own.backward()
    assert float(loss[0]) == pytest.approx(float(own.detach()))
    assert grad[0].tolist() == pytest.approx(
        torch.cat([p.grad.reshape(-1) for p in net.parameters()]).tolist(), abs=1e-6
    )  # type: ignore[union-attr]


def test_some_parameters_vary_and_the_rest_stay() -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
    snap = Snapshot(net, lambda m, x: m(x).square().mean(), torch.randn(6, 4))
    f = StackedLoss(snap, names=["1.weight"])
    assert f.center.shape == (3,)
    assert f.split(torch.arange(6.0).view(2, 3))["1.weight"].tolist() == [[[0, 1, 2]], [[3, 4, 5]]]
    with pytest.raises(BadOption, match=r"'2.weight' is not a trainable parameter; there are 0.weight"):
        StackedLoss(snap, names=["2.weight"])


def test_gradients_that_no_copy_needs_are_left_at_0() -> None:
    snap = Snapshot(nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)), classes, None)
    w, batch = torch.randn(2, 27), (torch.randn(6, 4), torch.randint(3, (6,)))
    whole = StackedLoss(snap, way="loop")(w, batch)
    loss, grad = StackedLoss(snap, way="loop", moves=[["0.bias"], ["2.weight", "2.bias"]])(w, batch)
    torch.testing.assert_close(loss, whole[0])
    torch.testing.assert_close(grad[0, 12:15], whole[1][0, 12:15])
    torch.testing.assert_close(grad[1, 15:], whole[1][1, 15:])
    assert not torch.cat([grad[0, :12], grad[0, 15:], grad[1, :15]]).any()


@pytest.mark.parametrize("large", [200_000, 0])
def test_a_branch_on_the_data_is_taken_each_time(large: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stacked, "LARGE", large)  # 0: copies take turns
    snap = Snapshot(Forks(), lambda m, x: m(x).mean(), None)
    f, slow = StackedLoss(snap), StackedLoss(snap, way="loop")
    for x in (torch.ones(4, 3), -torch.ones(4, 3), torch.ones(4, 3)):
        w = torch.randn(3, 3)
        for a, b in zip(f(w, x), slow(w, x), strict=True):
            torch.testing.assert_close(a, b)


def test_the_loss_of_each_example_is_of_that_example() -> None:
    snap = Snapshot(Forks(), lambda m, x: m(x).mean(), None)
    w, x = torch.randn(3, 3), torch.cat([torch.ones(2, 3), -torch.ones(2, 3)])  # one branch each
    right = x @ w.T
    right[:2], right[2:] = right[:2].square(), right[2:].abs()
    torch.testing.assert_close(StackedLoss(snap).each(w, x), right.T)
    for wrong in ((), (torch.ones(2, 3), torch.ones(3, 3))):
        with pytest.raises(BadOption, match="cannot be taken apart"):
            StackedLoss(snap).each(w, wrong)


@dataclass
class Batch:
    x: Tensor
    scale: float = 2.0


def test_data_of_any_nesting() -> None:
    net = nn.Linear(4, 1)
    snap = Snapshot(net, lambda m, b: (b["in"].scale * m(b["in"].x)).square().mean(), None)
    f = StackedLoss(snap)
    w = torch.randn(2, 5)
    for scale in (2.0, 3.0):
        x = torch.randn(6, 4)
        got = f(w, {"in": Batch(x, scale)})[0]
        true = [(scale * (x @ r[:4] + r[4])).square().mean() for r in w]
        assert got.tolist() == pytest.approx([float(t) for t in true], rel=1e-4)
        torch.testing.assert_close(f.each(w, {"in": Batch(x, scale)}).mean(1), got)
    plain = StackedLoss(Snapshot(net, lambda m, b: (b[1] * m(b[0])).square().mean(), None))
    x = torch.randn(6, 4)
    one, two = plain(w, (x, 1.0))[0], plain(w, (x, 2.0))[0]
    assert (4 * one).tolist() == pytest.approx(two.tolist())


def test_chunks_are_the_whole() -> None:
    snap = Snapshot(nn.Linear(4, 3), classes, None)
    w, batch = torch.randn(7, 15), (torch.randn(6, 4), torch.randint(3, (6,)))
    for a, b in zip(StackedLoss(snap)(w, batch), StackedLoss(snap, chunk=3)(w, batch), strict=True):
        torch.testing.assert_close(a, b)


def test_copies_that_do_not_fit_go_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    net = nn.Sequential(nn.Linear(4, 50), nn.Tanh(), nn.Linear(50, 3))
    snap, w = Snapshot(net, classes, None), torch.randn(9, 403)
    batch = (torch.randn(64, 4), torch.randint(3, (64,)))
    f, seen = StackedLoss(snap), []
    whole = f(w, batch)
    assert f._together("gradients", w, batch) == 9
    kept = 64 * (50 + 3) * 4  # the output of tanh and the log-probabilities
    assert kept <= f.activations(batch) <= kept + 100
    monkeypatch.setattr("strobe.core.stacked.MEMORY", 4 * kept)
    parts = StackedLoss(snap)
    monkeypatch.setattr(parts, "_call", lambda k, v, d: seen.append(len(v)) or StackedLoss._call(parts, k, v, d))
    for a, b in zip(whole, parts(w, batch), strict=True):
        torch.testing.assert_close(a, b)
    assert seen[0] == 3
    assert sum(seen) == 9


@pytest.mark.parametrize(
    ("net", "loss", "words"),
    [
        (nn.Linear(4, 3).bfloat16(), classes, r"weight is bfloat16.*\.float\(\)"),
        (nn.ReLU(), classes, "nothing to vary"),
        (nn.Linear(4, 3), lambda m, d: m(d[0]), r"must be one number.*\(6, 3\)"),
        (nn.Linear(4, 3), lambda m, d: m(d[0]).detach().mean(), "does not depend on the trainable parameters"),
    ],
)
def test_what_cannot_be_stacked_is_said(net: nn.Module, loss: Any, words: str) -> None:
    with pytest.raises(BadOption, match=words):
        StackedLoss(Snapshot(net, loss, None))(torch.randn(2, 15), (torch.randn(6, 4), torch.randint(3, (6,))))
