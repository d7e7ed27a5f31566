"""Connected xDS streams, one endpoint changes: how long until the last subscriber has heard of it.

Its processes share this machine's cores, so what they measure is an upper bound.
"""

import asyncio
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import grpc

from hauberk.certs.authority import Authority
from hauberk.certs.credentials import Credentials, server_credentials
from hauberk.certs.identity import SpiffeId
from hauberk.certs.watch import Watch
from hauberk.interceptors.inbound import Guard
from hauberk.interceptors.peer import Trust
from hauberk.interceptors.policy import Policy, callers
from hauberk.interceptors.serving import guarded_server
from hauberk.protos.third_party.envoy.config.core.v3.base_pb2 import Node
from hauberk.protos.third_party.envoy.service.discovery.v3.discovery_pb2 import (
    DiscoveryRequest,
    DiscoveryResponse,
)
from hauberk.services.control import ads
from hauberk.services.control.publish import Publisher
from hauberk.services.control.snapshot import Contract, Replica, Snapshot, Status, Workload
from hauberk.services.control.xds.resource import NAME, ResourceType

TRUST_DOMAIN = "bench.test"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
ADS_TARGET_MS = 500.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One line of the table; milliseconds."""

    what: str
    median_ms: float
    worst_ms: float
    target_ms: float | None = None

    @classmethod
    def of(cls, what: str, seconds: list[float], target_ms: float | None = None) -> "Measure":
        return cls(
            what=what,
            median_ms=round(statistics.median(seconds) * 1000, 1),
            worst_ms=round(max(seconds) * 1000, 1),
            target_ms=target_ms,
        )

    @property
    def missed(self) -> bool:
        return self.target_ms is not None and self.worst_ms >= self.target_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How large a mesh the ads benchmark makes."""

    streams: int
    rounds: int
    workloads: int
    replicas: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the client process needs to connect; picklable."""

    address: str
    roots: bytes
    key: bytes
    chain: bytes
    names: tuple[str, ...]


SIZE = Size(streams=200, rounds=20, workloads=100, replicas=5)


async def ads_benchmark(size: Size) -> tuple[str, list[Measure]]:
    """A control plane here, its clients in a process of their own, each on its own mTLS connection."""
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    publisher = Publisher(mesh(size, moved=0))
    async with control_plane(publisher.snapshots) as target:
        clients = spawn.Process(target=run_clients, args=(theirs, target, size.streams), daemon=True)
        clients.start()
        theirs.close()
        try:
            connected = await asyncio.to_thread(ours.recv)
            rounds = [await one_change(publisher, ours, size, number) for number in range(1, size.rounds + 1)]
        finally:
            clients.terminate()
            await asyncio.to_thread(clients.join)
    title = (
        f"ads: {size.streams} streams over mTLS, {size.workloads} workloads of {size.replicas} replicas, "
        f"{size.rounds} changes of one endpoint"
    )
    return title, [
        Measure.of("from first to last stream connected", [max(connected) - min(connected)]),
        Measure.of("from change to first subscriber", [min(each) for each in rounds]),
        Measure.of("from change to median subscriber", [statistics.median(each) for each in rounds]),
        Measure.of("from change to last subscriber", [max(each) for each in rounds], ADS_TARGET_MS),
    ]


async def one_change(publisher: Publisher, clients: Connection, size: Size, number: int) -> list[float]:
    """Seconds from a change, as the registry reports it, until each of the streams has it.

    75 ms of it the publisher waits for further changes.
    """
    changed_at = time.monotonic()
    publisher.update(mesh(size, moved=number).workloads.values(), ())
    arrivals: list[float] = await asyncio.to_thread(clients.recv)
    return [arrival - changed_at for arrival in arrivals]


def mesh(size: Size, *, moved: int) -> Snapshot:
    """The same mesh each time, but for the first workload's first port, which is made of `moved`."""
    return Snapshot.of(TRUST_DOMAIN, (workload(size, number, moved) for number in range(size.workloads)))


