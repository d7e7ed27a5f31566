"""A process that has joined the mesh: makes servers and channels, and leaves nothing behind.

async def main() -> None:
    async with hauberk.join() as mesh:
        server = mesh.server()
        add_OrdersServicer_to_server(Orders(CatalogStub(mesh.channel)), server)
        await server.serve()

hauberk.run(main)
"""

import asyncio
import logging
import os
from collections.abc import Coroutine, Sequence
from contextvars import Context, ContextVar
from typing import Any, TypeVar

import grpc

from hauberk.announce import RegistryAnnouncement, advertised, offer
from hauberk.blocking_channel import BlockingConnection, blocking_xds_channel
from hauberk.bootstrap import TARGET, bootstrap
from hauberk.certs.credentials import Credentials
from hauberk.certs.identity import SpiffeId
from hauberk.certs.rotation import Schedule
from hauberk.certs.watch import Watch
from hauberk.channel import MeshChannel, xds_channel
from hauberk.direct import DirectChannel
from hauberk.errors import JoinedBeforeFork, MembershipEnded
from hauberk.hints import Hints
from hauberk.interceptors.errors import ServerRevoked, rpc_error
from hauberk.interceptors.outbound import guarded
from hauberk.interceptors.outbound_blocking import BlockingChannel
from hauberk.interceptors.peer import Trust
from hauberk.memory import Memory, default_limit
from hauberk.overriding import OverrideKeeper
from hauberk.recording import Recording
from hauberk.server import Announcement, MeshServer
from hauberk.settings import Settings
from hauberk.tenure import Tenure
from hauberk.threaded import WORKERS, ThreadedServer
from hauberk.token_issuers import Believed, KeyKeepers
from hauberk.withdrawal import OpenStreams

_log = logging.getLogger(__name__)

stopping: ContextVar[asyncio.Event | None] = ContextVar("hauberk_stopping", default=None)
"""Set by `run`: the event that a signal sets, for the meshes joined under it."""

_Server = TypeVar("_Server", bound=MeshServer)


