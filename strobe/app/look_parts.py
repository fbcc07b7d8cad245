"""What every look shares: the probe one example at a time, how its inputs read, and plain numbers to send."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from math import isfinite
from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from strobe.core.data import count, rows
from strobe.core.errors import BadOption
from strobe.runs.texts import encode, facts_of, tokenizer_of

if TYPE_CHECKING:
    from strobe.runs.recorder import Recorder
    from strobe.runs.run import Run

SIDE = 256  # of a picture: what a screen shows, and 0.5 MB of JSON


@dataclass(frozen=True, slots=True)
class Kit:
    """How a run's inputs read: text to tokens and back, names of the classes, shape of an image. Empty where unsaid.

    >>> Kit(labels=("cat", "dog")).label(1), Kit().label(1), Kit().word(7)
    ('dog', '1', '#7')
    """

    encode: Callable[[str], list[int]] | None = None
    decode: Callable[[int], str] | None = None
    labels: tuple[str, ...] = ()
    image: tuple[int, ...] = ()

    def word(self, token: int) -> str:
        """A token as text, or its number where there is no tokenizer."""
        return f"#{token}" if self.decode is None else self.decode(token)

    def label(self, index: int) -> str:
        """A class by its name, or by its number."""
        return self.labels[index] if 0 <= index < len(self.labels) else str(index)


def kit_of(run: "Run", recorder: "Recorder | None" = None) -> Kit:
    """The kit of a run: of its `System`, where it has one, or the tokenizer that its own loop gave to `record`."""
    facts, known = facts_of(run), tokenizer_of(run, recorder)
    labels, image = tuple(map(str, facts.get("labels", ()))), tuple(facts.get("image", ()))
    if known is None:
        return Kit(labels=labels, image=image)
    return Kit(partial(encode, known), _words(known), labels, image)


@lru_cache(maxsize=8)
def _words(known: Any) -> Callable[[int], str]:
    plain: dict[str, Any] = {"skip_special_tokens": False} if type(known).__module__.startswith("tokenizers") else {}
    return lru_cache(maxsize=None)(lambda token: str(known.decode([token], **plain)))


# ---------------------------------------------------------------- the probe, example by example


def row(data: Any, example: int) -> Any:
    """One example of the probe, as a batch of one. Raises `BadOption` for one that is not there."""
    n = count(data)
    if isinstance(example, bool) or not isinstance(example, int) or not 0 <= example < n:
        raise BadOption(f"the probe has examples 0 to {n - 1}, not {example!r}")
    return rows(data, example, example + 1)


# ---------------------------------------------------------------- plain numbers


def num(x: Any) -> float | None:
    """A number with 5 significant digits; None where it is not finite.

    >>> num(0.123456789), num(float("nan"))
    (0.12346, None)
    """
    x = float(x.detach() if isinstance(x, Tensor) else x)
    return float(f"{x:.5g}") if isfinite(x) else None


def nums(x: Tensor) -> list[Any]:
    """A tensor as nested lists of such numbers."""

    def walk(v: Any) -> Any:
        return [walk(i) for i in v] if isinstance(v, list) else num(v)

    return walk(x.detach().double().cpu().tolist())


def real(x: Tensor) -> Tensor:
    """Detached, real, in float: what can be drawn."""
    x = x.detach()
    return (x.abs() if x.is_complex() else x).float()


def moments(x: Tensor) -> dict[str, float | None]:
    """Mean, standard deviation (over all entries, not a sample), smallest and largest."""
    x = real(x)
    if not x.numel():
        return dict.fromkeys(("mean", "std", "min", "max"))
    return {"mean": num(x.mean()), "std": num(x.std(correction=0)), "min": num(x.min()), "max": num(x.max())}


def picture(x: Tensor, *, side: int = SIDE) -> tuple[list[list[float | None]], bool]:
    """A tensor as rows of numbers, at most `side` x `side`, and whether it was mean-pooled to fit.

    More than two dimensions are stacked: all but the last become rows.

    >>> picture(Tensor([1.0, 3.0]), side=1)
    ([[2.0]], True)
    """
    x = real(x)
    flat = x.reshape(1, -1) if x.ndim < 2 else x.reshape(-1, x.shape[-1])
    size = (min(flat.shape[0], side), min(flat.shape[1], side))
    pooled = size != tuple(flat.shape)
    return nums(adaptive_avg_pool2d(flat[None], size)[0] if pooled else flat), pooled


def mean_err(x: Tensor) -> dict[str, float | None]:
    """Mean over the entries and its standard error; no error from fewer than two."""
    x = x.detach().double()
    err = num(x.std() / len(x) ** 0.5) if len(x) > 1 else None
    return {"value": num(x.mean()) if len(x) else None, "err": err}


def tensors(value: Any) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a module's output with the item by which a `Site` finds each ("" for a lone tensor)."""
    if isinstance(value, Tensor):
        yield "", value
    elif isinstance(value, Mapping):
        yield from ((str(k), v) for k, v in value.items() if isinstance(v, Tensor) and str(k).isidentifier())
    elif isinstance(value, tuple | list):
        yield from ((str(i), v) for i, v in enumerate(value) if isinstance(v, Tensor))
