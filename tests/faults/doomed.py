"""A process of the shop that kills or freezes itself: `doomed.py KILL|STOP POINT python -m MODULE`.

POINT is one of POINTS: a function of that process, and whether the signal comes before it or after it has
returned. It comes once. The last thing the process says before is `doomed: POINT ORDER SECONDS`: the order it
was at, and when, since the epoch.
"""

import functools
import importlib
import inspect
import itertools
import os
import runpy
import signal
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Chosen = Callable[[tuple[Any, ...], Any], bool]


def _always(_: tuple[Any, ...], __: Any) -> bool:
    return True


def _stage(stage: str) -> Chosen:
    return lambda args, _: bool(args[3] == stage)


def _found(_: tuple[Any, ...], result: Any) -> bool:
    return result is not None


@dataclass(frozen=True, slots=True)
class Point:
    """Where to die: before or after a function, as often as not only for some of its arguments."""

    function: str
    when: str
    chosen: Chosen = _always


STORE = "hauberk.services.orders.store:OrderStore"
CALLEES = "hauberk.services.orders.callees:Callees"
CATALOG = "hauberk.services.catalog.store"
PAYMENTS = "hauberk.services.payments.store"

POINTS: Mapping[str, Mapping[str, Point]] = {
    "orders": {
        "nothing-recorded": Point(f"{STORE}.open", "before"),
        "within-the-first-record": Point("hauberk.services.orders.store:_insert", "after"),
        "new-recorded": Point(f"{CALLEES}.reserve", "before"),
        "goods-reserved": Point(f"{CALLEES}.reserve", "after"),
        "reserved-recorded": Point(f"{CALLEES}.authorise", "before"),
        "money-authorised": Point(f"{CALLEES}.authorise", "after"),
        "authorised-recorded": Point(f"{CALLEES}.capture", "before"),
        "money-captured": Point(f"{CALLEES}.capture", "after"),
        "charged-recorded": Point(f"{STORE}.advance", "before", _stage("placed")),
        "placed-recorded": Point(f"{STORE}.advance", "after", _stage("placed")),
        "failure-known": Point(f"{STORE}.fail", "before"),
        "failure-recorded": Point(f"{STORE}.fail", "after"),
        "goods-released": Point(f"{CALLEES}.release", "after"),
        "money-refunded": Point(f"{CALLEES}.refund", "after"),
        "all-given-back": Point(f"{STORE}.advance", "before", _stage("failed")),
        "failed-recorded": Point(f"{STORE}.advance", "after", _stage("failed")),
        "taken-for-recovery": Point(f"{STORE}.take", "after", _found),
    },
    "catalog": {
        "reserve-asked": Point(f"{CATALOG}:CatalogStore.reserve", "before"),
        "reserve-within": Point(f"{CATALOG}:_take", "after"),
        "reserve-committed": Point(f"{CATALOG}:CatalogStore.reserve", "after"),
        "release-asked": Point(f"{CATALOG}:CatalogStore.release", "before"),
        "release-within": Point(f"{CATALOG}:_put_back", "after"),
        "release-committed": Point(f"{CATALOG}:CatalogStore.release", "after"),
    },
    "payments": {
        "authorise-asked": Point(f"{PAYMENTS}:PaymentStore.authorise", "before"),
        "authorise-committed": Point(f"{PAYMENTS}:PaymentStore.authorise", "after"),
        "capture-asked": Point(f"{PAYMENTS}:PaymentStore.capture", "before"),
        "capture-within": Point(f"{PAYMENTS}:_move", "after"),
        "capture-committed": Point(f"{PAYMENTS}:PaymentStore.capture", "after"),
        "refund-asked": Point(f"{PAYMENTS}:PaymentStore.refund", "before"),
        "refund-committed": Point(f"{PAYMENTS}:PaymentStore.refund", "after"),
    },
}


def main() -> None:
    number, point, _python, _m, module = sys.argv[1:]
    sys.path[0] = ""  # as it is under -m
    _doom(point, POINTS[module.split(".")[2]][point], signal.Signals[f"SIG{number}"])
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def _doom(name: str, point: Point, number: signal.Signals) -> None:
    """Put the signal before or after the point's function."""
    module, _, path = point.function.partition(":")
    *owners, function = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module))
    living = getattr(owner, function)

    met = itertools.count()

    def die_if(when: str, args: tuple[Any, ...], result: Any = None) -> None:
        if point.when == when and point.chosen(args, result) and next(met) == 0:
            _say(name, args, result)
            os.kill(os.getpid(), number)

    async def awaited(*args: Any, **named: Any) -> Any:
        die_if("before", args)
        result = await living(*args, **named)
        die_if("after", args, result)
        return result

    def called(*args: Any, **named: Any) -> Any:
        die_if("before", args)
        result = living(*args, **named)
        die_if("after", args, result)
        return result

    setattr(owner, function, awaited if inspect.iscoroutinefunction(living) else called)


def _say(point: str, args: tuple[Any, ...], result: Any) -> None:
    found = result[0] if isinstance(result, tuple) else args[1]
    order = found if isinstance(found, str) else getattr(found, "order_id", "unknown")
    os.write(1, f"doomed: {point} {order} {time.time():.6f}\n".encode())


if __name__ == "__main__":
    main()
