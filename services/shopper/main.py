"""The shopper as a process: `python -m hauberk.services.shopper.main --help`.

Its last line on standard output is `trace <id>`, of the last order it placed; with --seconds it serves as a
load instead, and ends with a summary.
"""

import argparse
from collections.abc import Sequence
from functools import partial

import grpc

import hauberk
from hauberk.services.shopper.errors import ShopAmiss
from hauberk.services.shopper.load import Load
from hauberk.services.shopper.visit import FEWEST_ORDERS, Visit


async def main(arguments: argparse.Namespace) -> None:
    """Visit the shop, or keep up a load. Raises ShopAmiss."""
    async with hauberk.join() as mesh:
        try:
            await (_visit if arguments.seconds is None else _load)(mesh, arguments)
        except grpc.aio.AioRpcError as error:
            raise ShopAmiss(f"a call failed: {error.code().name}: {error.details()}") from error


async def _visit(mesh: hauberk.Mesh, arguments: argparse.Namespace) -> None:
    last = await Visit(mesh.channel, _say).buy(arguments.orders)
    _say(f"trace {last.trace_id}")


async def _load(mesh: hauberk.Mesh, arguments: argparse.Namespace) -> None:
    summary = await Load(mesh.channel, mesh.stopping, rate=arguments.rate).run(arguments.seconds)
    _say(summary.json() if arguments.json else str(summary))
    summary.expect_none_failed()


def read_arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="shopper", description="Buys in the shop; all has to add up.")
    add = parser.add_argument
    add("--orders", type=_orders, default=20, metavar="N", help="how many to place (20)")
    add("--seconds", type=_positive, metavar="S", help="keep a steady load for S seconds instead")
    add("--rate", type=_positive, default=20.0, metavar="R", help="calls per second of the load (20)")
    add("--json", action="store_true", help="print the load's summary as one JSON line")
    return parser.parse_args(given)


def _orders(text: str) -> int:
    if not (text.isascii() and text.isdecimal()) or not FEWEST_ORDERS <= int(text) <= 10_000:
        raise argparse.ArgumentTypeError(f"write a number of orders, {FEWEST_ORDERS} to 10000")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 100_000:
        raise argparse.ArgumentTypeError("write a number above 0")
    return value


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    hauberk.run(partial(main, read_arguments()))
