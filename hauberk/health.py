"""grpc.health.v1 for each service of a server, and for "" (the server as a whole).

Check and List answer, Watch follows. Built in on every server, for any workload of the trust domain.
Source: https://github.com/grpc/grpc/blob/master/doc/health-checking.md
"""

import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hauberk.certs.watch import Watch
from hauberk.interceptors.errors import Refused

if TYPE_CHECKING:
    from grpc.aio import ServicerContext

    CheckContext = ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]
    # Any: the stubs of health_pb2 are older than List.
    ListContext = ServicerContext[Any, Any]

OVERALL = ""
_EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Statuses:
    """The serving status of each service. A withdrawn server serves nothing, whatever its services say."""

    def __init__(self) -> None:
        self._said: dict[str, bool] = {OVERALL: True}
        self._withdrawn = False
        self._closed = False
        self._statuses: Watch[Mapping[str, int]] = Watch({OVERALL: _SERVING})

    def add(self, services: Iterable[str]) -> None:
        """From now on these are known, and serving."""
        self._said |= dict.fromkeys(services, True)
        self._publish()

    def set_serving(self, service: str, serving: bool) -> None:
        """Report one service, or "" for the server as a whole. Raises KeyError if it was never added."""
        if service not in self._said:
            raise KeyError(service)
        self._said[service] = serving
        self._publish()

    def withdraw(self, withdrawn: bool) -> None:
        """Report everything as not serving, until `withdraw(False)`."""
        self._withdrawn = withdrawn
        self._publish()

    def close(self) -> None:
        """Withdraw for good, and end every Watch after it was told: it would hold up the drain."""
        self._closed = True
        self._publish()

    def serving(self, service: str = OVERALL) -> bool:
        return self._statuses.value.get(service) == _SERVING

    def _listed(self) -> Any:
        listed: Any = health_pb2
        return listed.HealthListResponse(
            statuses={
                name: health_pb2.HealthCheckResponse(status=status)
                for name, status in self._statuses.value.items()
            }
        )

    def _publish(self) -> None:
        up = not (self._withdrawn or self._closed)
        self._statuses.set(
            {name: _SERVING if up and serving else _NOT_SERVING for name, serving in self._said.items()}
        )


class Health(Statuses, health_pb2_grpc.HealthServicer):
    """They are told to callers, by an asyncio server."""

    async def Check(  # noqa: N802 - the contract's name
        self, request: health_pb2.HealthCheckRequest, context: "CheckContext"
    ) -> health_pb2.HealthCheckResponse:
        status = self._statuses.value.get(request.service)
        if status is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no such service here: {request.service!r:.99}")
        return health_pb2.HealthCheckResponse(status=status)

    async def List(  # noqa: N802 - the contract's name
        self, request: Any, context: "ListContext"
    ) -> Any:
        return self._listed()

    async def Watch(  # noqa: N802 - the contract's name
        self, request: health_pb2.HealthCheckRequest, context: "CheckContext"
    ) -> None:
        told = None
        while True:
            last, (version, statuses) = self._closed, self._statuses.versioned
            status = statuses.get(request.service, _UNKNOWN)
            if status != told:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                told = status
            if last:
                return
            await self._statuses.next(version)


class PlainHealth(Statuses, health_pb2_grpc.HealthServicer):
    """The same by a threaded server, where whoever watches holds a thread."""

    def __init__(self, *, watchers: int) -> None:
        """`watchers` may watch at a time; more are refused."""
        super().__init__()
        self._places = threading.BoundedSemaphore(watchers)

    def Check(  # noqa: N802 - the contract's name
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> health_pb2.HealthCheckResponse:
        status = self._statuses.value.get(request.service)
        if status is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"no such service here: {request.service!r:.99}")
        return health_pb2.HealthCheckResponse(status=status)

    def List(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802 - the contract's name
        return self._listed()

    def Watch(  # noqa: N802 - the contract's name
        self, request: health_pb2.HealthCheckRequest, context: grpc.ServicerContext
    ) -> Iterator[health_pb2.HealthCheckResponse]:
        if not self._places.acquire(blocking=False):
            raise Refused(
                "health is watched by as many as may", status=_EXHAUSTED, reason="TOO_MANY_WATCHERS"
            )
        changed = threading.Event()
        unsubscribe = self._statuses.subscribe(lambda _: changed.set())
        context.add_callback(changed.set)
        told = None
        try:
            while context.is_active():
                changed.clear()
                last, statuses = self._closed, self._statuses.value
                status = statuses.get(request.service, _UNKNOWN)
                if status != told:
                    yield health_pb2.HealthCheckResponse(status=status)
                    told = status
                if last:
                    return
                changed.wait()
        finally:
            unsubscribe()
            self._places.release()
