"""Where in a network: a module's input, output or parameter, and a part of it (a head)."""

import re
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from strobe.core.errors import BadOption, SiteNotFound, near

_FORM = re.compile(
    r"^(?P<path>[^:\s/@\[\]]*?)(:(?P<part>in|out|param)(\.(?P<item>\w+))?)?(?P<split>/\d+)?(?P<dim>@-?\d+)?(\[(?P<index>-?\d+)\])?$"
)


@dataclass(frozen=True, slots=True)
class Site:
    """`path[:part[.item]][/parts][@dim][[index]]`, in the user's own module names.

    - `blocks.0.attn`             the module's output (`:out` is the default part)
    - `blocks.0.attn:in`          its first positional input; `:in.1` the second, `:in.mask` a keyword
    - `blocks.0.attn:out.1`       the second element (or the key) of an output that is a tuple (or a dict)
    - `blocks.0.attn.q:param.weight`  a parameter
    - `blocks.0.attn.z@1[3]`      index 3 along dimension 1: a head, where heads are an axis
    - `blocks.0.attn.o:in/4[2]`   the last dimension split in 4 equal parts, part 2: a head, where they lie side by side

    Raises `BadOption` for text that is not a site.
    """

    path: str
    part: str = "out"
    item: str | None = None
    split: int | None = None
    dim: int = -1
    index: int | None = None

    @classmethod
    def parse(cls, text: "str | Site") -> "Site":
        """Read a site from its text; a Site passes through."""
        if isinstance(text, Site):
            return text
        m = _FORM.match(text)
        if not m:
            raise BadOption(
                f"{text!r} is not a site; write path:out, path:in, path:param.name, then /4[2] or @1[2] for a head"
            )
        split, dim, index = m["split"], m["dim"], m["index"]
        if (split or dim) and index is None:
            raise BadOption(f"{text!r} splits a dimension without saying which part: add an index such as [0]")
        return cls(
            m["path"],
            m["part"] or "out",
            m["item"],
            int(split[1:]) if split else None,
            int(dim[1:]) if dim else -1,
            int(index) if index else None,
        )

    def __str__(self) -> str:
        text = (
            self.path
            + (f":{self.part}" if self.part != "out" or self.item else "")
            + (f".{self.item}" if self.item else "")
        )
        if self.index is None:
            return text
        return (
            text
            + (f"/{self.split}" if self.split else "")
            + (f"@{self.dim}" if self.dim != -1 else "")
            + f"[{self.index}]"
        )

    def head(self, index: int) -> "Site":
        """The same site at another index."""
        return replace(self, index=index)

    def module(self, model: nn.Module) -> nn.Module:
        """The module this site names. Raises `SiteNotFound` with near misses."""
        modules = dict(model.named_modules())
        if self.path not in modules:
            names = [n for n in modules if n]
            raise SiteNotFound(f"{type(model).__name__} has no module {self.path!r}; {near(self.path, names)}")
        return modules[self.path]

    def parameter(self, model: nn.Module) -> Tensor:
        """The parameter (or buffer) this site names. Raises `SiteNotFound`."""
        module = self.module(model)
        names = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
        if self.item not in names:
            raise SiteNotFound(f"{self.path!r} has no parameter {self.item!r}; {near(self.item or '', names)}")
        return names[self.item]

    def view(self, x: Tensor) -> Tensor:
        """The part of `x` that this site names, as a view into it. Raises `SiteNotFound` for an index out of range."""
        if self.index is None:
            return x
        try:
            if self.split is None:
                return x.select(self.dim, self.index)
            size = x.shape[self.dim]
            if size % self.split:
                raise SiteNotFound(
                    f"{self}: dimension {self.dim} has size {size}, which {self.split} parts do not divide"
                )
            width, index = size // self.split, self.index % self.split if -self.split <= self.index < 0 else self.index
            if not 0 <= index < self.split:
                raise IndexError(f"index {self.index} of {self.split} parts")
            return x.narrow(self.dim, index * width, width)
        except IndexError as e:
            raise SiteNotFound(f"{self}: {e}; the tensor there has shape {tuple(x.shape)}") from e

    def pick(self, value: Any) -> Tensor:
        """The tensor inside a module's output (tuples by position, dicts and model outputs by key)."""
        if isinstance(value, Tensor):
            if self.item is not None:
                raise SiteNotFound(f"{self}: the {self.part}put there is one tensor, it has no item {self.item!r}")
            return value
        try:
            got = value[self.key(value)]
        except (KeyError, IndexError, TypeError) as e:
            raise SiteNotFound(f"{self}: the {self.part}put there is a {type(value).__name__} without that item") from e
        if not isinstance(got, Tensor):
            raise SiteNotFound(f"{self}: item {self.item!r} there is a {type(got).__name__}, not a tensor")
        return got

    def key(self, value: Any) -> Any:
        """The key under which `pick` looks: the item, or the first of a tuple."""
        if self.item is None:
            return 0 if isinstance(value, tuple | list) else next(iter(value))
        return int(self.item) if self.item.isdigit() else self.item
