"""A server of the mesh: mutual TLS, one guard in front of every method, health, reflection, a graceful end.

Generated code takes it for what it is, a grpc.aio.Server: `add_OrdersServicer_to_server(servicer, server)`.
Handlers reach core through the guard alone and never as registered methods, which core prefers over it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol, Self

import grpc
from grpc_health.v1 import health_pb2_grpc

from hauberk import builtin, health, reflection
from hauberk.certs.credentials import Credentials, anonymous_server_credentials, server_credentials
from hauberk.certs.rotation import Schedule
from hauberk.certs.watch import Watch
from hauberk.errors import ListenFailed
from hauberk.interceptors.audit import AuditLog
from hauberk.interceptors.errors import Draining, IdentityUnfit, PolicyError
from hauberk.interceptors.inbound import Guard
from hauberk.interceptors.overload import MOST
from hauberk.interceptors.peer import Trust
from hauberk.interceptors.policy import Policy
from hauberk.interceptors.records import Records
from hauberk.interceptors.servant import RpcMethod
from hauberk.interceptors.serving import guarded_server
from hauberk.interceptors.token_check import Tokens
from hauberk.options import Option, server_options
from hauberk.servicers import contract_of, handlers_of, policies_in

_log = logging.getLogger(__name__)

Handlers = Mapping[str, RpcMethod]
DRAIN_S = 10.0
LINGER_S = 0.5
"""Between callers having been told that we leave and our leaving: to have heard is not yet to have acted.
A call that comes after it is ended by core as CANCELLED, which nobody retries.
"""
CLEARED_S = 0.5
"""Before the end of a drain, at most: how long the status of the calls that did not end may take to leave."""


class Announcement(Protocol):
    """A server's place in the mesh."""

    async def withdraw(self) -> bool:
        """Report DRAINING, and return once callers have been told, or can wait no longer: False."""

    async def end(self) -> None:
        """Leave the mesh."""


class Overrides(Protocol):
    """What operators demand in place of contracts, as it changes."""

    async def enforce(self, guard: Guard) -> None:
        """Have it enforced by `guard` from now on, once it is known. Raises PolicyError if it cannot be."""


Announce = Callable[[str, Sequence[str]], Awaitable[Announcement]]
"""Called with host:port and the contracts once the server listens."""


