"""The pictures of docs/theory-*.md, drawn from what studies print: strobe run STUDY --json > DIR/STUDY.json, then this on DIR."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

OUT = Path(__file__).resolve().parents[1] / "docs/pictures"
BLUE, ORANGE, GREY = "#1f6feb", "#d9730d", "#8a8f98"
Rows = list[dict[str, Any]]


def column(rows: Rows, name: str) -> np.ndarray:
    """A column as numbers; what was not measured is NaN."""
    return np.array([np.nan if r.get(name) is None else float(r[name]) for r in rows])


def _ticks(ax: Any, at: np.ndarray) -> None:
    """On a logarithmic axis just the values there are."""
    ax.set_xticks(at, [f"{x:g}" for x in at])
    ax.set_xticks([], minor=True)


def solvable(of: dict[str, dict[str, Rows]], axes: Any) -> None:
    """Where diagonal networks end, and when their coordinates rise."""
    rows = of["implicit_bias"]["starts"]
    x = column(rows, "α")
    axes[0].loglog(x, column(rows, "to least |β|₁"), "o-", color=ORANGE, label="to the least |β|₁")
    axes[0].loglog(x, column(rows, "to least |β|₂"), "s-", color=GREY, label="to the least |β|₂")
    axes[0].loglog(x, column(rows, "|β − law| / |β|"), "D-", color=BLUE, label="to the law")
    axes[0].set(
        xlabel="start α", ylabel="distance of β at the end", title="Diagonal networks: the start chooses the norm"
    )
    rows = of["implicit_bias"]["rises"]
    said, saw = column(rows, "time, law"), column(rows, "time")
    axes[1].plot([0, saw.max()], [0, saw.max()], color=GREY, lw=1, label="equal")
    axes[1].plot(said, saw, "o", color=BLUE, label="coordinates of six data sets")
    axes[1].set(
        xlabel="time of the rise, predicted", ylabel="measured", title="Saddle to saddle: when coordinates rise"
    )


def limits(of: dict[str, dict[str, Rows]], axes: Any) -> None:
    """Finite networks against their kernels, and lazy against rich."""
    rows = [
        r for r in of["limits"]["one network's kernel against the closed form"] if str(r["network"]).startswith("relu")
    ]
    width = column(rows, "width")
    axes[0].loglog(width, column(rows, "one ntk"), "o-", color=ORANGE, label="one network")
    axes[0].loglog(width, column(rows, "mean ntk"), "s-", color=BLUE, label="mean of many")
    axes[0].loglog(width, column(rows, "one ntk")[0] * (width / width[0]) ** -0.5, "--", color=GREY, label="width^−½")
    axes[0].set(xlabel="width", ylabel="relative distance to the closed form", title="Tangent kernel of ReLU networks")
    _ticks(axes[0], width)
    rows = of["limits"]["lazy and rich training, first network"]
    scale = column(rows, "output scale")
    axes[1].loglog(scale, column(rows, "change of the kernel"), "o-", color=ORANGE, label="change of the kernel")
    axes[1].loglog(scale, column(rows, "change of weights"), "s-", color=BLUE, label="change of the weights")
    axes[1].loglog(
        scale, column(rows, "change of weights")[-1] * scale[-1] / scale, "--", color=GREY, label="1 / scale"
    )
    axes[1].set(xlabel="output scale", ylabel="relative change by training", title="Rich to lazy")


def empirical(of: dict[str, dict[str, Rows]], axes: Any) -> None:
    """Parities one by one, and clones of the data."""
    rows = of["scaling"]["parities learned"]
    p, t = column(rows, "probability"), column(rows, "step")
    axes[0].loglog(p, t, "o", color=BLUE, label="32 parities, one network")
    axes[0].loglog(p, t[0] * p[0] / p, "--", color=GREY, label="1 / probability, from the first")
    axes[0].set(
        xlabel="how often a parity comes",
        ylabel="step at which it is half learned",
        title="Quanta: tasks learned one by one",
    )
    rows = of["features"]["held-out loss on real digits, trained on"]
    step = column(rows, "step")
    for name, colour, line in (("real", BLUE, "-"), ("gaussian", ORANGE, "--"), ("isotropic", GREY, ":")):
        axes[1].loglog(step, column(rows, name), line, color=colour, lw=2, label=f"trained on: {name}")
    axes[1].set(xlabel="step", ylabel="loss on real digits", title="Means first, then covariances, then more")


def hyperparameters(of: dict[str, dict[str, Rows]], axes: Any) -> None:
    """The best learning rate by width, and curves of larger batches."""
    rows = of["width_transfer"]["best learning rates"]
    for name, colour in (("standard", ORANGE), ("maximal update", BLUE)):
        mine = [r for r in rows if r["parametrisation"] == name]
        axes[0].errorbar(
            column(mine, "width"),
            column(mine, "log2 best lr"),
            2 * column(mine, "err"),
            fmt="o-",
            color=colour,
            capsize=3,
            label=name,
        )
    axes[0].set(
        xscale="log",
        xlabel="width",
        ylabel="log₂ of the best learning rate (± 2 err)",
        title="Transfer across width, Adam on digits",
    )
    _ticks(axes[0], np.unique(column(rows, "width")))
    rows = list(of["batch_scaling"]["largest deviation of the loss curve"])
    y = np.arange(len(rows))
    axes[1].barh(
        y,
        100 * column(rows, "its rule"),
        xerr=200 * column(rows, "err"),
        color=[BLUE if r["optimizer"] == "sgd" else ORANGE for r in rows],
    )
    axes[1].set_yticks(y, [f"{r['optimizer']}, batch {r['batch']}" for r in rows])
    axes[1].axvline(2, color=GREY, ls="--", lw=1, label="tolerance: 2%")
    axes[1].set(xlabel="largest deviation of the loss curve, %", title="Batch and rate grown together by their rule")


def universality(of: dict[str, dict[str, Rows]], axes: Any) -> None:
    """Similarity of networks from two seeds beside untrained ones, and barriers between them."""
    rows = [r for r in of["universality"]["similarity of the second layer"] if r["measure"] == "CKA"]
    width = column(rows, "width")
    axes[0].plot(width, column(rows, "raw, layer 2"), "o-", color=BLUE, label="trained pairs")
    axes[0].plot(width, column(rows, "untrained, layer 2"), "s--", color=GREY, label="untrained pairs")
    axes[0].fill_between(
        width, column(rows, "untrained, layer 2"), column(rows, "raw, layer 2"), color=BLUE, alpha=0.12, label="excess"
    )
    axes[0].set(
        xscale="log",
        xlabel="width",
        ylabel="CKA of the second layer",
        ylim=(0, 1.02),
        title="Two seeds, one representation",
    )
    rows = of["universality"]["barriers"]
    axes[1].loglog(column(rows, "width"), column(rows, "as they are"), "s-", color=GREY, label="as they are")
    axes[1].loglog(column(rows, "width"), column(rows, "matched"), "o-", color=BLUE, label="hidden units matched")
    axes[1].set(xlabel="width", ylabel="loss barrier on the straight line", title="One basin, up to the order of units")
    for ax in axes:
        _ticks(ax, width)


PICTURES: dict[str, Callable[..., None]] = {
    "solvable": solvable, "limits": limits, "empirical": empirical, "hyperparameters": hyperparameters, "universality": universality,
}  # fmt: skip


def main(folder: Path) -> None:
    """Draw every picture whose studies are there."""
    of = {p.stem: json.loads(p.read_text())["tables"] for p in sorted(folder.glob("*.json"))}
    for name, draw in PICTURES.items():
        figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
        try:
            draw(of, axes)
        except KeyError as e:
            print(f"theory-{name}: not drawn, there is no {e}")
            continue
        for ax in axes:
            ax.grid(alpha=0.25)
            ax.spines[["top", "right"]].set_visible(False)
            if ax.get_legend_handles_labels()[0]:
                ax.legend(frameon=False, fontsize=9)
        path = OUT / f"theory-{name}.png"
        figure.savefig(path, dpi=110)
        plt.close(figure)
        print(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
