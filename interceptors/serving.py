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

This reaches below grpc.aio's public face. Where grpcio has changed so much that it cannot, the public
server is used and a warning logged.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

import grpc
from grpc._cython import cygrpc  # type: ignore[attr-defined]

from hauberk.interceptors.inbound import Guard

Option = tuple[str, Any]

OTHER = "_OTHER"
"""The method of a call to none of ours (OpenTelemetry semantic conventions, `rpc.method`)."""

KEPT_S = 0.25
"""After the last of our calls, how long core may take to end what is left: callers that are told the
connection ends have to say that they heard.
"""
_PARTS = (
    "_finish_handler_with_stream_responses",
    "_finish_handler_with_unary_response",
    "_MessageReceiver",
    "_schedule_rpc_coro",
    "_ServicerContext",
)
"""What of core's own way to serve a call is used."""

_log = logging.getLogger(__name__)


def guarded_server(guard: Guard, options: Sequence[Option] = ()) -> grpc.aio.Server:
    """A server of what `guard` serves when it is started, and of nothing else. Call it in the event loop."""
    try:
        _check_reach()
        return _Server(guard, options)
    except (AttributeError, TypeError) as error:
        _log.warning(
            "grpcio %s cannot be kept from stopping at a malformed path: %s", grpc.__version__, error
        )
        return grpc.aio.server(handlers=[guard], options=options)


def _check_reach() -> None:
    """Raise AttributeError if this grpcio is not built as we need it; nothing of it is made before."""
    for part in _PARTS:
        getattr(cygrpc, part)
    for part in ("_request_call", "_request_registered_call", "_make_request_call_future"):
        getattr(cygrpc.AioServer, part)


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
            self._begin(OTHER, await super()._request_call())

    async def _request_registered_call(self, method: bytes) -> None:
        """Accept calls to `method`; ends only with the server, by raising."""
        path = method.decode()
        while True:
            self._begin(path, await super()._request_registered_call(method))

    def _begin(self, path: str, state: Any) -> None:
        loop = self._own_loop
        task = loop.create_task(cygrpc._schedule_rpc_coro(self._serve(path, state), state, loop, path))
        self._begun += 1
        self._rpcs.add(task)
        task.add_done_callback(self._rpcs.discard)

    async def _serve(self, path: str, state: Any) -> None:
        """Run one call, as core would for a method that takes a stream of requests, which all of ours do.

        Core's own way there leaves the headers of each call in a circle of references, until the garbage
        collector comes by.
        """
        details = _Details(path)
        method = self._guard.service(details)
        context = cygrpc._ServicerContext(
            state, method.request_deserializer, method.response_serializer, self._own_loop
        )
        details.invocation_metadata = context.invocation_metadata()
        requests = cygrpc._MessageReceiver(context)
        try:
            if method.response_streaming:
                await cygrpc._finish_handler_with_stream_responses(
                    state, method.stream_stream, requests, context, self._own_loop
                )
            else:
                await cygrpc._finish_handler_with_unary_response(
                    state, method.stream_unary, requests, context, method.response_serializer, self._own_loop
                )
        except grpc.aio.AbortError:
            del state, details, method, context, requests  # core keeps it with the call, and so this frame
            raise

    async def idle(self, seconds: float) -> None:
        """Return when for so long no call has been begun or served."""
        before = -1
        while before != self._begun:
            while self._rpcs:
                await asyncio.wait(self._rpcs)
            before = self._begun
            await asyncio.sleep(seconds)


class _Details(grpc.HandlerCallDetails):
    """What core tells of a call before it is served."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.invocation_metadata = ()


class _Server(grpc.aio._server.Server):  # type: ignore[name-defined, misc]
    """grpc.aio's server around that core."""

    def __init__(self, guard: Guard, options: Sequence[Option]) -> None:
        self._guard = guard
        self._loop = asyncio.get_running_loop()
        self._server = _Core(guard, options)

    async def start(self) -> None:
        self._server.add_registered_method_handlers(dict(self._guard.methods))
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
