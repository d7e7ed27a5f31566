"""The figures of a run, as they are promised: a table for people, one line of JSON for programs."""

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from scripts.bench.calls import STREAM_32, UNARY_1, UNARY_32
from scripts.bench.contract import ON
from scripts.bench.measures import Estimate, Table

BARE, AGAIN, STOCK, INSECURE = "bare", "bare again", "bare, asyncio", "bare, insecure"
OURS_1, OURS_100, OURS_MANY, OURS_BOTH = "ours, 1 %", "ours, 100 %", "ours, 200 methods", "ours at both ends"
OUR_CHANNEL, USUAL, SIDECARS = "bare, our channel", "usual stack", "Envoy sidecars"

LIMITS: dict[str, tuple[float, float]] = {
    "same_loop_1pct": (1.10, 1.20),
    "stock_1pct": (1.00, 1.05),
    "same_loop_100pct": (1.15, 1.25),
    "threaded_1pct": (1.12, 1.20),
    "stream_1pct": (1.10, 1.15),
    "client": (1.05, 1.10),
}
"""At most: the median, and the upper end of its interval."""
LEAST: dict[str, float] = {"usual_stack_added": 8.0, "sidecar_added_cpu": 5.0, "sidecar_added_p50": 4.0}
"""At least, in multiples of what we add."""


@dataclass(slots=True, kw_only=True)
class Figures:
    """What was promised and measured; None where it could not be."""

    ratios: dict[str, Estimate | None]
    times: dict[str, float | None]
    control: Estimate
    rounds: int
    missing: list[str] = field(default_factory=list)

    @property
    def missed(self) -> list[str]:
        """Which promises do not hold."""
        over = [
            name
            for name, found in self.ratios.items()
            if found and (found.median > LIMITS[name][0] or found.high > LIMITS[name][1])
        ]
        return over + [
            name for name, found in self.times.items() if found is not None and found < LEAST[name]
        ]


def figures(table: Table, rounds: int) -> Figures:
    """The promised figures of a run."""

    def ratio(variant: str, to: str, shape: str, what: str = "server_us") -> Estimate | None:
        return table.ratio(variant, to, shape, what) if table.has(variant, shape) else None

    made = Figures(
        ratios={
            "same_loop_1pct": ratio(OURS_1, BARE, UNARY_32),
            "stock_1pct": ratio(OURS_1, STOCK, UNARY_32),
            "same_loop_100pct": ratio(OURS_100, BARE, UNARY_32),
            "threaded_1pct": None,
            "stream_1pct": ratio(OURS_1, BARE, STREAM_32),
            "client": ratio(OUR_CHANNEL, BARE, UNARY_32, "client_us"),
        },
        times={
            "usual_stack_added": _times(table, USUAL, OURS_1, UNARY_32, "server_us"),
            "sidecar_added_cpu": _times(table, SIDECARS, OURS_BOTH, UNARY_32, "total_us"),
            "sidecar_added_p50": _times(table, SIDECARS, OURS_BOTH, UNARY_1, "p50_ms"),
        },
        control=table.ratio(AGAIN, BARE, UNARY_32),
        rounds=rounds,
    )
    made.missing = [name for name, found in (made.ratios | made.times).items() if found is None]
    return made


def _times(table: Table, variant: str, ours: str, shape: str, what: str) -> float | None:
    """What `variant` adds to bare calls, in multiples of what ours adds.

    What ours adds is never taken as less than two of a kind differ.
    """
    if not table.has(variant, shape):
        return None
    least = table.spread(AGAIN, BARE, shape, what)
    return table.added(variant, BARE, shape, what) / max(table.added(ours, BARE, shape, what), least)


def line(made: Figures, extra: dict[str, Any]) -> str:
    """One line of JSON: the promised figures by name, their intervals, and what they rest on."""
    report: dict[str, Any] = {
        name: None if found is None else round(found.median, 3) for name, found in made.ratios.items()
    }
    report |= {name: None if found is None else round(found, 2) for name, found in made.times.items()}
    report["missing"] = made.missing
    report["missed"] = made.missed
    report["ci95"] = {
        name: [round(found.low, 3), round(found.high, 3)] for name, found in made.ratios.items() if found
    }
    control = made.control
    report["control"] = [round(each, 3) for each in (control.median, control.low, control.high)]
    return json.dumps(report | {"rounds": made.rounds, "on": ON, "machine": machine()} | extra)


def rows(table: Table) -> list[list[str]]:
    """The table: each variant under each load."""
    made = [["", "load", "server us", "to bare [95 %]", "client us", "p50 ms", "p99 ms", "calls/s"]]
    for variant, shape in sorted(table.cells, key=lambda key: key[1]):
        made.append(
            [
                variant,
                shape,
                f"{statistics.median(table.column(variant, shape, 'server_us')):.0f}",
                str(table.ratio(variant, BARE, shape)),
                f"{statistics.median(table.column(variant, shape, 'client_us')):.0f}",
                f"{table.latency_ms(variant, shape, 0.5):.2f}",
                f"{table.latency_ms(variant, shape, 0.99):.2f}",
                f"{statistics.median(table.column(variant, shape, 'rps')):.0f}",
            ]
        )
    return made


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
    """Each promise, and what came of it."""
    lines = [["", "measured", "at most"]]
    for name, found in made.ratios.items():
        most = "{:.2f} ({:.2f})".format(*LIMITS[name])
        lines.append([name, "not measured" if found is None else str(found), most])
    for name, times in made.times.items():
        lines.append(
            [name, "not measured" if times is None else f"{times:.1f} times ours", f">= {LEAST[name]:g}"]
        )
    lines.append(["two of a kind", str(made.control), ""])
    return plain(lines) + (f"\n\nmissed: {', '.join(made.missed)}" if made.missed else "")


def machine() -> str:
    python = f"Python {platform.python_version()}, grpcio {grpc.__version__}"
    return f"{os.cpu_count()} cores, {platform.machine()}, {python}"
