"""The control plane put together: what it serves, what runs beside it, and the order in which it leaves."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from datetime import datetime

from hauberk.certs.clock import LOOK_S, SetClock, tell_of_clock, utc_now
from hauberk.certs.errors import CertsError, SvidExpired, SvidNotYetValid
from hauberk.certs.rotation import RenewalFailed, Rotated, keep_fresh
from hauberk.interceptors.errors import PolicyError
from hauberk.interceptors.in_flight import PER_PEER
from hauberk.interceptors.overrides import Overrides
from hauberk.memory import Memory, default_limit
from hauberk.options import Option
from hauberk.protos.hauberk.control.v1 import (
    admin_pb2_grpc,
    enrolment_pb2_grpc,
    overrides_pb2_grpc,
    registry_pb2_grpc,
)
from hauberk.recording import Recording
from hauberk.server import MeshServer
from hauberk.services.control import addresses, ads
from hauberk.services.control.addresses import Ports
from hauberk.services.control.admin import Admin
from hauberk.services.control.attempts import FailedAttempts
from hauberk.services.control.enrolment import Enrolment, Identity
from hauberk.services.control.issuer import Issuer
from hauberk.services.control.opening import Opened, open_state
from hauberk.services.control.override_store import OverrideStore
from hauberk.services.control.overriding import Overriding
from hauberk.services.control.publish import Publisher
from hauberk.services.control.registry import Registry
from hauberk.services.control.root_roll import Audience, RootRoll
from hauberk.services.control.roster import Roster
from hauberk.services.control.roster_store import RosterStore
from hauberk.services.control.settings import ConfigError, ControlSettings, Listen
from hauberk.services.control.snapshot import Snapshot
from hauberk.services.control.trust import TrustSource
from hauberk.services.sparing import Sparing

STREAMS_PER_PEER = 2000
"""Replicas of one workload share an identity, and each keeps four streams open."""
LEAVE_S = 2.0
DOUBTED_S = 300.0
"""How long after our clock was set we take it, and not the replicas, for the reason why they cannot come."""

# A dead replica is noticed by its silence: a ping a second, answered within another. (ping_timeout bounds
# the wait for the answer, a minute by default; keepalive_timeout alone changes nothing.)
MESH_OPTIONS: tuple[Option, ...] = (
    ("grpc.keepalive_time_ms", 1_000),
    ("grpc.keepalive_timeout_ms", 1_000),
    ("grpc.http2.ping_timeout_ms", 1_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_allowed_incoming_connections", 10_000),
)

_log = logging.getLogger(__name__)
_log.addFilter(Sparing())


@asynccontextmanager
async def control_plane(
    settings: ControlSettings, *, clock: Callable[[], datetime] = utc_now
) -> AsyncIterator["ControlPlane"]:
    """A control plane that listens until the block is left. Never makes a CA.

    Raises ConfigError, StartRefused or ListenFailed.
    """
    with ExitStack() as stack:
        opened = await asyncio.to_thread(open_state, settings, stack, clock())
        plane = ControlPlane(settings, opened, clock)  # reads the store, before there is anybody to hold up
        try:
            await plane.listen()
            yield plane
        finally:
            await plane.leave()


class ControlPlane:
    """One control plane. `keep` is what must run beside it."""

    def __init__(self, settings: ControlSettings, opened: Opened, clock: Callable[[], datetime]) -> None:
        """Reads the store before anybody can be answered from it. Raises ConfigError for a name of ours."""
        self._settings = settings
        self._clock = clock
        self._folder = settings.state / "control"
        self.store = opened.store
        revoked = self.store.revoked()
        try:
            self.source = TrustSource(
                opened.authority,
                revoked=revoked,
                lifetime=settings.svid_lifetime,
                dns_names=settings.dns_names,
                ip_addresses=settings.ip_addresses,
                clock=clock,
            )
        except CertsError as error:
            raise ConfigError(f"[control]: the control plane cannot be named so: {error}") from error
        self._override_store = OverrideStore(self.store.engine)
        self.overriding = Overriding(_kept(self._override_store), lambda: self.roster.bindings)
        self.publisher = Publisher(Snapshot.of(settings.trust_domain, (), revoked))
        self._roster_store = RosterStore(self.store.engine)
        self.roster = Roster(
            self.publisher,
            bindings=self.store.bindings(),
            revoked=revoked,
            restored=self._roster_store.load(),
            grace_s=self._grace_s,
            missed_s=settings.svid_lifetime.total_seconds(),
            clock=asyncio.get_running_loop(),
            over=self.overriding.over,
        )
        self._set_clock = SetClock(clock)
        self._discovery = ads.Ads(self.publisher.snapshots, self.source.authority.control_id)
        self._recording = Recording(
            str(self.source.authority.control_id),
            access_log=settings.access_log,
            audit_dir=settings.audit_dir or self._folder / "audit",
            metrics_listen=settings.metrics_listen,
        )
        ports = addresses.last_ports(self._folder)
        self.mesh = self._mesh_server(ports)
        self.enrolment = self._enrolment_server(ports)
        self._memory = Memory(default_limit())

    @property
    def target(self) -> str:
        """host:port at which workloads dial us."""
        return self._settings.target(self._settings.listen, _port(self.mesh))

    async def listen(self) -> None:
        """Listen on both ports, then tell where. Raises ListenFailed."""
        await self.mesh.start()
        await self.enrolment.start()
        enrolment = self._settings.target(self._settings.enrolment_listen, _port(self.enrolment))
        await asyncio.to_thread(addresses.publish, self._folder, mesh=self.target, enrolment=enrolment)

    async def keep(self) -> None:
        """Keep our own SVID fresh and the roster saved. Runs until cancelled.

        Raises SvidExpired (in a group) when our SVID could not be renewed: then we must stop serving.
        """
        async with asyncio.TaskGroup() as loops:
            loops.create_task(self._keep_identity())
            loops.create_task(self._keep_clock())
            loops.create_task(self._roster_store.keep_saved(self.roster.state))
            loops.create_task(self._mind_memory())

    async def _keep_identity(self) -> None:
        """Who signs its own SVIDs makes another when a clock that was set has taken the last one away."""
        while True:
            try:
                await keep_fresh(
                    self.source.credentials, self.source.renew, clock=self._clock, on_event=_tell
                )
            except (SvidExpired, SvidNotYetValid) as error:
                self._look_at_clock()
                try:
                    self.source.credentials.set(await self.source.renew())
                except CertsError as refused:
                    if not self._set_clock.ahead:
                        raise error from refused
                    _log.error("our own svid cannot be made anew: %s: %s", self._set_clock, refused)
                    await asyncio.sleep(LOOK_S)
                else:
                    _log.warning("our own svid was made anew: %s", error)

    async def _keep_clock(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self._look_at_clock()

    def _look_at_clock(self) -> None:
        if self._set_clock.look():
            tell_of_clock(_log, self._set_clock)
            if self._set_clock.ahead:
                _log.error(
                    "what is signed from now on has its dates by this clock; to others it is of no use"
                )

    def _grace_s(self) -> float:
        """How long a replica outlives its stream: longer where we may be why it cannot open another."""
        since_set = self._set_clock.since_set()
        if since_set is not None and since_set < DOUBTED_S:
            return DOUBTED_S
        return self._settings.schedule.announcement_grace

    async def leave(self) -> None:
        """End every stream with UNAVAILABLE, finish the calls in flight, save what is announced."""
        self.mesh.end_streams()
        self.roster.close()
        await asyncio.gather(self.mesh.stop(LEAVE_S), self.enrolment.stop(LEAVE_S))
        await asyncio.to_thread(self._recording.close)
        await self._roster_store.save_last(self.roster.state.value)
        await asyncio.to_thread(addresses.withdraw, self._folder)

    async def _mind_memory(self) -> None:
        def follow(short: bool) -> None:
            for server in (self.mesh, self.enrolment):
                server.refuse_for_memory(short)

        unsubscribe = self._memory.short.subscribe(follow)
        try:
            await self._memory.keep()
        finally:
            unsubscribe()

    def _mesh_server(self, ports: Ports) -> MeshServer:
        """Identity, Registry, Admin and xDS, for callers with a certificate."""
        listen = addresses.same_again(self._settings.listen, ports.mesh)
        server = self._server(listen, MESH_OPTIONS, in_flight_per_peer=STREAMS_PER_PEER)
        audience = Audience()
        identity = Identity(self.store, self._issuer(), self.source, audience)
        registry = Registry(self.roster, self.publisher.snapshots)
        root_roll = RootRoll(
            self.store,
            self.source,
            self.roster,
            audience,
            watcher_refresh=self._settings.schedule.watcher_refresh,
            clock=self._clock,
        )
        admin = Admin(
            self.store,
            self.source,
            self.roster,
            self._discovery,
            root_roll,
            self.overriding,
            self._override_store,
            svid_lifetime=self._settings.svid_lifetime,
            clock=self._clock,
            set_clock=self._set_clock,
        )
        enrolment_pb2_grpc.add_IdentityServicer_to_server(identity, server)
        registry_pb2_grpc.add_RegistryServicer_to_server(registry, server)
        overrides_pb2_grpc.add_OverridesServicer_to_server(self.overriding, server)
        admin_pb2_grpc.add_AdminServicer_to_server(admin, server)
        server.add(ads.SERVICE, self._discovery.handlers(), ads.POLICIES)
        return server

    def _enrolment_server(self, ports: Ports) -> MeshServer:
        """Enrolment alone, for callers that have no certificate yet."""
        listen = addresses.same_again(self._settings.enrolment_listen, ports.enrolment)
        server = self._server(listen, (), anonymous=True)
        enrolment = Enrolment(
            self.store,
            self._issuer(),
            self.source,
            control_targets=lambda: (self.target,),
            attempts=FailedAttempts(),
            clock=self._clock,
        )
        enrolment_pb2_grpc.add_EnrolmentServicer_to_server(enrolment, server)
        return server

    def _issuer(self) -> Issuer:
        return Issuer(self.source.authority, lifetime=self._settings.svid_lifetime, clock=self._clock)

    def _server(
        self,
        listen: Listen,
        options: tuple[Option, ...],
        *,
        anonymous: bool = False,
        in_flight_per_peer: int = PER_PEER,
    ) -> MeshServer:
        return MeshServer(
            credentials=self.source.credentials,
            trust=self.source.trust,
            schedule=self._settings.schedule,
            listen=str(listen),
            service_name=str(self.source.authority.control_id),
            records=self._recording.records,
            audit=self._recording.audit,
            anonymous=anonymous,
            options=options,
            in_flight_per_peer=in_flight_per_peer,
        )


def _kept(store: OverrideStore) -> Overrides:
    """What operators override. Raises ConfigError where this build cannot tell."""
    try:
        return store.load()
    except PolicyError as error:
        raise ConfigError(f"the store: {error}: start the build that wrote it") from error


def _port(server: MeshServer) -> int:
    return int(server.address.rpartition(":")[2])


def _tell(event: Rotated | RenewalFailed) -> None:
    match event:
        case Rotated(svid=svid):
            _log.info("our own svid was replaced, the new one ends at %s", svid.expires_at.isoformat())
        case RenewalFailed(error=error, retry_in=retry_in, left=left):
            _log.error(
                "our own svid could not be replaced: %s; next try in %.0f s, it lives for %.0f s",
                error,
                retry_in.total_seconds(),
                left.total_seconds(),
            )
