"""A `grpc.server` of what a guard serves: plain methods, in threads.

Core's own server with its one polling thread; only where it would hand a call to its pool of threads, the
call is handed to the guard.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from hauberk.certs.watch import Watch
from hauberk.interceptors.alarms import Alarms
from hauberk.interceptors.errors import status_of
from hauberk.interceptors.exchange import Exchange, check_reach
from hauberk.interceptors.inbound import OTHER, Guard
from hauberk.interceptors.peer import PeerCheck, Trust
from hauberk.interceptors.pipeline import Pipeline
from hauberk.interceptors.servant import PlainServant, RpcMethod
from hauberk.interceptors.serving import Option
from hauberk.interceptors.threaded import ThreadedEdge
from hauberk.interceptors.threaded_standing import ThreadedStanding
from hauberk.interceptors.uninstrumented import server
from hauberk.interceptors.workers import Workers

_log = logging.getLogger(__name__)

BUILT_IN = 16
"""Threads for what every server offers: health answers though all workers are busy, and takes none."""


class ThreadedGuard(Guard, grpc.GenericRpcHandler):
    """The guard of a threaded server. Everything not said here is as on an asyncio one."""

    def __init__(self, trust: Watch[Trust], *, workers: int, **more: Any) -> None:
        """`workers` is how many methods run at a time, beside those that overstay their call.

        Raises PolicyError where grpcio is not built as we know it.
        """
        self.workers = Workers(workers)
        self._built_in = Workers(BUILT_IN)
        self._alarms = Alarms()
        super().__init__(trust, **more)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> RpcMethod:
        handler: RpcMethod = self._edges.get(handler_call_details.method, self.unknown)
        return handler

    def close(self) -> None:
        """End the threads, once the server has stopped."""
        self.workers.close()
        self._built_in.close()
        self._alarms.close()

    def _new_standing(self, trust: Watch[Trust], peer_check: PeerCheck) -> ThreadedStanding:
        return ThreadedStanding(trust, peer_check, self._alarms)

    def _edge(self, path: str, method: RpcMethod, pipeline: Pipeline) -> RpcMethod:
        return self._begins(path, pipeline, PlainServant.of(path, method, pipeline.policy))

    def _refuses(self, pipeline: Pipeline) -> RpcMethod:
        return self._begins(OTHER, pipeline, PlainServant.nobody())

    def _begins(self, name: str, pipeline: Pipeline, servant: PlainServant) -> RpcMethod:
        workers = self._built_in if pipeline.policy.origin == "built in" else self.workers
        edge = ThreadedEdge(
            self._door, self.standing, name, pipeline, servant, workers=workers, alarms=self._alarms
        )
        # Streams in core's eyes, whatever the shape: it reads no message then before we do.
        return grpc.stream_stream_rpc_method_handler(edge)  # type: ignore[arg-type]  # never called by core


class _Reception:
    """Stands where core expects a pool of threads."""

    def submit(
        self, run: Callable[..., Any], serve: Callable[..., Any], event: Any, state: Any, edge: Any, *_: Any
    ) -> "_Reception":
        exchange = Exchange(event, state)
        try:
            edge.begin(exchange)
        except Exception as error:  # core's thread would end with it, and the server
            _log.exception("a call could not begin")
            status = status_of(error)
            exchange.finish(status.code, status.message, status.trailers, None)
        return self

    def add_done_callback(self, _: Callable[[Any], None]) -> None:
        """Core would count the calls in its pool, for a limit that is not set."""


def threaded_server(guard: ThreadedGuard, options: Sequence[Option] = ()) -> grpc.Server:
    """A server of what `guard` serves, and of nothing else. Close the guard when it has stopped.

    Raises RuntimeError where grpcio is not built as we know it.
    """
    try:
        check_reach()
    except AttributeError as error:
        raise RuntimeError(f"grpcio {grpc.__version__} cannot serve in guarded threads: {error}") from error
    return server(_Reception(), handlers=[guard], options=options)
