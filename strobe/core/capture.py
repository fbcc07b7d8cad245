"""What a network carries at chosen sites and positions, for many inputs: taken once, kept on disk, shared by all that look at it."""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from strobe.core.data import chosen, count
from strobe.core.errors import BadOption, Diverged, SiteNotFound
from strobe.core.site import Site
from strobe.core.tap import tap

Forward = Callable[[nn.Module, Any], Any]


@dataclass(frozen=True, slots=True, eq=False)
class Activations:
    """Rows by site: `acts["blocks.2"]` is (rows, d), one row an input (positions "last", "mean" or a number), or one a token ("all").

    `example` (rows,) says which input a row is of; `position` (rows,) which token of it, −1 for a mean or where there are no tokens.
    """

    values: Mapping[str, Tensor]
    example: Tensor
    position: Tensor
    inputs: int

    @property
    def sites(self) -> tuple[str, ...]:
        return tuple(self.values)

    def __getitem__(self, site: str | Site) -> Tensor:
        if str(site) not in self.values:
            raise SiteNotFound(f"nothing was captured at {str(site)!r}; there is {', '.join(self.values)}")
        return self.values[str(site)]

    @classmethod
    def open(cls, path: str | Path) -> "Activations":
        """Those that `capture(..., into=path)` kept, memory-mapped. Raises `BadOption` where there are none."""
        folder = Path(path)
        try:
            facts = json.loads((folder / "capture.json").read_text())
            read = [np.load(folder / f"{i}.npy", mmap_mode="c", allow_pickle=False) for i in range(len(facts["sites"]))]
            where = np.load(folder / "rows.npy", allow_pickle=False)
        except (OSError, ValueError, KeyError) as e:
            raise BadOption(
                f"{folder} holds no captured activations ({e}); capture(..., into={str(folder)!r}) makes them"
            ) from e
        values = {s: torch.from_numpy(a) for s, a in zip(facts["sites"], read, strict=True)}
        return cls(values, torch.from_numpy(where[0]), torch.from_numpy(where[1]), facts["inputs"])


def capture(
    model: nn.Module, inputs: Any, sites: Sequence[str | Site] | None = None, *, positions: str | int = "last", mask: Tensor | None = None,
    forward: Forward | None = None, batch: int = 64, into: str | Path | None = None, progress: Callable[[float], None] | None = None,
) -> Activations:  # fmt: skip
    """Run the model over the inputs and keep what passes the sites.

    Args:
        inputs: sequences of token numbers of any lengths, which are run in batches of one length each, so that nothing is padded; or a
            batch as the model takes it (a tensor, or a mapping that becomes its keyword arguments).
        sites: as in `tap`; default the outputs of the blocks (`blocks_of`).
        positions: "last" token, "mean" over tokens, "all" tokens, or a number, from the first token or, negative, from the last.
        mask: (inputs, tokens), 1 where there is a token, for padded batches; default the mapping's `attention_mask`.
        forward: `forward(model, batch)`, by default `model(batch)`.
        into: a folder to keep the rows in, memory-mapped; a second capture of the same comes from there without a forward pass.
    Tensors (n, d) are rows as they are; of (n, channels, height, width) the places are the positions, and "last" is their mean.
    The network runs in eval mode without gradients, and is left as it was. Half precision is widened.
    Raises `SiteNotFound`, `BadOption`; `Diverged` where an activation is not finite.

    >>> net = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 4))
    >>> capture(net, [[1, 2, 3], [4]], ["0", "1"])["1"].shape
    torch.Size([2, 4])
    """
    if not (positions in ("last", "mean", "all") or (isinstance(positions, int) and not isinstance(positions, bool))):
        raise BadOption(f'positions is "last", "mean", "all" or a number, got {positions!r}')
    at = [Site.parse(s) for s in (blocks_of(model) if sites is None else sites)]
    if not at:
        raise BadOption("name at least one site")
    for site in at:
        site.module(model)
    pieces, n, mask = _pieces(inputs, mask, batch)
    key = _key(model, inputs, [str(s) for s in at], positions, mask, forward) if into is not None else ""
    if (
        into is not None
        and (old := Path(into) / "capture.json").exists()
        and json.loads(old.read_text()).get("key") == key
    ):
        return Activations.open(into)
    rows: dict[str, list[Tensor]] = {str(s): [] for s in at}
    example: list[Tensor] = []
    place: list[Tensor] = []
    done = 0
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    with still(model), torch.no_grad():
        for index, data in pieces:
            there = None if mask is None else mask[index]
            with tap(model, at) as seen:
                run_on(model, _to(data, device), forward)
            for i, site in enumerate(at):
                x, who, where = _rows(site, seen[str(site)], index, there, positions)
                if not x.isfinite().all():
                    bad = int(who[~x.isfinite().all(1)][0])
                    raise Diverged(
                        f"the activations at {site} are not finite for input {bad}: look at an earlier step or site"
                    )
                rows[str(site)].append(x)
                if i == 0:
                    example.append(who)
                    place.append(where)
                elif len(x) != len(example[-1]):
                    raise BadOption(
                        f"{site} has {len(x)} rows where {at[0]} has {len(example[-1])}: capture them apart"
                    )
            done += len(index)
            if progress is not None:
                progress(done / n)
    who, where = torch.cat(example), torch.cat(place)
    order = torch.argsort(who * (int(where.max()) + 2) + where, stable=True)
    kept = Activations({s: torch.cat(x)[order] for s, x in rows.items()}, who[order], where[order], n)
    return kept if into is None else _kept(kept, Path(into), key)


