"""The local score machine against a loop over pixels and patches, and against its limits."""

import pytest
import torch

from strobe.numerics.local_score import local_denoise


def slow(noisy: torch.Tensor, data: torch.Tensor, patch: int, a: float, border: str, shared: bool) -> torch.Tensor:
    """Pixel by pixel: all patches of the set that have the same pixels outside the image."""
    r, (m, c, h, w) = patch // 2, noisy.shape

    def look(image: torch.Tensor, i: int, j: int) -> tuple[tuple[bool, ...], torch.Tensor]:
        inside, values = [], []
        for di in range(-r, r + 1):
            for dj in range(-r, r + 1):
                k, n = i + di, j + dj
                if border == "circular":
                    k, n = k % h, n % w
                inside.append(0 <= k < h and 0 <= n < w)
                values.append(image[:, k, n] if inside[-1] else torch.zeros(c, dtype=image.dtype))
        return tuple(inside), torch.stack(values)

    out = torch.zeros_like(noisy)
    for b in range(m):
        for i in range(h):
            for j in range(w):
                mask, y = look(noisy[b], i, j)
                logs, centres = [], []
                for image in data:
                    for k, n in [(k, n) for k in range(h) for n in range(w)] if shared else [(i, j)]:
                        other, p = look(image, k, n)
                        if other == mask:
                            logs.append(-(y - a * p).square().sum() / (2 * (1 - a * a)))
                            centres.append(image[:, k, n])
                out[b, :, i, j] = torch.softmax(torch.stack(logs), 0) @ torch.stack(centres)
    return out


@pytest.mark.parametrize("channels", [1, 2])
@pytest.mark.parametrize(("border", "shared"), [("zeros", True), ("zeros", False), ("circular", True)])
def test_it_is_what_a_loop_over_pixels_and_patches_gives(channels: int, border: str, shared: bool) -> None:
    g = torch.Generator().manual_seed(0)
    data, noisy = (torch.randn(n, channels, 4, 5, generator=g, dtype=torch.float64) for n in (5, 3))
    for patch in (1, 3):
        fast = local_denoise(noisy, data, patch=patch, signal=0.7, border=border, shared=shared, chunk=40)
        assert torch.allclose(fast, slow(noisy, data, patch, 0.7, border, shared), atol=1e-12)
    rounded = data.round()  # pixels that repeat
    fast = local_denoise(noisy, rounded, patch=1, signal=0.7, border=border, shared=shared)
    assert torch.allclose(fast, slow(noisy, rounded, 1, 0.7, border, shared), atol=1e-12)


def test_a_patch_over_the_whole_image_is_the_ideal_machine() -> None:
    g = torch.Generator().manual_seed(1)
    data, noisy = (torch.randn(n, 1, 4, 4, generator=g, dtype=torch.float64) for n in (6, 3))
    apart = (noisy[:, None] - 0.8 * data).square().flatten(2).sum(2)
    ideal = torch.einsum("mn,nchw->mchw", torch.softmax(-apart / (2 * (1 - 0.64)), 1), data)
    assert torch.allclose(local_denoise(noisy, data, patch=7, signal=0.8), ideal, atol=1e-12)
    assert not torch.allclose(local_denoise(noisy, data, patch=5, signal=0.8), ideal, atol=1e-3)


def test_with_a_circular_border_it_commutes_with_shifts_and_with_zeros_it_does_not() -> None:
    g = torch.Generator().manual_seed(2)
    data, noisy = (torch.randn(n, 1, 5, 5, generator=g, dtype=torch.float64) for n in (6, 2))
    for border, same in (("circular", True), ("zeros", False)):
        f = lambda x, b=border: local_denoise(x, data, patch=3, signal=0.7, border=b)  # noqa: E731
        assert torch.allclose(f(noisy.roll(1, -1)), f(noisy).roll(1, -1), atol=1e-10) == same


def test_it_beats_every_other_local_denoiser_on_the_set_it_knows() -> None:
    """The posterior mean has the least squared error; the wrong signal, or a smaller patch, has more."""
    g = torch.Generator().manual_seed(3)
    data = torch.randn(40, 1, 4, 4, generator=g).sign()
    noisy = 0.6 * data + 0.8 * torch.randn(data.shape, generator=g)
    error = lambda **k: float((local_denoise(noisy, data, **k) - data).square().mean())  # noqa: E731
    best = error(patch=3, signal=0.6)
    assert best < error(patch=1, signal=0.6)
    assert best < error(patch=3, signal=0.9)


@pytest.mark.parametrize(
    "bad", [{"patch": 2}, {"patch": 0}, {"signal": 1.0}, {"border": "mirror"}, {"border": "circular", "patch": 5}]
)
def test_bad_arguments_are_refused(bad: dict[str, object]) -> None:
    x = torch.zeros(2, 1, 4, 4)
    with pytest.raises(ValueError, match="patch|signal|border"):
        local_denoise(x, x, **{"patch": 3, "signal": 0.5} | bad)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="images"):
        local_denoise(x, x[:, :, 1:], patch=3, signal=0.5)
