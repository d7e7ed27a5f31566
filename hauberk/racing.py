"""Waiting for whichever comes first, and work that begins anew."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from hauberk.certs.watch import Watch


async def first_of(*waits: Coroutine[Any, Any, object]) -> None:
    """Return when one of `waits` has, or raise what it raised; the others are cancelled and over by then."""
    tasks = [asyncio.ensure_future(wait) for wait in waits]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def at_each(wanted: Watch[None], work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Do `work` whenever `wanted` is set, for ever; anew where it is set again before that has ended."""
    version = wanted.version
    while True:
        version = await wanted.next(version)
        await first_of(work(), wanted.next(version))
