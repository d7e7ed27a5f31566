"""Waiting until the shop is open: a mesh that has just been started takes a moment to know its services."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc

from hauberk.services.shopper.errors import ShopAmiss

T = TypeVar("T")

OPENING_S = 15.0
PAUSE_S = 0.2
CALL_S = 2.0

# A route that is not there yet looks like one we may not use; an order that its callees could not be asked
# for is given up, and asked for anew.
_NOT_YET = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.ABORTED,
}


async def until_open(attempt: Callable[[], Awaitable[T]], *, within: float = OPENING_S) -> T:
    """The first answer; the call is repeated for `within` seconds while it finds nobody to answer it.

    Each attempt is a plain call that fails at once: waiting for a connection (`wait_for_ready`) would hide
    why there is none. Raises ShopAmiss with the last reason; any other status is raised as it is.
    """
    end = time.monotonic() + within
    while True:
        try:
            return await attempt()
        except grpc.aio.AioRpcError as error:
            if error.code() not in _NOT_YET:
                raise
            if time.monotonic() + PAUSE_S > end:
                raise ShopAmiss(
                    f"the shop did not open within {within:.0f} s: {error.code().name}: {error.details()}"
                ) from error
        await asyncio.sleep(PAUSE_S)
