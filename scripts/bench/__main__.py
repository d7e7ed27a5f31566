"""Measures this machine: `make bench`, `make bench ARGS='calls --quick'`. Ends 1 if a promise is missed.

calls   what one call costs: bare gRPC, hauberk, what is usually put around gRPC, a pair of Envoy sidecars
ads     connected xDS streams, one endpoint changes: how long until the last subscriber has heard of it

make bench ARGS='--only same_loop_1pct --rounds 15'       one figure, in a minute
make bench ARGS='--only same_loop --without token --without quota,spans'       what a feature costs
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import uvloop

from scripts.bench import ads, document, report
from scripts.bench.calls import Make, measure
from scripts.bench.envoy import sidecars
from scripts.bench.features import FEATURES, left_out
from scripts.bench.measures import Table
from scripts.bench.processes import CLIENT_CORE, Void, bind_to
from scripts.bench.targets import Run, Target, Variant
from scripts.bench.variants import SIDECARS, Plan, plan

ROUNDS, QUICK_ROUNDS = 50, 15


def main() -> int:
    given = _arguments()
    told: list[str] = [report.machine()]
    extra: dict[str, Any] = {}
    failed = False
    calls = given.name == "calls" or bool(given.only or given.without)
    if not calls:
        title, measures = asyncio.run(ads.ads_benchmark(ads.SIZE))
        extra["ads"] = [asdict(each) for each in measures]
        told.append(ads.table(title, measures))
        failed = any(each.missed for each in measures)
    if given.name != "ads":
        rounds = given.rounds or (QUICK_ROUNDS if given.quick or given.only else ROUNDS)
        parts = [part for part in given.only.split(",") if part]
        try:
            table = run(plan(parts, given.without, quick=given.quick), rounds)
        except Void as void:
            print(f"bench: void: {void}", file=sys.stderr)
            return 2
        made = report.figures(table, rounds)
        told += [report.plain(report.rows(table)), report.promises(made)]
        failed = failed or bool(made.missed or (made.missing and not given.only))
        if given.write:
            document.write(table, made)
        if given.json:
            told = [report.line(made, extra)]
    elif given.json:
        told = [json.dumps({"machine": report.machine()} | extra)]
    print("\n\n".join(told))
    return 1 if failed and not given.report_only else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", nargs="?", choices=["calls", "ads"], help="which (default: both)")
    parser.add_argument(
        "--quick",
        action="store_true",
        help=f"{QUICK_ROUNDS} rounds instead of {ROUNDS}, and only what figures need",
    )
    parser.add_argument("--rounds", type=int, help="another number of rounds")
    parser.add_argument(
        "--only", default="", help="these figures and variants, beside bare calls: parts of names, by commas"
    )
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        type=left_out,
        metavar="FEATURES",
        help=f"measure ours without these, too; several times: each by itself; {','.join(FEATURES)}",
    )
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of a table")
    parser.add_argument("--write", action="store_true", help="replace docs/performance.md and its picture")
    parser.add_argument("--report-only", action="store_true", help="end 0 though a promise is missed")
    given = parser.parse_args()
    if given.write and (given.only or given.name == "ads"):
        parser.error("--write is for a run of all figures: without --only and ads")
    return given


def run(planned: Plan, rounds: int) -> Table:
    """One run; raises Void."""
    os.environ.setdefault("GRPC_SSL_CIPHER_SUITES", "ECDHE-RSA-AES256-GCM-SHA384")  # as `hauberk up` does
    bind_to(CLIENT_CORE)
    made: dict[Make, Any] = {partial(target, variant): under for variant, under in planned.items()}
    with tempfile.TemporaryDirectory(prefix="hauberk-bench-") as name:
        return uvloop.run(measure(made, rounds, Path(name), progress))


def target(variant: Variant, run: Run) -> Target:
    return sidecars(variant, run) if variant.name.startswith(SIDECARS) else run.target(variant)


def progress(what: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