class MeshServer(grpc.aio.Server):
    """Serves contracts to the mesh. Add servicers, then `serve`; or `start` and `stop`."""

    def __init__(
        self,
        *,
        credentials: Watch[Credentials],
        trust: Watch[Trust],
        schedule: Schedule,
        listen: str,
        service_name: str,
        records: Records | None = None,
        audit: AuditLog | None = None,
        trace_ratio: float = 1.0,
        announce: Announce | None = None,
        anonymous: bool = False,
        options: Iterable[Option] = (),
        in_flight_per_peer: int = 100,
        tokens: Tokens | None = None,
        in_flight_most: int = MOST,
        stopping: asyncio.Event | None = None,
        drain_seconds: float = DRAIN_S,
        overrides: Overrides | None = None,
    ) -> None:
        """`listen` is host:port, port 0 for any free; `service_name` is what our log lines call us.

        `anonymous` asks callers for no certificate, and accepts only methods whose policy says `anonymous`.
        `in_flight_most` calls are served at once, while none is slow; streams count for their first second.
        Without `tokens`, methods that demand an access token are not served.
        `stopping` is what `serve` waits for; `drain_seconds` bounds the end it then makes.
        """
        self._service_name = service_name
        self._credentials = credentials
        self._listen = listen
        self._anonymous = anonymous
        self._announce = announce
        self._stopping = stopping or asyncio.Event()
        self._drain_seconds = drain_seconds
        self._schedule = schedule
        self._overrides = overrides
        self._options = tuple(options)
        self._offered: dict[str, Handlers] = {}
        self._health = self._new_health()
        self._guard = self._new_guard(
            trust,
            trust_domain=credentials.value.svid.spiffe_id.trust_domain,
            records=records,
            audit=audit,
            trace_ratio=trace_ratio,
            in_flight_per_peer=in_flight_per_peer,
            tokens=tokens,
            in_flight_most=in_flight_most,
        )
        self._guard.overload.on_stuck = self._report_health
        self._server: Any = None
        """Core's, once it has been made."""
        self._address = ""
        self._announcement: Announcement | None = None
        self._ending = asyncio.Lock()
        self._stopped = False
        if not anonymous:
            self._add_builtin()

    @property
    def address(self) -> str:
        """host:port as it is listened on. Raises RuntimeError before `start`."""
        if not self._address:
            raise RuntimeError("the server has not started: it has no address yet")
        return self._address

    @property
    def contracts(self) -> tuple[str, ...]:
        """Full names of the services added, without health and reflection."""
        return tuple(sorted(self._offered.keys() - builtin.POLICIES.keys()))

    def add(self, service: str, handlers: Handlers, policies: Mapping[str, Policy]) -> None:
        """Serve `service` with explicit policies, by method name.

        Raises PolicyError if a method has no policy, or demands a certificate where none is asked for.
        """
        if self._server is not None:
            raise RuntimeError(f"{service} was added after the server had started")
        if service in self._offered:
            if dict(self._offered[service]) == dict(handlers):
                return  # generated code adds each service twice, as generic and as registered methods
            raise PolicyError(f"{service} is added twice, by different servicers")
        for method in handlers:
            if method not in policies:
                raise PolicyError(f"/{service}/{method} has no policy")
            if self._anonymous and not policies[method].anonymous:
                raise PolicyError(
                    f"/{service}/{method} is not anonymous, but nobody shows a certificate here"
                )
        self._guard.add(service, handlers, policies)
        self._offered[service] = handlers
        self._health.add([service])

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """For generated code. The policies are those of the contract, found by the service's name.

        Raises PolicyError for a method without one, a contract that is not loaded, or a handler that names no
        service.
        """
        for generic in generic_rpc_handlers:
            if not isinstance(generic, grpc.ServiceRpcHandler):
                raise PolicyError(f"a generic handler names no service, so it has no policy: {generic!r:.99}")
            contract = contract_of(generic.service_name())
            self.add(contract.full_name, handlers_of(generic, contract), policies_in(contract))

    def add_registered_method_handlers(self, service_name: str, method_handlers: Handlers) -> None:
        """For generated code, as `add_generic_rpc_handlers`."""
        self.add(service_name, method_handlers, policies_in(contract_of(service_name)))

    def set_serving(self, service: str, serving: bool) -> None:
        """What health reports of one service, or of the server as a whole ("")."""
        self._health.set_serving(service, serving)

    def refuse_all(self, why: str) -> None:
        """Answer every call UNAVAILABLE with `why` and report NOT_SERVING; until `why` is empty.

        Those in flight are ended so too.
        """
        self._guard.unfit = why
        self._report_health()
        if why:
            self._guard.standing.end(IdentityUnfit(why))

    def end_streams(self) -> None:
        """Answer new calls UNAVAILABLE, and so end those that stream replies: a stop would wait for them."""
        leaving = Draining("this process is leaving; come back")
        self._guard.draining = True
        self._guard.standing.end(leaving, lambda call: call.policy.response_streaming)

    def refuse_for_memory(self, short: bool) -> None:
        """Answer every new call UNAVAILABLE and report NOT_SERVING while `short`.

        The mesh keeps its routes: replicas under one load are short together, and a caller that found nobody
        at all would not know that it passes.
        """
        self._guard.memory_short = short
        self._report_health()

    async def start(self) -> None:
        """Listen, then announce. Raises ListenFailed, and what announcing raises; then it listens no more.

        Before it listens operators' overrides are known; raises PolicyError if they cannot be enforced.
        """
        if self._stopped:
            raise RuntimeError("the server has stopped and starts no more: make another")
        if self._server is not None:
            return
        if self._overrides is not None:
            await self._overrides.enforce(self._guard)
        largest = self._guard.largest_message
        server = self._new_core(server_options(self._schedule, self._options, largest_message=largest))
        self._guard.opened(largest)
        self._address = self._bind(server)
        self._server = server
        await self._start_core()
        if self._announce is not None and self.contracts:
            try:
                self._announcement = await self._announce(self._address, self.contracts)
            except BaseException:
                await self.stop(0)
                raise
        _log.info("%s listens on %s", self._service_name, self._address)

    async def serve(self) -> None:
        """Start, wait until the process is told to stop, drain."""
        await self.start()
        try:
            await self._stopping.wait()
        finally:
            await self.stop()

    async def stop(self, grace: float | None = None) -> None:
        """Announce draining, take calls until callers know, finish those in flight, leave.

        All within `grace` seconds, `drain_seconds` if None. What still runs shortly before their end is ended
        with UNAVAILABLE, reason DRAINING; what does not heed that is cut off.
        A second call waits for the first; if that was cancelled, it does what is left to do.
        """
        async with self._ending:
            if self._stopped:
                return
            self._health.close()
            if self._server is not None:
                await self._leave(self._drain_seconds if grace is None else grace)
            self._stopped = True

    async def wait_for_termination(self, timeout: float | None = None) -> bool:  # noqa: ASYNC109 - core's name
        """Wait until the server has stopped, at most `timeout` seconds; whether that was too short."""
        return self._server is not None and bool(await self._server.wait_for_termination(timeout))

    def add_insecure_port(self, address: str) -> int:
        """Raises ListenFailed: there is no port without TLS."""
        raise ListenFailed(f"no plaintext here: {address}; a server of the mesh listens by itself, with TLS")

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        """Raises ListenFailed: the one port is opened by `start`, with the mesh's credentials."""
        raise ListenFailed(f"no further port: {address}; a server of the mesh listens by itself")

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def _report_health(self) -> None:
        self._health.withdraw(bool(self._guard.closed) or self._guard.overload.stuck)

    # What differs on a threaded server.

    def _new_health(self) -> health.Statuses:
        return health.Health()

    def _new_guard(self, trust: Watch[Trust], **more: Any) -> Guard:
        return Guard(trust, **more)

    def _new_core(self, options: Sequence[Option]) -> Any:
        return guarded_server(self._guard, options)

    async def _start_core(self) -> None:
        await self._server.start()

    async def _stop_core(self, grace: float) -> None:
        await self._server.stop(grace)

    def _reflection(self, informs: reflection.Reflection) -> Handlers:
        return informs.handlers()

    async def _leave(self, grace: float) -> None:
        ends_at = time.monotonic() + grace
        if self._announcement is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    if await self._announcement.withdraw():
                        await asyncio.sleep(LINGER_S)
        left = max(0.0, ends_at - time.monotonic())
        clearing = asyncio.get_running_loop().call_later(left - min(CLEARED_S, left / 4), self._guard.clear)
        try:
            await self._stop_core(left)
        finally:
            clearing.cancel()
        if self._announcement is not None:
            await self._announcement.end()

    def _bind(self, server: Any) -> str:
        secure = anonymous_server_credentials if self._anonymous else server_credentials
        try:
            port = server.add_secure_port(self._listen, secure(self._credentials))
        except RuntimeError as error:
            raise ListenFailed(
                f"cannot listen on {self._listen}: taken by another process, or no address of this machine; "
                "choose another (HAUBERK_LISTEN)"
            ) from error
        return f"{self._listen.rpartition(':')[0]}:{port}"

    def _add_builtin(self) -> None:
        servicer: Any = self._health
        health_pb2_grpc.add_HealthServicer_to_server(servicer, self)
        informs = self._reflection(reflection.Reflection(lambda: self._offered))
        for service in builtin.REFLECTION:
            self.add(service, informs, builtin.POLICIES[service])