@contextmanager
def still(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode, each module back in its own mode on exit."""
    modes = {m: m.training for m in model.modules()}
    model.eval()
    try:
        yield model
    finally:
        for m, training in modes.items():
            m.training = training


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """The model in eval mode, no parameter of which asks for a gradient; all as it was on exit."""
    wanted = {p: p.requires_grad for p in model.parameters()}
    try:
        for p in wanted:
            p.requires_grad_(False)
        with still(model):
            yield model
    finally:
        for p, was in wanted.items():
            p.requires_grad_(was)


def blocks_of(model: nn.Module) -> list[str]:
    """The sites after each block: the children of the longest list or sequence of modules, of one type where there are such.

    Raises `SiteNotFound` for a model without any: name the sites.

    >>> blocks_of(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)))
    ['0', '1', '2']
    """
    lists = [
        (path, m) for path, m in model.named_modules() if isinstance(m, nn.ModuleList | nn.Sequential) and len(m) > 1
    ]
    if not lists:
        raise SiteNotFound(
            f"{type(model).__name__} has no list of blocks to take by itself; name the sites, sites=['layer1', ...]"
        )
    path, _ = max(lists, key=lambda p: (len({type(c) for c in p[1]}) == 1, len(p[1])))
    return [f"{path}.{i}" if path else str(i) for i in range(len(dict(lists)[path]))]


def _pieces(inputs: Any, mask: Tensor | None, batch: int) -> tuple[Iterator[tuple[Tensor, Any]], int, Tensor | None]:
    if batch < 1:
        raise BadOption(f"batch is at least 1, got {batch}")
    if isinstance(inputs, list | tuple) and inputs and not isinstance(inputs[0], int | float):
        if mask is not None:
            raise BadOption("sequences of their own lengths need no mask: give mask= with a padded batch only")
        return _by_length(list(inputs), batch), len(inputs), None
    if not isinstance(inputs, Tensor | Mapping):
        raise BadOption(
            f"inputs are sequences of tokens, a tensor or a mapping of tensors, got a {type(inputs).__name__}"
        )
    n = count(inputs)
    mask = inputs.get("attention_mask") if mask is None and isinstance(inputs, Mapping) else mask
    if mask is not None and (mask.ndim != 2 or len(mask) != n or not bool((mask > 0).any(1).all())):
        raise BadOption(
            f"mask is (inputs, tokens) with a token in every row, got shape {tuple(mask.shape)} for {n} inputs"
        )
    index = torch.arange(n).split(batch)
    return ((i, chosen(inputs, i)) for i in index), n, None if mask is None else mask.cpu() > 0


def _by_length(inputs: list[Any], batch: int) -> Iterator[tuple[Tensor, Any]]:
    ids = [torch.as_tensor(x) for x in inputs]
    lengths: dict[int, list[int]] = {}
    for i, x in enumerate(ids):
        if x.ndim != 1 or not len(x):
            raise BadOption(f"input {i} has no tokens: each input is a sequence of token numbers")
        lengths.setdefault(len(x), []).append(i)
    for same in lengths.values():
        for start in range(0, len(same), batch):
            index = same[start : start + batch]
            yield torch.tensor(index), torch.stack([ids[i] for i in index])


def _to(data: Any, device: torch.device) -> Any:
    if isinstance(data, Tensor):
        return data.to(device)
    return {k: v.to(device) if isinstance(v, Tensor) else v for k, v in data.items()}


def run_on(model: nn.Module, data: Any, forward: Forward | None) -> Any:
    """What the model returns for a batch: `forward(model, data)`, or the call, a mapping as its keyword arguments."""
    if forward is not None:
        return forward(model, data)
    return model(**data) if isinstance(data, Mapping) else model(data)


def _rows(
    site: Site, x: Tensor, index: Tensor, mask: Tensor | None, positions: str | int
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (r, d), whose example and which position each is."""
    n = len(index)
    if x.ndim < 2 or len(x) != n or not x.is_floating_point():
        raise BadOption(f"{site}: rows need a tensor (inputs, ..., features); there is {tuple(x.shape)} for {n} inputs")
    x = x.detach().cpu()
    x = x.float() if x.element_size() < 4 else x
    none = torch.full((n,), -1)
    if x.ndim == 2:
        return x, index, none
    if x.ndim == 4:  # channels of an image are its features
        x, positions = x.flatten(2).transpose(1, 2), "mean" if positions == "last" else positions
    x = x.flatten(1, -2)
    t = x.shape[1]
    there = torch.ones(n, t, dtype=torch.bool) if mask is None else mask
    if there.shape[1] != t:
        raise BadOption(f"{site} has {t} positions where the mask has {there.shape[1]}")
    if positions == "mean":
        return (x * there[..., None]).sum(1) / there.sum(1, keepdim=True), index, none
    which = there.cumsum(1) - 1
    if positions == "all":
        return x[there], index[:, None].expand(n, t)[there], which[there]
    at = -1 if positions == "last" else int(positions)
    length = there.sum(1)
    want = torch.full((n,), at) if at >= 0 else length + at
    if bool(((want < 0) | (want >= length)).any()):
        short = int(index[(want < 0) | (want >= length)][0])
        raise BadOption(f"position {at}: input {short} has {int(length[(want < 0) | (want >= length)][0])} tokens")
    column = ((which == want[:, None]) & there).int().argmax(1)
    return x[torch.arange(n), column], index, want


