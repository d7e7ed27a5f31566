"""docs/performance.md and its picture, from one run: `make bench ARGS=--write`."""

import statistics
from datetime import UTC, datetime
from pathlib import Path

from scripts.bench import report
from scripts.bench.features import ON
from scripts.bench.measures import Table
from scripts.bench.variants import UNARY_32

DOCS = Path(__file__).resolve().parents[2] / "docs"
PICTURE = "performance.svg"
_BAR, _LEFT, _WIDE = 22, 170, 520


def write(table: Table, made: report.Figures) -> None:
    """Replace both files."""
    (DOCS / PICTURE).write_text(picture(table), "utf-8")
    (DOCS / "performance.md").write_text(page(table, made), "utf-8")


def page(table: Table, made: report.Figures) -> str:
    """The page, in Markdown."""
    promised = [["figure", "measured", "promised"]]
    for name, found in made.ratios.items():
        most = "at most {:.2f} (interval {:.2f})".format(*report.LIMITS[name])
        promised.append([f"`{name}`", "not measured" if found is None else str(found), most])
    for name, times in made.times.items():
        said = "not measured" if times is None else f"{times:.1f} times ours"
        promised.append([f"`{name}`", said, f"at least {report.LEAST[name]:g}"])
    missed = ", ".join(f"`{name}`" for name in made.missed) or "none"
    head, *rest = report.rows(table)
    return f"""# What a call costs

Written by `make bench ARGS=--write`, {datetime.now(UTC):%Y-%m-%d}: {report.machine()}; {made.rounds} rounds.

Each server is a process of its own on one core, its callers on another. In each round every variant is
put under every load once, in an order drawn anew; ratios are medians of the rounds' own, with their 95 %
interval. `bare` is grpc.aio over mutual TLS on uvloop, the loop of ours; `bare again` is the same once more:
{made.control} is what two of a kind differ by. What else the machine does is in the microseconds, and mostly
not in the ratios.

What ours does here for each call: {", ".join(ON)}.

![CPU of the server for one call]({PICTURE})

## Promised

{_markdown(promised)}

Missed: {missed}.

## Measured

Microseconds are CPU of the server's process for one call (for the sidecars, of both and the server), and of
the callers' process.

{_markdown([["variant", *head[1:]], *rest])}
"""


def picture(table: Table) -> str:
    """Bars: CPU of the server for a unary call, 32 at once."""
    columns = {
        variant: statistics.median(table.column(variant, shape, "server_us"))
        for variant, shape in table.cells
        if shape == UNARY_32
    }
    scale = _WIDE / max(columns.values())
    bars = []
    for number, (variant, us) in enumerate(sorted(columns.items(), key=lambda pair: pair[1])):
        y = 34 + number * (_BAR + 6)
        colour = "#0a7d55" if "ours" in variant else "#8a8f98"
        bars.append(
            f'<text x="{_LEFT - 8}" y="{y + 15}" text-anchor="end">{variant}</text>'
            f'<rect x="{_LEFT}" y="{y}" width="{us * scale:.0f}" height="{_BAR}" fill="{colour}"/>'
            f'<text x="{_LEFT + us * scale + 6:.0f}" y="{y + 15}">{us:.0f}</text>'
        )
    height = 40 + len(bars) * (_BAR + 6)
    title = "CPU of the server for a unary call over mutual TLS, 32 at once, microseconds"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDE + 60}" height="{height}"'
        f' font-family="sans-serif" font-size="13" role="img" aria-label="{title}">'
        '<rect width="100%" height="100%" fill="white"/>'
        f'<text x="8" y="20">{title}</text>{"".join(bars)}</svg>\n'
    )


def _markdown(rows: list[list[str]]) -> str:
    head, *rest = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rest))
