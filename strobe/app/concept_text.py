"""A bake-off on the terminal: sites by methods, what it says, and the examples at both ends."""

import sys
from typing import Any

SHOWN = 3  # examples at each end


def plain(found: Any) -> dict[str, Any]:
    """The same as JSON."""
    t = found.table
    return {
        "said": found.said(), "there": t.there, "p": t.p, "linear": t.linear, "auroc": list(t.auroc), "gain": list(t.gain),
        "best": {"site": t.best.site, "method": t.best.method}, "linearity": t.linearity, "rank": t.rank,
        "rows": [{"site": r.site, "method": r.method, "auroc": r.auroc, "low": r.low, "high": r.high, "stability": r.stability,
                  "setting": r.setting} for r in t.rows],
        "saved": None if found.saved is None else str(found.saved),
    }  # fmt: skip


def draw(found: Any) -> None:
    """Print it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(soft_wrap=not sys.stdout.isatty(), highlight=False)
    t = found.table
    methods = list(dict.fromkeys(r.method for r in t.rows))
    grid = Table(box=None, pad_edge=False, header_style="bold")
    grid.add_column("site", overflow="fold")
    for m in methods:
        grid.add_column(m, justify="right")
    good = {(r.site, r.method) for r in t.as_good} if t.there else set()
    for site in dict.fromkeys(r.site for r in t.rows):
        row = [Text(site)]
        for m in methods:
            r = t.row(site, m)
            style = (
                "bold green"
                if r is t.best and t.there
                else "green"
                if (site, m) in good
                else "dim"
                if r.low <= 0.5
                else ""
            )
            row.append(Text(f"{r.auroc:.3f}", style=style))
        grid.add_row(*row)
    console.print(
        f"[bold]Area under the ROC curve, held out[/] ({len(found.texts)} examples, {sum(found.labels)} with the concept)"
    )
    console.print(grid, width=None if sys.stdout.isatty() else 200)
    if t.there:
        console.print("[dim]green: the best, and those as good; dim: no better than chance[/]")
    console.print()
    console.print(found.said(), markup=False)
    b = t.best
    if t.there:
        console.print(
            f"At {b.site} {b.method} has {b.auroc:.3f} ({b.low:.3f} to {b.high:.3f}); halves of the examples agree on its direction to "
            f"{b.stability:.2f} (|cos|); linearity index {t.linearity:.2f}, {t.rank:.1f} directions.", markup=False,
        )  # fmt: skip
        order = found.scores.argsort()
        for title, index in (("Highest", order.flip(0)[:SHOWN]), ("Lowest", order[:SHOWN])):
            console.print(f"\n[bold]{title}[/]")
            for i in index.tolist():
                text = found.texts[i]
                console.print(
                    f"  {'+' if found.labels[i] else '-'} {float(found.scores[i]):+.2f}  {text[:100]}", markup=False
                )
    if found.saved is not None:
        console.print(f"\nSaved: {found.saved}", markup=False)
