"""The stage with a threaded server, for the same tests: their coroutines run as plain methods would.

A method waits in its thread for a coroutine in the test's loop, and heeds its context: the coroutine is
cancelled when the call is over.
"""

import asyncio
import contextvars
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import Any

from hauberk.interceptors.access_log import AccessLog
from hauberk.interceptors.peer import PeerCheck
from hauberk.interceptors.servant import RpcMethod
from hauberk.interceptors.threaded_serving import ThreadedGuard, threaded_server
from tests.interceptors.stage import TRUST_DOMAIN, Behaviour, Shape, Stage, method

WORKERS = 40


class ThreadedStage(Stage):
    def method(self, behaviour: Behaviour, shape: Shape, *how: Any) -> RpcMethod:
        return method(plain(behaviour, shape), shape, *how)

    def new_guard(self, *, clock: Callable[[], datetime] | None = None, **more: Any) -> ThreadedGuard:
        more.setdefault("records", self.keeping(AccessLog(self.log, f"spiffe://{TRUST_DOMAIN}/server")))
        more.setdefault("workers", WORKERS)
        return ThreadedGuard(
            self.trust,
            trust_domain=TRUST_DOMAIN,
            peer_check=PeerCheck(self.trust, clock=clock) if clock else None,
            **more,
        )

    def new_server(self, guard: Any, options: Sequence[tuple[str, Any]]) -> Any:
        return threaded_server(guard, options)

    async def begin(self, server: Any) -> None:
        server.start()
        guard: Any = self.guard if hasattr(self, "guard") else None

        async def end() -> None:
            await asyncio.to_thread(server.stop(0).wait)
            if guard is not None:
                guard.close()

        self._open.push_async_callback(end)


def plain(behaviour: Behaviour, shape: Shape) -> Behaviour:
    """`behaviour`, a coroutine function or asynchronous generator, as a plain one."""
    loop = asyncio.get_running_loop()

    def made(request: Any, context: Any) -> "tuple[Any, _Waited]":
        waited = _Waited(loop, context)
        asked = _Requests(request) if shape.requests_stream else request
        return behaviour(asked, _Context(context)), waited

    def one(request: Any, context: Any) -> Any:
        reply, waited = made(request, context)
        return waited(reply)

    def many(request: Any, context: Any) -> Iterator[Any]:
        replies, waited = made(request, context)
        try:
            while True:
                try:
                    yield waited(anext(replies))
                except StopAsyncIteration:
                    return
        finally:
            waited(replies.aclose(), whatever=True)

    return many if shape.replies_stream else one


class _Waited:
    """Called with a coroutine, waits for its result in this thread; cancels it when the call is over."""

    def __init__(self, loop: asyncio.AbstractEventLoop, context: Any) -> None:
        self._loop = loop
        self._over = False
        self._task: asyncio.Task[Any] | None = None
        if not context.add_callback(lambda: loop.call_soon_threadsafe(self._end)):
            self._over = True

    def __call__(self, coroutine: Coroutine[Any, Any, Any], *, whatever: bool = False) -> Any:
        result: Future[Any] = Future()
        here = contextvars.copy_context()

        def start() -> None:
            task = self._loop.create_task(coroutine, context=here)
            task.add_done_callback(lambda _: _tell(task, result))
            if not whatever:
                self._task = task
                if self._over:
                    task.cancel()

        self._loop.call_soon_threadsafe(start)
        return result.result()

    def _end(self) -> None:
        self._over = True
        if self._task is not None:
            self._task.cancel()


def _tell(task: asyncio.Task[Any], result: Future[Any]) -> None:
    error = asyncio.CancelledError() if task.cancelled() else task.exception()
    if error is None:
        result.set_result(task.result())
    else:
        result.set_exception(error)


class _Requests:
    def __init__(self, requests: Iterator[Any]) -> None:
        self._requests = requests

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        nothing = object()
        request = await asyncio.to_thread(next, self._requests, nothing)
        if request is nothing:
            raise StopAsyncIteration
        return request


class _Context:
    """What an asyncio method awaits of its context, done by the context of a plain one."""

    def __init__(self, context: Any) -> None:
        self._context = context

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> None:
        if trailing_metadata:
            self._context.set_trailing_metadata(trailing_metadata)
        self._context.abort(code, details)

    async def send_initial_metadata(self, metadata: Any) -> None:
        self._context.send_initial_metadata(metadata)
