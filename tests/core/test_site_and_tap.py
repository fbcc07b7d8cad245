import pytest
import torch
from torch import nn

from strobe.core.errors import BadOption, SiteNotFound, StateMismatch
from strobe.core.site import Site
from strobe.core.tap import patch, tap


class Pair(nn.Module):
    def forward(
        self, x: torch.Tensor, *, mask: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return (x if mask is None else x * mask), {"twice": 2 * x}


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.pair, self.b = nn.Linear(3, 4), Pair(), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.pair(self.a(x), mask=torch.ones(4))
        return self.b(y)


@pytest.mark.parametrize(
    "text", ["a", "a:in", "pair:out.0", "pair:in.mask", "a:param.weight", "a/4[2]", "a@1[3]", "a:in/3@-1[0]", ""]
)
def test_text_round_trips(text: str) -> None:
    assert Site.parse(str(Site.parse(text))) == Site.parse(text)


@pytest.mark.parametrize("text", ["a b", "a:side", "a/4", "a@1", "a[x]"])
def test_nonsense_is_refused(text: str) -> None:
    with pytest.raises(BadOption):
        Site.parse(text)


def test_tap_sees_inputs_outputs_parameters_and_keywords() -> None:
    net, x = Net(), torch.randn(5, 3)
    with tap(net, ["a", "b:in", "pair:in.mask", "pair:out.0", "a:param.weight", "a/4[1]", "a:in"]) as seen:
        y = net(x)
    assert torch.equal(seen["a:in"], x)
    assert torch.equal(seen["a"], seen["b:in"])
    assert torch.equal(seen["pair:in.mask"], torch.ones(4))
    assert torch.equal(seen["a/4[1]"], seen["a"][:, 1:2])
    assert torch.equal(net.b(seen["pair:out.0"]), y)
    assert not net._forward_hooks
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in net.modules())


def test_patch_changes_inside_and_is_undone_exactly_also_after_an_exception() -> None:
    net, x = Net(), torch.randn(5, 3)
    before, bits = net(x), {k: v.clone() for k, v in net.state_dict().items()}
    sites = {
        "a/4[1]": torch.zeros_like,
        "b:in": lambda t: t + 1,
        "pair:in.mask": lambda t: t * 0.5,
        "b:param.bias": lambda t: t - 3,
    }
    with pytest.raises(ZeroDivisionError), patch(net, sites):  # type: ignore[arg-type]
        assert not torch.equal(net(x), before)
        assert torch.equal(net.b.bias, bits["b.bias"] - 3)
        raise ZeroDivisionError
    assert torch.equal(net(x), before)
    assert all(torch.equal(v, bits[k]) for k, v in net.state_dict().items())


def test_nested_patches_and_gradients() -> None:
    net, x = Net(), torch.randn(5, 3)
    with patch(net, {"a": lambda t: 2 * t}), patch(net, {"a": lambda t: t + 1}), tap(net, ["b:in"], grad=True) as seen:
        net(x).sum().backward()
    assert torch.allclose(seen["b:in"], 2 * net.a(x) + 1)
    assert net.a.weight.grad is not None


def test_missing_sites_list_near_misses_before_anything_changes() -> None:
    net = Net()
    with (
        pytest.raises(SiteNotFound, match="no module 'pare'.*did you mean pair"),
        patch(net, {"a": lambda t: t, "pare": lambda t: t}),
    ):
        pass
    assert not net.a._forward_hooks
    with pytest.raises(SiteNotFound, match="no parameter 'weigth'.*did you mean weight"):
        Site.parse("a:param.weigth").parameter(net)
    with patch(net, {"a/3[0]": lambda t: t}), pytest.raises(SiteNotFound, match="size 4, which 3 parts do not divide"):
        net(torch.randn(1, 3))
    with patch(net, {"a/4[4]": lambda t: t}), pytest.raises(SiteNotFound, match="index 4 of 4 parts"):
        net(torch.randn(1, 3))
    with tap(net, ["pair:out.5"]), pytest.raises(SiteNotFound, match="without that item"):
        net(torch.randn(1, 3))
    with tap(net, ["b"]) as seen, pytest.raises(SiteNotFound, match="was not reached"):
        _ = seen["b"]


def test_an_edit_may_not_change_the_shape() -> None:
    net = Net()
    with (
        patch(net, {"a": lambda t: t[:, :2]}),
        pytest.raises(StateMismatch, match=r"returned \(1, 2\) for a tensor of shape \(1, 4\)"),
    ):
        net(torch.randn(1, 3))