def _key(model: nn.Module, inputs: Any, sites: list[str], positions: Any, mask: Tensor | None, forward: Any) -> str:
    told = hashlib.blake2b(digest_size=16)
    told.update(json.dumps([sites, positions, getattr(forward, "__qualname__", str(forward))]).encode())
    told.update(repr(model).encode())
    parts = [*model.state_dict().values(), *([] if mask is None else [mask])]
    given = inputs.values() if isinstance(inputs, Mapping) else [inputs] if isinstance(inputs, Tensor) else inputs
    for x in [*parts, *map(torch.as_tensor, given)]:
        if isinstance(x, Tensor):
            told.update(str((x.dtype, tuple(x.shape))).encode())
            told.update(x.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return told.hexdigest()


def _kept(acts: Activations, path: Path, key: str) -> Activations:
    """Written beside, then put in place: a folder is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    try:
        for i, x in enumerate(acts.values.values()):
            np.save(beside / f"{i}.npy", x.numpy(), allow_pickle=False)
        np.save(beside / "rows.npy", torch.stack([acts.example, acts.position]).numpy(), allow_pickle=False)
        (beside / "capture.json").write_text(json.dumps({"key": key, "sites": list(acts.sites), "inputs": acts.inputs}))
        if path.exists():
            if any(path.iterdir()) and not (path / "capture.json").exists():
                raise BadOption(f"{path} is a folder of something else: give into= a new one")
            rmtree(path)
        os.replace(beside, path)
    finally:
        rmtree(beside, ignore_errors=True)
    return Activations.open(path)
