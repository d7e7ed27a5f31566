"""Measures this machine: `make bench`, `make bench ARGS='calls --quick'`. Ends 1 if a promise is missed.

calls   what one call costs: bare gRPC, hauberk, what is usually put around gRPC, a pair of Envoy sidecars
ads     connected xDS streams, one endpoint changes: how long until the last subscriber has heard of it
"""

import argparse
import asyncio
import json
import sys
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from scripts.bench import ads, document, report
from scripts.bench.calls import STREAM_32, UNARY_1, UNARY_32, Variant, measure
from scripts.bench.envoy import sidecars
from scripts.bench.load import Shape
from scripts.bench.measures import Table
from scripts.bench.processes import CLIENT_CORE, Void, bind_to
from scripts.bench.tokens import issue

VARIANTS = (
    Variant(name=report.BARE, server="bare"),
    Variant(name=report.AGAIN, server="again"),
    Variant(name=report.STOCK, server="stock", loop="asyncio"),
    Variant(name=report.INSECURE, server="insecure", kind="insecure"),
    Variant(name=report.OURS_1, server="ours", kind="ours", our_headers=True, logs=True),
    Variant(name=report.OURS_100, server="ours", kind="ours", our_headers=True, logs=True, sampled=1.0),
    Variant(name=report.OURS_MANY, server="many", kind="ours", our_headers=True, logs=True, methods=200),
    Variant(name=report.OURS_BOTH, server="ours", kind="ours", our_channel=True, logs=True),
    Variant(name=report.OUR_CHANNEL, server="bare", our_channel=True),
    Variant(name=report.USUAL, server="usual", kind="usual", logs=True, spans=True),
)
SHAPES = (
    Shape(name=UNARY_32, at_once=32, calls=400),
    Shape(name=UNARY_1, at_once=1, calls=60),
    Shape(name=STREAM_32, at_once=32, calls=80, streams=True),
)
ROUNDS, QUICK_ROUNDS = 50, 15


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", choices=["calls", "ads"], help="which (default: both)")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROUNDS} rounds instead of {ROUNDS}")
    parser.add_argument("--rounds", type=int, help="another number of rounds")
    parser.add_argument("--only", default="", help="these variants, beside bare ones: substrings, by commas")
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    parser.add_argument("--write", action="store_true", help="replace docs/performance.md and its picture")
    given = parser.parse_args()
    told: list[str] = [report.machine()]
    extra: dict[str, Any] = {}
    failed = False
    if given.name != "calls":
        title, measures = asyncio.run(ads.ads_benchmark(ads.SIZE))
        extra["ads"] = [asdict(each) for each in measures]
        told.append(ads.table(title, measures))
        failed = any(each.missed for each in measures)
    if given.name != "ads":
        rounds = given.rounds or (QUICK_ROUNDS if given.quick else ROUNDS)
        try:
            table = run(rounds, [part for part in given.only.split(",") if part])
        except Void as void:
            print(f"bench: void: {void}", file=sys.stderr)
            return 2
        made = report.figures(table, rounds)
        told += [report.plain(report.rows(table)), report.promises(made)]
        failed = failed or bool(made.missed)
        if given.write:
            document.write(table, made)
        if given.json:
            told = [report.line(made, extra)]
    elif given.json:
        told = [json.dumps({"machine": report.machine()} | extra)]
    print("\n\n".join(told))
    return 1 if failed else 0


def run(rounds: int, only: list[str]) -> Table:
    """One run; raises Void."""
    bind_to(CLIENT_CORE)
    always = (report.BARE, report.AGAIN, report.STOCK)
    variants = [
        each
        for each in VARIANTS
        if not only or each.name in always or any(part in each.name for part in only)
    ]
    with tempfile.TemporaryDirectory(prefix="hauberk-bench-") as name:
        folder = Path(name)
        tokens, jwks = issue(folder)
        pair = partial(sidecars, report.SIDECARS, tokens, jwks)
        others = [pair] if not only or any(part in report.SIDECARS for part in only) else []
        return uvloop.run(measure(variants, SHAPES, rounds, folder, tokens, others, progress))


def progress(what: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
