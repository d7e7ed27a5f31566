"""An authority, servers and channels of the face over real mutual TLS; no control plane."""

from collections.abc import Callable
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc

from hauberk.certs.authority import Authority
from hauberk.certs.credentials import Credentials
from hauberk.certs.identity import SpiffeId
from hauberk.certs.rotation import Schedule
from hauberk.certs.watch import Watch
from hauberk.direct import DirectChannel
from hauberk.hints import Hints
from hauberk.interceptors.outbound import guarded
from hauberk.interceptors.peer import Trust
from hauberk.interceptors.policy import Policy, callers
from hauberk.server import MeshServer

TRUST_DOMAIN = "mesh.test"
SERVICE = "lab.v1.Lab"
HOUR = timedelta(hours=1)


class Lab:
    """A service of raw bytes; `ran` counts the times that any of its methods ran."""

    def __init__(self) -> None:
        self.ran = 0

    async def echo(self, request: bytes, context: Any) -> bytes:
        self.ran += 1
        return request

    def handlers(self) -> dict[str, Any]:
        return {"Echo": grpc.unary_unary_rpc_method_handler(self.echo)}


def policy(name: str, who: str = "*", **more: Any) -> Policy:
    return Policy(method=f"/{SERVICE}/{name}", callers=callers(who), **more)


class Town:
    """One trust domain. What it opens it closes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority.create(
            folder / "ca", TRUST_DOMAIN, now=datetime.now(UTC) - timedelta(days=1)
        )
        self.trust = Watch(Trust(self.authority.bundle))
        self.lab = Lab()
        self._open = AsyncExitStack()

    def credentials(
        self, name: str, *, lifetime: timedelta = HOUR, ago: timedelta = timedelta(0)
    ) -> Credentials:
        """Credentials of `name`, made some time ago."""
        spiffe_id = SpiffeId.of(TRUST_DOMAIN, name)
        svid = self.authority.issue(spiffe_id, lifetime=lifetime, now=datetime.now(UTC) - ago)
        return Credentials(svid, self.authority.bundle)

    def server(
        self, name: str = "server", *, kind: type[MeshServer] = MeshServer, **options: Any
    ) -> MeshServer:
        """A server that has not started and offers nothing yet. Stopped with the town."""
        credentials = options.pop("credentials", None) or Watch(self.credentials(name))
        made = kind(
            **{
                "credentials": credentials,
                "trust": self.trust,
                "schedule": Schedule.of(3600),
                "listen": "127.0.0.1:0",
                "service_name": name,
                **options,
            }
        )
        self._open.push_async_callback(made.stop, 0)
        return made

    async def serve(self, name: str = "server", **options: Any) -> str:
        """The address of a server of `lab`."""
        server = self.server(name, **options)
        server.add(SERVICE, self.lab.handlers(), {"Echo": policy("Echo")})
        await server.start()
        return server.address

    def channel(
        self,
        target: str,
        credentials: Credentials | Watch[Credentials] | None = None,
        *,
        server: str = "server",
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> grpc.aio.Channel:
        """A guarded direct channel, as `gateway` unless other credentials are given."""
        given = credentials or self.credentials("gateway")
        watch = given if isinstance(given, Watch) else Watch(given)
        expected = SpiffeId.of(TRUST_DOMAIN, server)
        channel = DirectChannel(target, expected, watch, drain_s=5)
        self._open.push_async_callback(channel.close)
        hints = Hints(credentials=watch, target=target, server=expected, now=now)
        return guarded(channel, explain=hints.explain)

    async def close(self) -> None:
        await self._open.aclose()


async def echo(channel: grpc.aio.Channel, request: bytes = b"hello", within: float = 10) -> bytes:
    call: Any = channel.unary_unary(f"/{SERVICE}/Echo")
    reply: bytes = await call(request, timeout=within)
    return reply


async def refused(channel: grpc.aio.Channel, within: float = 10) -> grpc.aio.AioRpcError:
    """The error of a call that must not succeed."""
    try:
        reply = await echo(channel, within=within)
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError(f"answered: {reply!r}")
