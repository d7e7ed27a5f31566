"""Server streams that outlive their connection.

Every connection of the mesh ends by age, and a stream on it with it. A contract that lets a caller say how
far it has read can be read on as if nothing had happened.
"""

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from typing import TypeVar

import grpc

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 5.0

Message = TypeVar("Message")
Token = TypeVar("Token")


async def resume(
    open: Callable[[Token | None], AsyncIterable[Message]],  # noqa: A002 - it is what it does
    token: Callable[[Message], Token],
    *,
    attempts: int = 8,
) -> AsyncGenerator[Message, None]:
    """The messages of a server stream, read on where it was cut.

    `open(None)` begins it; `open(t)` goes on after the last message received, whose `token` is t: a callable
    that passes t to the contract's method. Cut means UNAVAILABLE: connection age, a server that leaves, a
    lost connection. Any other status is raised at once; UNAVAILABLE is when `attempts` in a row brought no
    message.
    """
    last: Token | None = None
    in_vain = 0
    while True:
        stream = open(last)
        try:
            async for message in stream:
                last = token(message)
                in_vain = -1
                yield message
            return
        except grpc.aio.AioRpcError as error:
            in_vain += 1
            if error.code() is not grpc.StatusCode.UNAVAILABLE or in_vain >= attempts:
                raise
        finally:
            _cancel(stream)
        if in_vain:
            longest = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2.0**in_vain)
            await asyncio.sleep(longest * random.uniform(0.5, 1.0))  # noqa: S311 - spreads callers


def _cancel(stream: object) -> None:
    """A reader that leaves early must not leave the call running."""
    cancel = getattr(stream, "cancel", None)
    if cancel is not None:
        cancel()
