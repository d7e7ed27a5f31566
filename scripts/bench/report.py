"""The figures of a run, as they are promised: a table for people, one line of JSON for programs."""

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from scripts.bench.features import ON
from scripts.bench.measures import Estimate, Table
from scripts.bench.variants import AGAIN, BARE, RATIOS, TIMES, UNARY_32, VARIANTS, Times


@dataclass(slots=True, kw_only=True)
class Figures:
    """What was promised and measured; None where it was not."""

    ratios: dict[str, Estimate | None]
    times: dict[str, float | None]
    control: Estimate
    rounds: int

    @property
    def missing(self) -> list[str]:
        return [name for name, found in (self.ratios | self.times).items() if found is None]

    @property
    def missed(self) -> list[str]:
        """Which promises do not hold."""
        return [
            *(name for name, found in self.ratios.items() if found and not _kept(found, RATIOS[name].most)),
            *(name for name, found in self.times.items() if found is not None and found < TIMES[name].least),
        ]


def figures(table: Table, rounds: int) -> Figures:
    """The promised figures of a run."""
    ratios: dict[str, Estimate | None] = {}
    for name, ratio in RATIOS.items():
        measured = table.has(ratio.variant, ratio.shape.name) and table.has(ratio.to, ratio.shape.name)
        ratios[name] = (
            table.ratio(ratio.variant, ratio.to, ratio.shape.name, ratio.what) if measured else None
        )
    control = UNARY_32.name if table.has(BARE, UNARY_32.name) else next(iter(table.cells))[1]
    return Figures(
        ratios=ratios,
        times={name: _times(table, figure) for name, figure in TIMES.items()},
        control=table.ratio(AGAIN, BARE, control),
        rounds=rounds,
    )


def _kept(found: Estimate, most: tuple[float, float] | None) -> bool:
    return most is None or (found.median <= most[0] and found.high <= most[1])


def _times(table: Table, figure: Times) -> float | None:
    """What ours adds is never taken as less than two of a kind differ."""
    shape, what = figure.shape.name, figure.what
    if not (table.has(figure.variant, shape) and table.has(figure.ours, shape)):
        return None
    least = table.spread(AGAIN, BARE, shape, what)
    added = table.added(figure.variant, BARE, shape, what).median
    return added / max(table.added(figure.ours, BARE, shape, what).median, least)


def line(made: Figures, extra: dict[str, Any]) -> str:
    """One line of JSON: the promised figures by name, their intervals, and what they rest on."""
    report: dict[str, Any] = {
        name: None if found is None else round(found.median, 3) for name, found in made.ratios.items()
    }
    report |= {name: None if found is None else round(found, 2) for name, found in made.times.items()}
    report["limits"] = {name: ratio.most for name, ratio in RATIOS.items() if ratio.most} | {
        name: times.least for name, times in TIMES.items()
    }
    report["missing"] = made.missing
    report["missed"] = made.missed
    report["ci95"] = {
        name: [round(found.low, 3), round(found.high, 3)] for name, found in made.ratios.items() if found
    }
    control = made.control
    report["control"] = [round(each, 3) for each in (control.median, control.low, control.high)]
    return json.dumps(report | {"rounds": made.rounds, "on": ON, "machine": machine()} | extra)


def rows(table: Table) -> list[list[str]]:
    """The table: each variant under each load, held against its base."""
    bases = {variant.name: variant.base for variant in VARIANTS}
    head = [
        "",
        "load",
        "server us",
        "added us [95 %]",
        "ratio [95 %]",
        "client us",
        "p50 ms",
        "p99 ms",
        "calls/s",
    ]
    made = [head]
    order = list(bases)
    for variant, shape in sorted(table.cells, key=lambda key: (key[1], order.index(_plain(key[0])), key[0])):
        base = bases[_plain(variant)]
        made.append(
            [
                variant,
                shape,
                f"{statistics.median(table.column(variant, shape, 'server_us')):.0f}",
                "{0.median:+.0f} [{0.low:+.0f}, {0.high:+.0f}]".format(
                    table.added(variant, base, shape, "server_us")
                ),
                str(table.ratio(variant, base, shape)),
                f"{statistics.median(table.column(variant, shape, 'client_us')):.0f}",
                f"{table.latency_ms(variant, shape, 0.5):.2f}",
                f"{table.latency_ms(variant, shape, 0.99):.2f}",
                f"{statistics.median(table.column(variant, shape, 'rps')):.0f}",
            ]
        )
    return made


def _plain(variant: str) -> str:
    """The variant without what it was measured without."""
    return variant.partition(" - ")[0]


def plain(lines: Sequence[Sequence[str]]) -> str:
    """Rows in columns."""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def promises(made: Figures) -> str:
    """Each promise that was measured, and what came of it."""
    lines = [["", "measured", "promised", ""]]
    for name, found in made.ratios.items():
        if found is not None:
            most = RATIOS[name].most
            said = "stated only" if most is None else "at most {:.2f} (upper end {:.2f})".format(*most)
            lines.append([name, str(found), said, "" if most is None else result(name, made)])
    for name, times in made.times.items():
        if times is not None:
            least = TIMES[name].least
            lines.append([name, f"{times:.1f} times ours", f"at least {least:g}", result(name, made)])
    lines.append(["two of a kind", str(made.control), "", ""])
    return plain(lines)


def result(name: str, made: Figures) -> str:
    return "NOT MET" if name in made.missed else "met"


def machine() -> str:
    python = f"Python {platform.python_version()}, grpcio {grpc.__version__}"
    return f"{os.cpu_count()} cores ({_processor()}), {platform.system()} {platform.release()}, {python}"


def _processor() -> str:
    """What the processor calls itself, where the system tells."""
    try:
        told = Path("/proc/cpuinfo").read_text("utf-8")
    except OSError:
        return platform.machine()
    name = told.partition("model name")[2].partition("\n")[0].strip("\t: ")
    return name or platform.machine()
