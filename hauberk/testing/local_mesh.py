"""A mesh in one process: servers as they are, callers of any name, and no control plane."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import grpc

from hauberk.certs.rotation import Schedule
from hauberk.certs.watch import Watch
from hauberk.direct import PickedChannel
from hauberk.interceptors.audit import AuditLog
from hauberk.interceptors.outbound import guarded
from hauberk.interceptors.outbound_blocking import BlockingChannel
from hauberk.interceptors.peer import Trust
from hauberk.interceptors.quota import Quotas
from hauberk.interceptors.records import Records
from hauberk.server import MeshServer
from hauberk.testing.call_log import CallLog, Lines
from hauberk.testing.clock import Clock
from hauberk.testing.identities import LIFETIME, Identities
from hauberk.testing.local_server import adders, new_server
from hauberk.testing.login import Login
from hauberk.testing.loop_thread import LoopThread
from hauberk.testing.routes import Bearing, Routes, Served

TRUST_DOMAIN = "mesh.test"


class LocalMesh:
    """Leave its block when done: `with LocalMesh() as mesh`; the fixture `hauberk_mesh` does.

    Every call is refused that the contract does not let in, as in the real mesh: a method without a policy
    keeps its server from starting.
    """

    def __init__(self, trust_domain: str = TRUST_DOMAIN) -> None:
        self.clock = Clock()
        """What tokens and quotas go by."""
        self.log = CallLog()
        """The calls that were served."""
        self._identities = Identities(trust_domain)
        self._trust = Watch(Trust(self._identities.bundle))
        self._login = Login(trust_domain, self.clock)
        self._routes = Routes(self._identities)
        self._loop = LoopThread()
        self._folder = tempfile.TemporaryDirectory(prefix="hauberk-test-")

    def channel(self, caller: str, *, token: str | None = None) -> grpc.aio.Channel:
        """To every contract that is being served, as the workload `caller`; its calls bring `token`.

        What a service of yours takes for `mesh.channel`: calls made in one being served inherit from it.
        A contract that nobody serves is UNAVAILABLE.
        """
        picked = guarded(
            PickedChannel(lambda: cast(grpc.aio.Channel, self._routes.of(caller, blocking=False)))
        )
        return picked if token is None else cast(grpc.aio.Channel, Bearing(picked, token))

    def blocking_channel(self, caller: str, *, token: str | None = None) -> grpc.Channel:
        """The same for code in threads, and tests that are not asyncio."""
        picked = BlockingChannel(lambda: cast(grpc.Channel, self._routes.of(caller, blocking=True)))
        return picked if token is None else cast(grpc.Channel, Bearing(picked, token))

    def token(
        self,
        subject: str,
        *,
        caller: str | None = None,
        roles: Iterable[str] = (),
        scopes: Iterable[str] = (),
        lifetime_s: float = 600,
        **claims: Any,
    ) -> str:
        """An access token for `subject` that every server here believes, until `clock` has passed its end.

        `caller`: bound to that workload's certificate, as contracts demand that do not say `bound: false`.
        `claims` are further ones, or others in place of the usual (iss, aud, sub, jti, iat, exp, cnf).
        """
        return self._login.token(
            subject,
            lifetime_s=lifetime_s,
            thumbprint=None if caller is None else self._identities.thumbprint(caller),
            claims={"roles": list(roles), "scope": " ".join(scopes), **claims},
        )

    @asynccontextmanager
    async def serving(self, *servicers: object, name: str, **options: Any) -> AsyncIterator[MeshServer]:
        """Serve these, as the workload `name`, for the length of an `async with` block.

        Servicers are of generated classes; their methods coroutines, or plain functions, which then run in
        threads. `options` are MeshServer's. Raises PolicyError for a contract that cannot be enforced.
        """
        service_name = str(self._identities.of(name).svid.spiffe_id)
        audit = AuditLog(Path(self._folder.name) / name, service_name)
        records = Records([Lines(self.log, service_name)], every_s=0.01)
        server = new_server(
            servicers,
            quotas=Quotas(clock=self.clock),
            credentials=Watch(self._identities.of(name)),
            trust=self._trust,
            schedule=Schedule.of(LIFETIME.total_seconds()),
            listen="127.0.0.1:0",
            service_name=service_name,
            records=records,
            audit=audit,
            tokens=self._login.tokens,
            **options,
        )
        served = Served(name, server)
        try:
            for servicer in servicers:
                for add in adders(servicer):
                    add(servicer, server)
            await server.start()
            self._routes.add(served)
            yield server
        finally:
            self._routes.remove(served)
            await served.close()
            await server.stop(0)
            await asyncio.to_thread(records.close)
            audit.close()

    @contextmanager
    def serving_blocking(self, *servicers: object, name: str, **options: Any) -> Iterator[MeshServer]:
        """The same for a `with` block, in an event loop of another thread."""
        serving = self.serving(*servicers, name=name, **options)
        server = self._loop.run(serving.__aenter__())
        try:
            yield server
        finally:
            self._loop.run(serving.__aexit__(None, None, None))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.close()
        with contextlib.suppress(OSError):
            self._folder.cleanup()