def workload(size: Size, number: int, moved: int) -> Workload:
    spiffe_id = SpiffeId.of(TRUST_DOMAIN, f"w{number}")
    service = f"bench.v1.Service{number}"
    policy = Policy(method=f"/{service}/Do", callers=callers("clients/*"))
    replicas = tuple(
        Replica(
            spiffe_id=spiffe_id,
            replica=str(each),
            address=f"10.0.{number}.{each + 1}:{1000 + moved if (number, each) == (0, 0) else 1000}",
            status=Status.SERVING,
            agent="bench",
            svid_expires_at=NOW,
            contracts=(service,),
            policy_versions={service: "1"},
        )
        for each in range(size.replicas)
    )
    contract = Contract(service=service, methods={"Do": policy}, version="1")
    return Workload(spiffe_id=spiffe_id, contracts=(contract,), replicas=replicas)


@asynccontextmanager
async def control_plane(snapshots: Watch[Snapshot]) -> AsyncIterator[Target]:
    """ADS behind the guard, on a free port."""
    now = datetime.now(UTC)
    with tempfile.TemporaryDirectory() as folder:
        authority = Authority.create(Path(folder) / "ca", TRUST_DOMAIN, now=now)
    hour, client_id = timedelta(hours=1), SpiffeId.of(TRUST_DOMAIN, "clients/1")
    own = authority.issue(authority.control_id, lifetime=hour, now=now, ip_addresses=["127.0.0.1"])
    client = authority.issue(client_id, lifetime=hour, now=now)
    trust = Watch(Trust(authority.bundle))
    guard = Guard(trust, trust_domain=TRUST_DOMAIN, in_flight_per_peer=1_000_000)
    service = ads.Ads(snapshots, authority.control_id, streams_per_identity=1_000_000)
    guard.add(ads.SERVICE, service.handlers(), ads.POLICIES)
    server = guarded_server(guard, [("grpc.so_reuseport", 0)])
    credentials = server_credentials(Watch(Credentials(own, authority.bundle)))
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield Target(
            address=f"127.0.0.1:{port}",
            roots=authority.bundle.pem(),
            key=client.key_pem,
            chain=client.chain_pem,
            names=tuple(snapshots.value.workloads)[:20],
        )
    finally:
        await server.stop(1)


def run_clients(pipe: Connection, target: Target, streams: int) -> None:
    """The other process: when each of its streams got endpoints, on connecting and then per change."""
    asyncio.run(follow_all(pipe, target, streams))


async def follow_all(pipe: Connection, target: Target, streams: int) -> None:
    arrivals: asyncio.Queue[float] = asyncio.Queue()
    async with asyncio.TaskGroup() as group:
        for _ in range(streams):
            group.create_task(follow(target, arrivals))
        while True:
            pipe.send([await arrivals.get() for _ in range(streams)])


async def follow(target: Target, arrivals: asyncio.Queue[float]) -> None:
    """One process's worth: a connection of its own, all four types, every response accepted."""
    credentials = grpc.ssl_channel_credentials(target.roots, target.key, target.chain)
    options = (("grpc.use_local_subchannel_pool", 1),)
    async with grpc.aio.secure_channel(target.address, credentials, options) as channel:
        stream: Any = channel.stream_stream(
            f"/{ads.SERVICE}/{ads.METHOD}",
            request_serializer=DiscoveryRequest.SerializeToString,
            response_deserializer=DiscoveryResponse.FromString,
        )()
        for kind in ResourceType:
            await stream.write(ask(kind, target))
        async for response in stream:
            if response.type_url == ResourceType.ENDPOINTS.value:
                arrivals.put_nowait(time.monotonic())
            await stream.write(ask(ResourceType(response.type_url), target, response))


def ask(kind: ResourceType, target: Target, seen: DiscoveryResponse | None = None) -> DiscoveryRequest:
    """A subscription; with `seen`, also the acknowledgement of that response."""
    named = kind in (ResourceType.CLUSTER, ResourceType.ENDPOINTS)
    return DiscoveryRequest(
        node=Node(id="bench"),
        type_url=kind.value,
        resource_names=target.names if named else (NAME,),
        version_info=seen.version_info if seen else "",
        response_nonce=seen.nonce if seen else "",
    )


def table(title: str, measures: list[Measure]) -> str:
    """For people."""
    lines = [title, f"{'':36}{'median':>12}{'worst':>12}{'target':>12}"]
    for each in measures:
        target = "" if each.target_ms is None else f"< {each.target_ms:g} ms"
        missed = "  missed" if each.missed else ""
        lines.append(f"{each.what:36}{each.median_ms:>9.1f} ms{each.worst_ms:>9.1f} ms{target:>12}{missed}")
    return "\n".join(lines)
