"""A `grpc.aio` server that no caller can stop with the path of its call, and that stops when its calls have
ended.

grpc.aio's main loop decodes the path of every call to an unregistered method as UTF-8, and ends, and the
server with it, at the first one that is not: one request from anybody who can connect. So every guarded
method is registered with core, whose name for it is used; what comes to no registered method is answered
without looking at its path; and neither is handed to the main loop. That also spares its wait on all
registered methods at each call.

A call that comes in the instant in which core begins to stop is put, one time in many, into a queue that
core has just emptied for the last time: core asks whether it stops before it takes the queue's lock, and not
again under it (grpcio 1.85.1, src/core/server/server.cc, MatchOrQueue). Such a call is neither handed to
anybody nor refused, and the stop waits for it until its deadline. So what core still holds when every call
that was handed to us has ended is cut off: its caller hears UNAVAILABLE.

This reaches below grpc.aio's public face. Where grpcio has changed so much that it cannot, no server is made.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from hauberk.interceptors.aio_exchange import check_reach
from hauberk.interceptors.edge import Edge
from hauberk.interceptors.inbound import Guard

Option = tuple[str, Any]

KEPT_S = 0.25
"""After the last of our calls, how long core may take to end what is left: callers that are told the
connection ends have to say that they heard.
"""


def guarded_server(guard: Guard, options: Sequence[Option] = ()) -> grpc.aio.Server:
    """A server of what `guard` serves when it is started, and of nothing else. Call it in the event loop.

    Raises RuntimeError where grpcio is not built as we know it.
    """
    try:
        check_reach()
    except AttributeError as error:
        raise RuntimeError(f"grpcio {grpc.__version__} cannot serve as a guard needs it: {error}") from error
    return _Server(guard, options)


class _Core(cygrpc.AioServer):  # type: ignore[misc]  # cygrpc is compiled and has no stubs
    """Core's server, whose calls begin here instead of in the main loop."""

    def __init__(self, guard: Guard, options: Sequence[Option]) -> None:
        self._guard = guard
        self._rpcs: set[asyncio.Task[None]] = set()
        self._own_loop = asyncio.get_running_loop()
        self._begun = 0
        super().__init__(self._own_loop, None, (), (), tuple(options), None)

    async def _request_call(self) -> None:
        """Accept calls to methods that are not registered; ends only with the server, by raising."""
        while True:
            self._begin(self._guard.unknown, await super()._request_call())

    async def _request_registered_call(self, method: bytes) -> None:
        """Accept calls to `method`; ends only with the server, by raising."""
        path, edges = method.decode(), self._guard.edges
        while True:
            state = await super()._request_registered_call(method)
            self._begin(edges[path], state)

    def _begin(self, edge: Edge, state: Any) -> None:
        task = edge.begin(state, self._own_loop)
        self._begun += 1
        self._rpcs.add(task)
        task.add_done_callback(self._rpcs.discard)

    async def idle(self, seconds: float) -> None:
        """Return when for so long no call has been begun or served."""
        before = -1
        while before != self._begun:
            while self._rpcs:
                await asyncio.wait(self._rpcs)
            before = self._begun
            await asyncio.sleep(seconds)


class _Server(grpc.aio._server.Server):  # type: ignore[name-defined, misc]
    """grpc.aio's server around that core."""

    def __init__(self, guard: Guard, options: Sequence[Option]) -> None:
        self._guard = guard
        self._loop = asyncio.get_running_loop()
        self._server = _Core(guard, options)

    async def start(self) -> None:
        self._server.add_registered_method_handlers(dict.fromkeys(self._guard.edges))
        await super().start()

    async def stop(self, grace: float | None) -> None:
        """As core's, but over at the latest KEPT_S after the end of the last call that was handed to us."""
        if grace:
            async with asyncio.TaskGroup() as waiting:
                # Core's own limit is never reached: from then on it must not be cancelled.
                ended = waiting.create_task(super().stop(grace + 1))
                idle = waiting.create_task(self._server.idle(KEPT_S))
                await asyncio.wait({ended, idle}, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
                ended.cancel()
                idle.cancel()
        await super().stop(None)