class Mesh:
    """What a member of the mesh has. Made by `join`, good until its block is left."""

    def __init__(
        self, settings: Settings, tenure: Tenure, tasks: asyncio.TaskGroup, believed: Believed | None
    ) -> None:
        self.settings = settings
        self.stopping = stopping.get() or asyncio.Event()
        """Set when the process should end: by SIGTERM under `hauberk.run`, or when its membership ended."""
        self._tenure = tenure
        self._tasks = tasks
        self._running: set[asyncio.Task[None]] = set()
        self._pid = os.getpid()
        self._servers: list[MeshServer] = []
        self._streams = OpenStreams()
        self._xds = MeshChannel(
            self._dial, drain_s=self._drain_s, check=self._check_pid, streaming=self._streams.enter
        )
        self._blocking = BlockingConnection(self._dial_blocking, drain_s=self._drain_s, check=self._check_pid)
        self._direct: list[DirectChannel] = []
        self._channel: grpc.aio.Channel | None = None
        self._memory = Memory(settings.memory_limit or default_limit())
        self._keys = KeyKeepers(believed, str(self.id)) if believed else None
        self._recording = Recording.of(settings, str(self.id))
        self._overrides: OverrideKeeper | None = None

    @property
    def id(self) -> SpiffeId:
        """Our own SPIFFE ID."""
        return self.credentials.value.svid.spiffe_id

    @property
    def credentials(self) -> Watch[Credentials]:
        return self._tenure.credentials

    @property
    def trust(self) -> Watch[Trust]:
        return self._tenure.trust

    @property
    def schedule(self) -> Schedule:
        return self._tenure.schedule

    @property
    def control(self) -> grpc.aio.Channel:
        """A channel to the control plane itself, for its Admin service."""
        return self._tenure.calls

    @property
    def channel(self) -> grpc.aio.Channel:
        """The channel to every contract of the mesh that we may call."""
        if self._channel is None:
            self._channel = self._to(None)
        return self._channel

    def channel_to(self, name: str) -> grpc.aio.Channel:
        """The same, for contracts that several workloads offer (health, reflection): calls go to `name`."""
        return self._to(SpiffeId.of(self.id.trust_domain, name).name)

    def blocking_channel(self, to: str | None = None) -> grpc.Channel:
        """The channel of code in threads to every contract that we may call; or to the workload `to`."""
        self._check_pid()
        name = None if to is None else SpiffeId.of(self.id.trust_domain, to).name
        hints = Hints(credentials=self.credentials, clock=self._tenure.clock)
        return BlockingChannel(
            self._blocking.current,
            hints.explain,
            name,
            self._streams.enter,
            trace_ratio=self.settings.trace_ratio,
            telemetry=self._recording.telemetry,
            target=TARGET,
        )

    def direct_channel(self, name: str, target: str) -> grpc.aio.Channel:
        """A channel to the workload `name` at host:port, past the control plane's routes.

        Refused in the handshake if somebody else is there.
        """
        self._check_pid()
        server = SpiffeId.of(self.id.trust_domain, name)
        channel = DirectChannel(
            target,
            server,
            self.credentials,
            drain_s=self._drain_s,
            check=lambda: self._check_callable(server),
        )
        self._direct.append(channel)
        self._start(channel.keep())
        hints = Hints(credentials=self.credentials, target=target, server=server, clock=self._tenure.clock)
        return guarded(
            channel,
            explain=hints.explain,
            trace_ratio=self.settings.trace_ratio,
            telemetry=self._recording.telemetry,
            target=f"dns:///{target}",
        )

    def server(self, **options: Any) -> MeshServer:
        """A server with our identity, announced once it has started; `options` go to MeshServer."""
        return self._serving(MeshServer, options)

    def threaded_server(self, *, workers: int = WORKERS, **options: Any) -> ThreadedServer:
        """The same for methods that are plain functions: `workers` of them run at a time, in threads."""
        return self._serving(ThreadedServer, {"workers": workers, **options})

    def _serving(self, kind: type[_Server], options: dict[str, Any]) -> _Server:
        self._check_pid()
        if self._overrides is None:
            self._overrides = OverrideKeeper(
                self._tenure.calls,
                replica=self.settings.replica,
                folder=self.settings.state_dir,
                may_write=self._tenure.writes,
            )
            self._start(self._overrides.keep())
        made = kind(
            **{
                "credentials": self.credentials,
                "trust": self.trust,
                "schedule": self.schedule,
                "listen": self.settings.listen,
                "service_name": str(self.id),
                "trace_ratio": self.settings.trace_ratio,
                **self._recording.for_servers,
                "announce": self._announce,
                "tokens": self._keys.tokens if self._keys else None,
                "stopping": self.stopping,
                "drain_seconds": self.settings.drain_seconds,
                "overrides": self._overrides,
                **options,
            }
        )
        made.refuse_all(self._tenure.unfit.value)
        made.refuse_for_memory(self._memory.short.value)
        self._servers.append(made)
        return made

    async def _announce(self, address: str, contracts: Sequence[str]) -> Announcement:
        if self._keys is not None:
            await self._keys.tried()
        address = await asyncio.to_thread(advertised, address, self.settings.advertise)
        offered = offer(address, contracts, self.settings.replica)
        announcement = RegistryAnnouncement(self._tenure.control, self._tenure.calls, offered)
        self._start(announcement.run())
        try:
            await announcement.established()
        except BaseException:
            await announcement.end()
            raise
        return announcement

    def _to(self, name: str | None) -> grpc.aio.Channel:
        self._check_pid()
        hints = Hints(credentials=self.credentials, clock=self._tenure.clock)
        return guarded(
            self._xds,
            explain=hints.explain,
            to=name,
            trace_ratio=self.settings.trace_ratio,
            telemetry=self._recording.telemetry,
            target=TARGET,
        )

    def _dial(self) -> grpc.aio.Channel:
        return xds_channel(self._bootstrap(), self.credentials.value)

    def _dial_blocking(self) -> grpc.Channel:
        return blocking_xds_channel(self._bootstrap(), self.credentials.value)

    def _bootstrap(self) -> str:
        return bootstrap(
            control_targets=self._tenure.membership.control_targets,
            node_id=f"{self.id}#{self.settings.replica}",
            spiffe_id=self.id,
            store=self._tenure.store,
            schedule=self.schedule,
        )

    @property
    def _drain_s(self) -> float:
        """How long calls may outlive their connection's certificate."""
        return 1.1 * self.schedule.max_connection_age + self.schedule.grace

    def _check_pid(self) -> None:
        if os.getpid() != self._pid:
            raise JoinedBeforeFork(
                f"this process was forked from {self._pid}, which had joined the mesh: join after the fork, "
                "in the server's post-fork hook (gunicorn post_fork, uwsgi postfork, multiprocessing: spawn)"
            )

    def _check_callable(self, server: SpiffeId) -> None:
        self._check_pid()
        if str(server) in self.trust.value.revoked:
            raise rpc_error(ServerRevoked(f"{server} was revoked: it is called no more"))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        """Run `work` for as long as we are a member, and for none of the calls this may be done in."""
        task = self._tasks.create_task(work, context=Context())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    def _begin(self) -> None:
        self._start(self._tenure.keep())
        self._start(self._follow_fitness())
        self._start(self._memory.keep())
        self._start(self._follow_memory())
        self._start(self._follow_end())
        self._start(self._follow_revocations())
        self._start(self._xds.keep(self._tenure.found_again))
        self._start(self._blocking.keep(self._tenure.found_again))
        if self._keys is not None:
            self._start(self._keys.keep())

    async def _follow_fitness(self) -> None:
        async for why in self._tenure.unfit.changes():
            for server in self._servers:
                server.refuse_all(why)

    async def _follow_memory(self) -> None:
        async for short in self._memory.short.changes():
            for server in self._servers:
                server.refuse_for_memory(short)

    async def _follow_end(self) -> None:
        async for ended in self._tenure.ended.changes():
            if ended is not None:
                self.stopping.set()

    async def _follow_revocations(self) -> None:
        """End our own calls to whom the mesh refuses."""
        known = self.trust.value
        async for trust in self.trust.changes():
            for contract in trust.withdrawn - known.withdrawn:
                if ended := self._streams.end(contract):
                    _log.warning("%d calls of %s ended: who served it was revoked", ended, contract)
            for channel in self._direct:
                if str(channel.server) in trust.revoked - known.revoked:
                    await channel.cut()
            known = trust

    async def _leave(self) -> MembershipEnded | None:
        """Stop what runs, close what is open; why the membership had ended, if it had."""
        try:
            await asyncio.gather(*(server.stop() for server in self._servers))
        except BaseException:  # whoever ends us has lost patience with the calls in flight
            await asyncio.gather(*(server.stop(0) for server in self._servers))
            raise
        finally:
            for task in tuple(self._running):
                task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        await self._xds.end()
        await self._blocking.end()
        for channel in self._direct:
            await channel.close()
        await asyncio.to_thread(self._recording.close)
        await self._tenure.close()
        return self._tenure.ended.value
